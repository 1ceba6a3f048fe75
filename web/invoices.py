"""`GET /v1/{type}/{id}/invoices`: a record's invoices, by one statement."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from store import reads
from store.models import RecordType
from store.reads import Page, ShownInvoice
from web import cursor, links, locales, looks, throttle, words
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


class ProblemView(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/problem+json": {"schema": ProblemView.model_json_schema()}},
    }
    for status, text in {
        400: "a parameter is malformed",
        401: "no API key, or one that is unknown or revoked",
        404: "no such record type; an unknown record is an empty list",
        429: "too many calls of this key, or from this address; Retry-After says how long to wait",
        503: "the database does not answer",
    }.items()
}


def bearer(request: Request) -> str:
    """The API key of the request; raises a 401 problem when there is none."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise ProblemError(401, "Send your API key as: Authorization: Bearer pat_…")
    return key.strip()


@router.get(
    "/{type}/{id}/invoices",
    response_model=InvoicesView,
    responses=PROBLEMS,
    summary="The invoices of a record",
    openapi_extra={"security": [{"bearer": []}]},
)
async def invoices_of(
    request: Request,
    type: Annotated[
        str, Path(description="leads, people, companies or opportunities", json_schema_extra={"enum": PLURALS})
    ],
    id: Annotated[int, Path(ge=0, le=LARGEST_ID, description="the record's id in Copper")],
    limit: Annotated[
        int | None, Query(ge=1, le=LARGEST_PAGE, description="rows; the account's own number if unset")
    ] = None,
    after: Annotated[str | None, Query(max_length=64, description="`next` of the page before")] = None,
    order: Annotated[Literal["newest", "oldest"], Query(description="by created date")] = "newest",
) -> Response:
    """The Xero invoices of a Copper record, in order of created date."""
    key = bearer(request)
    throttle.api(request, key)
    kind = RecordType.of_plural(type)
    if kind is None:
        words = ", ".join(one.plural for one in RecordType)
        raise ProblemError(404, f"There is no record type {type[:40]!r}; there are {words}.")
    try:
        position = cursor.read(after) if after is not None else None
    except ValueError as error:
        raise ProblemError(400, str(error)) from None
    async with request.app.state.reading.connection() as connection:
        page = await reads.invoices_of(
            connection, key, kind, id, limit=limit, after=position, newest_first=order == "newest"
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
        "id": str(one.invoice_id),
        "number": one.number,
        "type": one.type,
        "status": one.status,
        "issuer": one.issuer,
        "issue_date": one.issue_date.isoformat() if one.issue_date else None,
        "due_date": one.due_date.isoformat() if one.due_date else None,
        "total_due": amount(one.total, one.currency),
        "balance_due": amount(one.balance, one.currency),
        "currency": one.currency,
        "created_at": _instant(one.created_at),
        "created_at_source": one.created_source,
        "overdue_days": words.overdue_days(one.status, one.balance, one.due_date, today),
        "url": links.invoice(one.type, one.invoice_id, one.short_code),
    }
