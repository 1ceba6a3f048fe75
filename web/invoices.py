"""`GET /v1/{type}/{id}/invoices`: a record's invoices, by one statement."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from store import reads
from store.database import Pool
from store.models import RecordType
from store.reads import Asked, Page, ReadInvoice
from store.secrets import digest
from store.sharing import Shared
from web import cursor, links, looks, throttle
from web.callers import KEYED, bearer, problems
from web.currencies import amount
from web.problems import ProblemError

router = APIRouter(prefix="/v1", tags=["invoices"])
LARGEST_ID = 2**63 - 1
LARGEST_PAGE = 200
PAGES_AT_ONCE = 32
KINDS = {kind.plural: kind for kind in RecordType}
PLURALS: list[Any] = list(KINDS)
ROUTE = "/{type}/{id}/invoices"


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
    overdue_days: int = Field(
        description="days since the due date, in the time zone of the Xero organisation, while an approved invoice is"
        " not paid in full; 0 otherwise, and on the due date itself"
    )
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


def shared_pages(pool: Pool) -> Shared[Asked, Page | None]:
    """What reads the pages of one web process."""
    return Shared(pool, reads.pages, most=PAGES_AT_ONCE)


def kind_of(plural: str) -> RecordType:
    """The record type of a path's word; raises a 404 problem that names those there are."""
    kind = KINDS.get(plural)
    if kind is None:
        raise ProblemError(404, f"There is no record type {plural[:40]!r}; there are {', '.join(KINDS)}.")
    return kind


@router.get(
    ROUTE,
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
    key = _counted(request)
    kind = kind_of(type)
    try:
        position = cursor.read(after) if after is not None else None
    except ValueError as error:
        raise ProblemError(400, str(error)) from None
    return await _read(request, Asked(key, kind, id, limit, position, newest_first=order == "newest"))


def _counted(request: Request) -> bytes:
    """The digest of the request's key; raises a 401 problem without one, 429 for who asks too often."""
    key = digest(bearer(request))
    throttle.api(request, key)
    return key


async def _read(request: Request, asked: Asked) -> Response:
    state = request.app.state
    page = await state.pages.ask(asked)
    if page is None:
        is_paused = throttle.unknown_key(request)
        raise ProblemError(401, "This API key is unknown or was revoked.", is_paused=is_paused)
    throttle.known_key(asked.key)
    state.looks.used(asked.key)
    background = looks.after_reading(state.looks, page.account_id, asked.kind, asked.record_id)
    body = orjson.dumps(_answer(asked.kind, asked.record_id, page))
    return Response(body, media_type="application/json", background=background)


class OrdinaryRead(BaseRoute):
    """The first page of a record, asked for in the usual form, without what FastAPI does for the unusual ones.

    That costs as much as all the rest of a read. Whatever is malformed, or asks for more than a limit, is none of it.
    """

    path = f"{router.prefix}{ROUTE}"
    _usual = re.compile(path.format(type=f"({'|'.join(PLURALS)})", id="([0-9]{1,18})"))
    _limit = re.compile(rb"limit=([0-9]{1,9})")

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["method"] != "GET":
            return Match.NONE, {}
        place, limit = self._usual.fullmatch(scope["path"]), None
        if place is None:
            return Match.NONE, {}
        if query := scope["query_string"]:
            given = self._limit.fullmatch(query)
            limit = int(given[1]) if given else 0
            if not 1 <= limit <= LARGEST_PAGE:
                return Match.NONE, {}
        return Match.FULL, {"route": self, "path_params": {"type": place[1], "id": int(place[2]), "limit": limit}}

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, asked = Request(scope, receive), scope["path_params"]
        key = _counted(request)
        answer = await _read(request, Asked(key, KINDS[asked["type"]], asked["id"], asked["limit"]))
        await answer(scope, receive, send)


def _answer(kind: RecordType, record_id: int, page: Page) -> dict[str, Any]:
    return {
        "record": {"type": kind.value, "id": record_id},
        "invoices": [_invoice(one) for one in page.invoices],
        "next": cursor.write(page.next) if page.next else None,
        "synced_at": _instant(page.synced_at) if page.synced_at else None,
    }


def _instant(moment: str) -> str:
    """A moment to the millisecond, of one to the microsecond."""
    return f"{moment[:-3]}Z"


def _invoice(one: ReadInvoice) -> dict[str, Any]:
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
        "overdue_days": one.overdue_days,
        "url": links.invoice(one.type, one.invoice_id, one.short_code),
    }
