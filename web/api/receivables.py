"""`GET /v1/{type}`: records ranked by what they owe in one currency."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from store.db.database import Role, account_transaction
from store.db.enums import RecordType
from store.read_model import balances
from store.read_model.balances import RankingCursor
from web.api import cursors
from web.api.record_paths import RecordReference, RecordTypePath, parse_record_type
from web.auth.api_keys import BEARER_SECURITY, ReadCaller
from web.presentation.currencies import format_amount
from web.presentation.problems import NO_SUCH_RECORD_TYPE, problem_responses
from web.state import web_state

router = APIRouter(prefix="/v1")
Sort = Literal["open", "overdue"]


class ReceivableSchema(BaseModel):
    """What one record owes, in one currency. Amounts are strings with the currency's own number of decimals."""

    record: RecordReference
    name: str
    currency: str = Field(description="'' if the invoices have no currency")
    open: str
    overdue: str
    invoices: int = Field(description="number of unpaid invoices")
    overdue_invoices: int
    credit: str = Field(description="what is left of the record's sales credits; not subtracted from `open`")


class ReceivablePageSchema(BaseModel):
    """Records ranked by what they owe in one currency, highest first."""

    currency: str | None = Field(description="the currency of the ranking; null if nothing is owed")
    currencies: list[str] = Field(description="all currencies in use, the most frequent first")
    records: list[ReceivableSchema]
    next: str | None = Field(description="pass as `after`, with the same currency; null on the last page")


@router.get(
    "/{type}",
    tags=["receivables"],
    response_model=ReceivablePageSchema,
    responses=problem_responses(_404=NO_SUCH_RECORD_TYPE),
    summary="Records by what they owe",
    openapi_extra=BEARER_SECURITY,
)
async def list_receivables(
    request: Request,
    caller: ReadCaller,
    type: RecordTypePath,
    sort: Annotated[Sort, Query(description="rank by the open or by the overdue amount")] = ("overdue"),
    currency: Annotated[str | None, Query(max_length=3, description="sums never mix currencies")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: Annotated[str | None, Query(max_length=100, description="`next` of the previous page")] = None,
) -> ReceivablePageSchema:
    """Leads, people, companies or opportunities by the open or overdue amount of their sales invoices."""
    record_type, cursor = parse_record_type(type), cursors.decode_ranking(after) if after else None
    pages = web_state(request).capacity.pages
    return await pages.run(
        caller.account_id, _read_receivables, caller.account_id, record_type, sort, currency, limit, cursor
    )


def _read_receivables(
    account_id: int, record_type: RecordType, sort: Sort, currency: str | None, limit: int, cursor: RankingCursor | None
) -> ReceivablePageSchema:
    with account_transaction(account_id, Role.READS) as session:
        currencies = balances.list_currencies(session, account_id, record_type)
        if currency is None and currencies:
            currency = currencies[0]
        ranked = balances.rank_records(
            session, account_id, record_type, currency=currency or "", sort=sort, after=cursor, limit=limit + 1
        )
    page = ranked[:limit]
    last = page[-1] if len(ranked) > limit else None
    return ReceivablePageSchema(
        currency=currency,
        currencies=currencies,
        records=[
            ReceivableSchema(
                record=RecordReference(type=record_type.value, id=balance.record_id),
                name=balance.name,
                currency=balance.currency,
                open=format_amount(balance.open, balance.currency),
                overdue=format_amount(balance.overdue, balance.currency),
                invoices=balance.invoices,
                overdue_invoices=balance.overdue_invoices,
                credit=format_amount(balance.credit, balance.currency),
            )
            for balance in page
        ],
        next=cursors.encode_ranking(RankingCursor(getattr(last, sort), last.record_id)) if last else None,
    )
