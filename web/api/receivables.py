"""`GET /v1/{type}`: records ranked by what they owe."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from runtime.numbers import MAX_ID
from store.db.enums import RecordType
from store.db.read_replica import read_transaction
from store.read_model import receivables
from store.read_model.balances import Ageing
from store.read_model.receivables import RankingCursor, Receivable, ReceivablesQuery, Sort
from web.api import cursors
from web.api.record_paths import RecordReference, RecordTypePath, parse_record_type
from web.auth.api_keys import BEARER_SECURITY, ReadCaller
from web.presentation import labels
from web.presentation.currencies import format_amount
from web.presentation.problems import NO_SUCH_RECORD_TYPE, problem_responses
from web.state import web_state

router = APIRouter(prefix="/v1")
MAX_SEARCH_LENGTH = 100


class OwnerSchema(BaseModel):
    """The Copper user whom a record is assigned to; `name` is "User" and the ID if Copper does not list the user."""

    id: int
    name: str


class AgeingSchema(BaseModel):
    """What is owed in one currency, by days overdue. Amounts are strings with the currency's own number of decimals."""

    currency: str = Field(description="'' if the invoices have no currency")
    outstanding: str = Field(description="`not_due` and `overdue` together")
    not_due: str = Field(description="not overdue yet; invoices without a due date are never overdue")
    overdue: str = Field(description="the sum of the four amounts that follow")
    overdue_1_to_30: str = Field(description="overdue by 1 to 30 days, by each organisation's own day")
    overdue_31_to_60: str
    overdue_61_to_90: str
    overdue_over_90: str


class ReceivableSchema(AgeingSchema):
    """What one record owes, in one currency."""

    record: RecordReference
    name: str
    owner: OwnerSchema | None = Field(description="null if the record is assigned to nobody")
    invoices: int = Field(description="number of unpaid invoices")
    overdue_invoices: int
    credit: str = Field(description="what is left of the record's sales credits; not subtracted from `outstanding`")


class ReceivablePageSchema(BaseModel):
    """Records ranked by what they owe, highest first: one entry for each record and currency."""

    currency: str | None = Field(description="the currency that was requested; null for all currencies")
    currencies: list[str] = Field(description="all currencies in use, in alphabetical order")
    records: list[ReceivableSchema]
    next: str | None = Field(description="pass as `after`, with the same other parameters; null on the last page")


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
    sort: Annotated[Sort, Query(description="the amount to rank by; currencies are not converted")] = "overdue",
    currency: Annotated[str | None, Query(max_length=3, description="all currencies unless given")] = None,
    search: Annotated[
        str, Query(max_length=MAX_SEARCH_LENGTH, description="a part of the record's name, in upper or lower case")
    ] = "",
    owner: Annotated[int | None, Query(ge=1, le=MAX_ID, description="the Copper user ID of the records' owner")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: Annotated[
        str | None, Query(max_length=cursors.MAX_RANKING_LENGTH, description="`next` of the previous page")
    ] = None,
) -> ReceivablePageSchema:
    """Leads, people, companies or opportunities by an amount of their sales invoices, with its age in days overdue."""
    record_type, cursor = parse_record_type(type), cursors.decode_ranking(after) if after else None
    query = ReceivablesQuery(record_type, sort, currency, search.strip(), owner)
    pages = web_state(request).capacity.pages
    return await pages.run(caller.account_id, _read_receivables, caller.account_id, query, limit, cursor)


def _read_receivables(
    account_id: int, query: ReceivablesQuery, limit: int, cursor: RankingCursor | None
) -> ReceivablePageSchema:
    with read_transaction(account_id) as session:
        currencies = receivables.list_currencies(session, account_id, query.record_type)
        page = receivables.read_page(session, account_id, query, currencies=currencies, after=cursor, limit=limit)
    return ReceivablePageSchema(
        currency=query.currency,
        currencies=currencies,
        records=[_receivable_schema(receivable, query.record_type) for receivable in page.receivables],
        next=cursors.encode_ranking(page.next) if page.next else None,
    )


def _receivable_schema(receivable: Receivable, record_type: RecordType) -> ReceivableSchema:
    owner_id = receivable.owner_id
    return ReceivableSchema(
        record=RecordReference(type=record_type.value, id=receivable.record_id),
        name=receivable.name,
        owner=OwnerSchema(id=owner_id, name=labels.owner(owner_id, receivable.owner_name)) if owner_id else None,
        invoices=receivable.invoices,
        overdue_invoices=receivable.overdue_invoices,
        credit=format_amount(receivable.credit, receivable.currency),
        **format_ageing(receivable),
    )


def format_ageing(ageing: Ageing) -> dict[str, str]:
    """The fields of an `AgeingSchema`."""
    amounts = {
        "outstanding": ageing.open,
        "not_due": ageing.not_due,
        "overdue": ageing.overdue,
        "overdue_1_to_30": ageing.overdue_1_to_30,
        "overdue_31_to_60": ageing.overdue_31_to_60,
        "overdue_61_to_90": ageing.overdue_61_to_90,
        "overdue_over_90": ageing.overdue_over_90,
    }
    texts = {name: format_amount(amount, ageing.currency) for name, amount in amounts.items()}
    return {"currency": ageing.currency, **texts}
