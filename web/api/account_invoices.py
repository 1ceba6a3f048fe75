"""`GET /v1/invoices`: the account's invoices, each once; one of them with its records; and pins to opportunities."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from services import invoice_pins
from services.invoice_report import InvoiceReport, build_invoice_report
from store.accounts import accounts
from store.db.read_replica import read_transaction
from store.read_model import account_invoices
from store.read_model.account_invoices import AccountInvoice, AccountInvoiceFilter, ListCursor, ListTimeoutError, Sort
from store.read_model.invoice_pins import PinError, PinLimitError
from store.read_model.record_invoices import InvoiceListItem
from web.api import cursors
from web.api.invoices import InvoiceSchema
from web.api.matches import MatchReason, match_reason
from web.api.record_paths import RecordId, RecordReference
from web.auth.api_keys import BEARER_SECURITY, AdminCaller, ReadCaller
from web.presentation import links
from web.presentation.currencies import format_optional_amount
from web.presentation.problems import WRONG_SCOPE, ProblemError, problem_responses
from web.state import web_state

router = APIRouter(prefix="/v1", tags=["invoices"])
MAX_PAGE_SIZE = 200
TOO_SLOW = "This search took too long. Narrow it by organisation, currency or type."
NO_INVOICE = "no such invoice, or the account does not show it"
InvoiceId = Annotated[UUID, Path(description="the ID of the invoice in Xero")]


class ContactReference(BaseModel):
    """The Xero contact of an invoice."""

    id: UUID | None
    name: str


class OrganisationReference(BaseModel):
    """The Xero organisation of an invoice."""

    id: int
    name: str


class AccountInvoiceSchema(InvoiceSchema):
    """An invoice, a bill or a credit, with its contact and its organisation."""

    reference: str | None
    contact: ContactReference
    organisation: OrganisationReference


class AccountInvoicePageSchema(BaseModel):
    """A page of the account's invoices."""

    invoices: list[AccountInvoiceSchema]
    next: str | None = Field(description="pass as `after`, with the same filters and sort; null on the last page")
    synced_at: datetime | None = Field(description="when the rows were last known to be up to date")


class PinSchema(BaseModel):
    """That the invoice is pinned to the opportunity."""

    pinned_by: str
    pinned_at: datetime


class RecordWithReasons(BaseModel):
    """A record that has the invoice, and why: its reasons, its pin or both."""

    record: RecordReference
    name: str
    reasons: list[MatchReason] | None = Field(description="null unless the key has the scope `admin`")
    pin: PinSchema | None


class InvoiceDetailsSchema(AccountInvoiceSchema):
    """An invoice with the records that have it."""

    updated_at: datetime | None = Field(description="when it last changed in Xero; null if Xero does not say")
    records: list[RecordWithReasons]
    record_count: int = Field(description="how many records have it; at most 50 are listed")


@router.get(
    "/invoices",
    response_model=AccountInvoicePageSchema,
    responses=problem_responses(),
    summary="The invoices of the account",
    openapi_extra=BEARER_SECURITY,
)
async def list_account_invoices(
    request: Request,
    caller: ReadCaller,
    search: Annotated[
        str, Query(max_length=200, description="a part of the number, the reference or the contact's name")
    ] = "",
    status: Annotated[
        str,
        Query(
            pattern="^[A-Z]{0,20}$",
            description="a status of Xero; or OVERDUE; or of credits CREDIT (to use), SUPPLIERCREDIT or USEDCREDIT",
        ),
    ] = "",
    organisation: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    currency: Annotated[str | None, Query(max_length=3, description="'' for invoices without a currency")] = None,
    type: Annotated[str | None, Query(max_length=30, description="as `type` of an invoice")] = None,
    matched: Annotated[bool | None, Query(description="whether any record has the invoice")] = None,
    sort: Annotated[
        Sort, Query(description="newest created first, earliest due date first, or highest balance first")
    ] = "created",
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 50,
    after: Annotated[str | None, Query(max_length=200, description="`next` of the previous page")] = None,
) -> AccountInvoicePageSchema:
    """The invoices and credits that the account shows, each once however many records have it."""
    cursor = cursors.decode_listed(after, sort) if after is not None else None
    invoice_filter = AccountInvoiceFilter(search.strip(), status, organisation, currency, type, matched)
    pages = web_state(request).capacity.pages
    return await pages.run(caller.account_id, _read_page, caller.account_id, invoice_filter, sort, cursor, limit)


def _read_page(
    account_id: int, invoice_filter: AccountInvoiceFilter, sort: Sort, after: ListCursor | None, limit: int
) -> AccountInvoicePageSchema:
    try:
        with read_transaction(account_id) as session:
            rows = account_invoices.list_page(session, account_id, invoice_filter, sort, after, limit + 1)
            synced_at = accounts.get_synced_at(session, account_id)
    except ListTimeoutError:
        raise ProblemError(503, TOO_SLOW) from None
    page = rows[:limit]
    return AccountInvoicePageSchema(
        invoices=[_invoice_schema(invoice) for invoice in page],
        next=cursors.encode_listed(page[-1].cursor) if len(rows) > limit else None,
        synced_at=synced_at,
    )


def _invoice_schema(invoice: AccountInvoice) -> AccountInvoiceSchema:
    return AccountInvoiceSchema(
        **_item_fields(invoice.item),
        contact=ContactReference(id=invoice.contact_id, name=invoice.contact_name),
    )


def _item_fields(item: InvoiceListItem) -> dict[str, Any]:
    """The fields that an invoice has in every response."""
    return {
        "id": item.invoice_id,
        "number": item.number,
        "type": item.type,
        "status": item.status,
        "issuer": item.issuer,
        "issue_date": item.issue_date,
        "due_date": item.due_date,
        "total_due": format_optional_amount(item.total, item.currency),
        "balance_due": format_optional_amount(item.balance, item.currency),
        "currency": item.currency,
        "created_at": item.created_at,
        "created_at_source": item.created_source,
        "overdue_days": item.overdue_days,
        "url": links.invoice(item.type, item.invoice_id, item.short_code),
        "reference": item.reference,
        "organisation": OrganisationReference(id=item.organisation_id, name=item.organisation or ""),
    }


@router.get(
    "/invoices/{invoice_id}",
    response_model=InvoiceDetailsSchema,
    responses=problem_responses(_404=NO_INVOICE),
    summary="An invoice with its records",
    openapi_extra=BEARER_SECURITY,
)
async def get_invoice(request: Request, caller: ReadCaller, invoice_id: InvoiceId) -> InvoiceDetailsSchema:
    """An invoice, the records that have it, and (for a key with the scope `admin`) why each of them has it."""
    pages = web_state(request).capacity.pages
    report = await pages.run(caller.account_id, build_invoice_report, caller.account_id, invoice_id)
    if report is None or report.invoice.is_deleted or not report.invoice.is_shown:
        raise ProblemError(404, "The account shows no invoice with this ID.")
    return invoice_details_schema(report, with_reasons=caller.is_admin)


def invoice_details_schema(report: InvoiceReport, *, with_reasons: bool) -> InvoiceDetailsSchema:
    """An invoice's report as the API returns it. Reasons name email addresses, which only admins see."""
    invoice = report.invoice
    return InvoiceDetailsSchema(
        **_item_fields(invoice.item),
        contact=ContactReference(id=invoice.contact_id, name=invoice.contact_name),
        updated_at=invoice.updated_at if invoice.has_version else None,
        records=[
            RecordWithReasons(
                record=RecordReference(type=explained.record.record_type.value, id=explained.record.record_id),
                name=explained.record.name,
                reasons=[match_reason(reason) for reason in explained.reasons] if with_reasons else None,
                pin=PinSchema(pinned_by=explained.pin.pinned_by, pinned_at=explained.pin.pinned_at)
                if explained.pin
                else None,
            )
            for explained in report.records
            if explained.record.is_shown
        ],
        record_count=report.record_count,
    )


PINNED_INVOICE = "/opportunities/{id}/pinned-invoices/{invoice_id}"


@router.post(
    PINNED_INVOICE,
    tags=["pins"],
    status_code=204,
    responses=problem_responses(
        _403=WRONG_SCOPE, _404="no such opportunity or invoice", _409="the opportunity has too many pinned invoices"
    ),
    summary="Pin an invoice to an opportunity",
    openapi_extra=BEARER_SECURITY,
)
async def pin_invoice(request: Request, caller: AdminCaller, id: RecordId, invoice_id: InvoiceId) -> Response:
    """Pin an invoice, with effect within seconds. Pinning it again changes nothing."""
    pages = web_state(request).capacity.pages
    await pages.run(caller.account_id, _change_pin, "create", caller.account_id, invoice_id, id, caller.name)
    return Response(status_code=204)


@router.delete(
    PINNED_INVOICE,
    tags=["pins"],
    status_code=204,
    responses=problem_responses(_403=WRONG_SCOPE),
    summary="Unpin an invoice from an opportunity",
    openapi_extra=BEARER_SECURITY,
)
async def unpin_invoice(request: Request, caller: AdminCaller, id: RecordId, invoice_id: InvoiceId) -> Response:
    """Unpin an invoice, with effect within seconds. Unpinning one that is not pinned changes nothing."""
    pages = web_state(request).capacity.pages
    await pages.run(caller.account_id, _change_pin, "remove", caller.account_id, invoice_id, id, caller.name)
    return Response(status_code=204)


def _change_pin(
    change: Literal["create", "remove"], account_id: int, invoice_id: UUID, opportunity_id: int, actor: str
) -> None:
    try:
        if change == "create":
            invoice_pins.create(account_id, invoice_id, opportunity_id, actor=actor)
        else:
            invoice_pins.remove(account_id, invoice_id, opportunity_id, actor=actor)
    except PinError as error:
        raise ProblemError(409 if isinstance(error, PinLimitError) else 404, str(error)) from None
