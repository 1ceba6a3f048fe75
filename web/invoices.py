"""`GET /v1/{type}/{id}/invoices`: a record's invoices, by one statement."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from store import reads
from store.database import using
from store.models import RecordType
from store.reads import Page, ShownInvoice
from web import cursor, links, locales, looks, throttle, words
from web.callers import KEYED, bearer, problems
from web.currencies import amount
from web.problems import ProblemError

router = APIRouter(prefix="/v1", tags=["invoices"])
LARGEST_ID = 2**63 - 1
LARGEST_PAGE = 200
PLURALS: list[Any] = [kind.plural for kind in RecordType]


class RecordReference(BaseModel):
    """The record that was asked for."""

    type: Literal["lead", "person", "company", "opportunity"]
    id: int


class InvoiceView(BaseModel):
    """An invoice or bill as it is shown. Amounts are strings with the currency's own decimals."""

    id: UUID
    number: str | None
    type: str = Field(description="ACCREC, a sales invoice, or ACCPAY, a bill")
    status: str = Field(description="DRAFT, SUBMITTED, AUTHORISED, PAID or VOIDED")
    issuer: str
    issue_date: date | None
    due_date: date | None
    total_due: str
    balance_due: str
    currency: str | None
    created_at: datetime
    created_at_source: Literal["webhook", "history", "issue_date", "updated_date"] = Field(
        description="where `created_at` comes from, as Xero itself keeps no such time"
    )
    overdue_days: int = Field(description="days since the due date while something is owed; 0 otherwise")
    url: str = Field(description="opens the invoice in Xero")


class InvoicesView(BaseModel):
    """A page of a record's invoices."""

    record: RecordReference
    invoices: list[InvoiceView]
    next: str | None = Field(description="pass as `after` for the following page; null on the last one")
    synced_at: datetime | None = Field(description="when the rows were last known to be up to date")


Plural = Annotated[
    str, Path(description="leads, people, companies or opportunities", json_schema_extra={"enum": PLURALS})
]
RecordId = Annotated[int, Path(ge=0, le=LARGEST_ID, description="the record's id in Copper")]
PROBLEMS = problems(_404="no such record type; an unknown record is an empty list")


def kind_of(plural: str) -> RecordType:
    """The record type of a path's word; raises a 404 problem that names those there are."""
    kind = RecordType.of_plural(plural)
    if kind is None:
        known = ", ".join(one.plural for one in RecordType)
        raise ProblemError(404, f"There is no record type {plural[:40]!r}; there are {known}.")
    return kind


@router.get(
    "/{type}/{id}/invoices",
    response_model=InvoicesView,
    responses=PROBLEMS,
    summary="The invoices of a record",
    openapi_extra=KEYED,
)
async def invoices_of(
    request: Request,
    type: Plural,
    id: RecordId,
    limit: Annotated[
        int | None, Query(ge=1, le=LARGEST_PAGE, description="rows; the account's own number if unset")
    ] = None,
    after: Annotated[str | None, Query(max_length=64, description="`next` of the page before")] = None,
    order: Annotated[Literal["newest", "oldest"], Query(description="by created date")] = "newest",
) -> Response:
    """The Xero invoices of a Copper record, in order of created date."""
    key = bearer(request)
    throttle.api(request, key)
    kind = kind_of(type)
    try:
        position = cursor.read(after) if after is not None else None
    except ValueError as error:
        raise ProblemError(400, str(error)) from None
    page = await using(
        request.app.state.reading,
        lambda connection: reads.invoices_of(
            connection, key, kind, id, limit=limit, after=position, newest_first=order == "newest"
        ),
    )
    if page is None:
        raise ProblemError(401, "This API key is unknown or was revoked.")
    request.app.state.looks.used(key)
    background = looks.after_reading(request.app.state.looks, page.account_id, kind, id)
    return Response(orjson.dumps(_answer(kind, id, page)), media_type="application/json", background=background)


def _answer(kind: RecordType, record_id: int, page: Page) -> dict[str, Any]:
    today = locales.today()
    return {
        "record": {"type": kind.value, "id": record_id},
        "invoices": [_invoice(one, today) for one in page.invoices],
        "next": cursor.write(page.next) if page.next else None,
        "synced_at": _instant(page.synced_at) if page.synced_at else None,
    }


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _invoice(one: ShownInvoice, today: date) -> dict[str, Any]:
    return {
        "id": one.invoice_id,
        "number": one.number,
        "type": one.type,
        "status": one.status,
        "issuer": one.issuer,
        "issue_date": one.issue_date,
        "due_date": one.due_date,
        "total_due": amount(one.total, one.currency),
        "balance_due": amount(one.balance, one.currency),
        "currency": one.currency,
        "created_at": _instant(one.created_at),
        "created_at_source": one.created_source,
        "overdue_days": words.overdue_days(one.status, one.balance, one.due_date, today),
        "url": links.invoice(one.type, one.invoice_id, one.short_code),
    }
