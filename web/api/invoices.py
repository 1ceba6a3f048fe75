"""`GET /v1/{type}/{id}/invoices`: a record's invoices, read by one statement."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from store.db.batching import RequestBatcher
from store.db.crypto import digest
from store.db.enums import RecordType
from store.db.read_replica import ReadPools
from store.read_model import invoice_queries
from store.read_model.invoice_queries import InvoiceTextRow, Page, PageRequest
from web.api import cursors
from web.api.recent_views import relations_refresh
from web.api.record_paths import PLURALS, RECORD_TYPES, RecordId, RecordReference, RecordTypePath, parse_record_type
from web.auth import rate_limits
from web.auth.api_keys import BEARER_SECURITY, bearer_token, unknown_key
from web.presentation import links
from web.presentation.currencies import format_optional_amount
from web.presentation.problems import ProblemError, problem_responses
from web.state import web_state

router = APIRouter(prefix="/v1", tags=["invoices"])
MAX_PAGE_SIZE = 200
MAX_BATCH_SIZE = 32
MAX_FIELDS_LENGTH = 400
ROUTE = "/{type}/{id}/invoices"


class InvoiceSchema(BaseModel):
    """An invoice, a bill or a credit.

    Amounts are strings with the currency's own number of decimals; null if Xero gave none. A credit's are positive.
    """

    id: UUID
    number: str | None
    type: str = Field(
        description="ACCREC, a sales invoice; ACCPAY, a bill; ACCRECCREDIT or ACCPAYCREDIT, a credit note;"
        " RECEIVE-PREPAYMENT, SPEND-PREPAYMENT, RECEIVE-OVERPAYMENT or SPEND-OVERPAYMENT. CREDITNOTE, PREPAYMENT or"
        " OVERPAYMENT if it is not known whether it is a customer's or a supplier's."
    )
    status: str = Field(description="DRAFT, SUBMITTED, AUTHORISED, PAID or VOIDED")
    issuer: str
    issue_date: date | None
    due_date: date | None
    total_due: str | None
    balance_due: str | None = Field(description="of a credit: what is left to use")
    currency: str | None
    created_at: datetime
    created_at_source: Literal["webhook", "history", "issue_date", "updated_date"] = Field(
        description="the source of `created_at`, because Xero does not provide the time of creation"
    )
    overdue_days: int = Field(
        description="days since the due date of an approved invoice that is not paid in full, in the time zone of the"
        " Xero organisation; otherwise 0"
    )
    url: str = Field(description="link to the invoice in Xero")


class InvoiceDetails(BaseModel):
    """The fields that are only in a response if `fields` names them. Null if Xero gave none."""

    reference: str | None = None
    paid_on: date | None = Field(None, description="when it was paid in full")
    expected_payment_date: date | None = Field(None, description="of a bill: the planned date")
    amount_paid: str | None = None
    amount_credited: str | None = None
    sent_to_contact: bool | None = None
    organisation: str | None = Field(None, description="the name of the Xero organisation")


class RequestedInvoiceSchema(InvoiceSchema, InvoiceDetails):
    """An invoice, a bill or a credit, with the id and the fields that were requested."""

    model_config = ConfigDict(json_schema_extra={"required": ["id"]})


FIELDS = set(RequestedInvoiceSchema.model_fields)
DETAIL_FIELDS = set(InvoiceDetails.model_fields)
DETAIL_AMOUNTS = ("amount_paid", "amount_credited")
FIELDS_DESCRIPTION = (
    "the fields of each invoice, separated by commas; the id is always among them. By default all but"
    f" {', '.join(InvoiceDetails.model_fields)}"
)


class InvoicePageSchema(BaseModel):
    """A page of a record's invoices."""

    record: RecordReference
    invoices: list[InvoiceSchema | RequestedInvoiceSchema] = Field(
        description="with `fields`: only the id and the fields that it names"
    )
    next: str | None = Field(description="pass as `after`; null on the last page")
    synced_at: datetime | None = Field(
        description="when the rows were last known to be up to date; null before the first sync"
    )


def invoice_page_batcher(pools: ReadPools) -> RequestBatcher[PageRequest, Page | None]:
    """Reads the pages of one web process, up to `MAX_BATCH_SIZE` by one statement."""
    return RequestBatcher(partial(pools.read, invoice_queries.read_pages), max_batch_size=MAX_BATCH_SIZE)


@router.get(
    ROUTE,
    response_model=InvoicePageSchema,
    responses=problem_responses(_404="no such record type; an unknown record has an empty list"),
    summary="The invoices of a record",
    openapi_extra=BEARER_SECURITY,
)
async def list_invoices(
    request: Request,
    type: RecordTypePath,
    id: RecordId,
    limit: Annotated[
        int | None, Query(ge=1, le=MAX_PAGE_SIZE, description="page size; by default the account's own")
    ] = None,
    after: Annotated[str | None, Query(max_length=64, description="`next` of the previous page")] = None,
    order: Annotated[Literal["newest", "oldest"], Query(description="by created date")] = "newest",
    fields: Annotated[str | None, Query(max_length=MAX_FIELDS_LENGTH, description=FIELDS_DESCRIPTION)] = None,
) -> Response:
    """The Xero invoices of a Copper record, in order of created date."""
    key = _limited_key(request)
    record_type = parse_record_type(type)
    position = cursors.decode_position(after) if after is not None else None
    requested = _parse_fields(fields) if fields is not None else None
    with_details = not DETAIL_FIELDS.isdisjoint(requested or ())
    page_request = PageRequest(key, record_type, id, limit, position, order == "newest", with_details)
    return await _read_page(request, page_request, requested)


def _parse_fields(fields: str) -> Sequence[str]:
    """The names in a comma-separated list; raises a 400 problem if one is unknown."""
    names = [name.strip() for name in fields.split(",")]
    if unknown := sorted(set(names) - FIELDS):
        raise ProblemError(400, f"fields: {unknown[0]!r} is not a field. Choose from {', '.join(sorted(FIELDS))}.")
    return names


def _limited_key(request: Request) -> bytes:
    """The digest of the request's key; raises a 401 problem if there is none, 429 beyond a rate limit."""
    key_digest = digest(bearer_token(request))
    rate_limits.limit_api_call(request, key_digest)
    return key_digest


async def _read_page(request: Request, page_request: PageRequest, fields: Sequence[str] | None = None) -> Response:
    state = web_state(request)
    page = await state.invoice_pages.submit(page_request)
    if page is None:
        raise unknown_key(request)
    rate_limits.count_known_key(page_request.key)
    state.key_usage.record(page_request.key)
    background = relations_refresh(
        state.recent_views, page.account_id, page_request.record_type, page_request.record_id
    )
    payload = _page_payload(page_request.record_type, page_request.record_id, page)
    if fields is not None:
        payload["invoices"] = [_select_fields(invoice, fields) for invoice in page.invoices]
    return Response(orjson.dumps(payload), media_type="application/json", background=background)


class FastInvoicesRoute(BaseRoute):
    """The first page of a record, without FastAPI's overhead, which costs as much as the rest of the read.

    Serves the common form of the request only. Requests that are malformed or have other parameters than a valid
    `limit` do not match, and go to the ordinary endpoint.
    """

    path = f"{router.prefix}{ROUTE}"
    _path_pattern = re.compile(path.format(type=f"({'|'.join(PLURALS)})", id="([0-9]{1,18})"))
    _limit_pattern = re.compile(rb"limit=([0-9]{1,9})")

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["method"] != "GET":
            return Match.NONE, {}
        path, limit = self._path_pattern.fullmatch(scope["path"]), None
        if path is None:
            return Match.NONE, {}
        if query := scope["query_string"]:
            match = self._limit_pattern.fullmatch(query)
            limit = int(match[1]) if match else 0
            if not 1 <= limit <= MAX_PAGE_SIZE:
                return Match.NONE, {}
        return Match.FULL, {"route": self, "path_params": {"type": path[1], "id": int(path[2]), "limit": limit}}

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, params = Request(scope, receive), scope["path_params"]
        key = _limited_key(request)
        page_request = PageRequest(key, RECORD_TYPES[params["type"]], params["id"], params["limit"])
        response = await _read_page(request, page_request)
        await response(scope, receive, send)


def _page_payload(record_type: RecordType, record_id: int, page: Page) -> dict[str, Any]:
    return {
        "record": {"type": record_type.value, "id": record_id},
        "invoices": [_invoice_payload(invoice) for invoice in page.invoices],
        "next": cursors.encode_position(page.next) if page.next else None,
        "synced_at": _timestamp(page.synced_at) if page.synced_at else None,
    }


def _select_fields(invoice: InvoiceTextRow, fields: Sequence[str]) -> dict[str, Any]:
    """The invoice's id and the requested fields, in the order of the request."""
    payload = _invoice_payload(invoice)
    if invoice.details is not None:
        details = orjson.loads(invoice.details)
        for name in DETAIL_AMOUNTS:
            details[name] = format_optional_amount(details[name], invoice.currency)
        payload |= details
    return {"id": payload["id"], **{name: payload[name] for name in fields}}


def _timestamp(text: str) -> str:
    """A time in UTC with milliseconds, from one with microseconds."""
    return f"{text[:-3]}Z"


def _invoice_payload(invoice: InvoiceTextRow) -> dict[str, Any]:
    return {
        "id": invoice.invoice_id,
        "number": invoice.number,
        "type": invoice.type,
        "status": invoice.status,
        "issuer": invoice.issuer,
        "issue_date": invoice.issue_date,
        "due_date": invoice.due_date,
        "total_due": format_optional_amount(invoice.total, invoice.currency),
        "balance_due": format_optional_amount(invoice.balance, invoice.currency),
        "currency": invoice.currency,
        "created_at": _timestamp(invoice.created_at),
        "created_at_source": invoice.created_source,
        "overdue_days": invoice.overdue_days,
        "url": links.invoice(invoice.type, invoice.invoice_id, invoice.short_code),
    }
