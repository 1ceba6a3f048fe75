"""Records as Copper users see them: search, invoices, match details, manual links and exports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.datastructures import FormData

from services import manual_links
from services.match_report import build_match_report
from services.opportunity_pins import build_opportunity_pins
from store.accounts import accounts
from store.db.database import Role, account_transaction
from store.db.enums import RecordType
from store.read_model import account_invoices, match_reports, online_invoices
from store.read_model.account_invoices import AccountInvoice, ListTimeoutError
from store.read_model.contact_links import Link, LinkError
from web.admin import forms, notices, searches
from web.admin import invoices as invoice_pages
from web.admin.customer_links import customer_link_path
from web.admin.forms import FormState, WholeNumber
from web.admin.render import redirect, render_page
from web.admin.searches import Topic
from web.api.record_paths import RecordId
from web.auth import browser
from web.presentation import exports, invoice_list_view, labels, links, locales, record_view
from web.presentation.exports import ExportFormat
from web.presentation.filter_params import RecordFilters
from web.presentation.problems import ProblemError

router = APIRouter()
MAX_RESULTS = 50
MAX_INVOICES = 10
LINK_MESSAGES = {
    "organisation": "This isn't an organisation of your account.",
    "contact": "This isn't a Xero contact.",
    "type": "Choose a lead, person, company or opportunity.",
    "record": "Enter a numeric Copper ID.",
}


class LinkForm(BaseModel):
    """A link between a Xero contact and a record."""

    organisation: WholeNumber
    contact: UUID
    type: RecordType
    record: WholeNumber

    def to_link(self) -> Link:
        """The link that the form describes."""
        return Link(self.organisation, self.contact, self.type, self.record)


@router.post("/records")
def search(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Redirect to the results of a search."""
    browser_session = browser.require_admin(request.state.browser)
    text = searches.read_text(form)
    if len(text) > searches.MAX_SEARCH_LENGTH:
        return _records_page(request, text, forms.rejected_form(form, {"q": searches.TOO_LONG}))
    if not text:
        return redirect(request, "/records")
    return redirect(request, f"/records?search={searches.encrypt(Topic.RECORDS, browser_session.account_id, text)}")


@router.get("/records")
def show_records(
    request: Request, search: Annotated[str, Query(max_length=searches.MAX_ENCRYPTED_SEARCH)] = ""
) -> Response:
    """Search records by name, email address, Copper ID or invoice number."""
    browser_session = browser.require_admin(request.state.browser)
    text = searches.decrypt(Topic.RECORDS, browser_session.account_id, search)
    return _records_page(request, text or "", has_expired=text is None)


def _records_page(
    request: Request, text: str, form: FormState = forms.EMPTY_FORM, *, has_expired: bool = False
) -> Response:
    browser_session = browser.require_admin(request.state.browser)
    account_id, has_searched = browser_session.account_id, bool(text) and not form.has_errors
    with account_transaction(account_id) as session:
        connection_notice = notices.for_connection(session, account_id)
        results = searches.find_records(session, account_id, text if has_searched else "", MAX_RESULTS)
    invoices = _search_invoices(account_id, text) if has_searched else []
    locale = locales.negotiate(request)
    return render_page(
        request,
        "records.html",
        status=422 if form.has_errors else 200,
        q=text,
        form=form,
        results=results,
        has_searched=has_searched,
        has_expired=has_expired,
        max_results=MAX_RESULTS,
        invoices=[invoice_list_view.row(invoice, locale) for invoice in invoices[:MAX_INVOICES]],
        all_invoices_path=invoice_pages.search_path(account_id, text) if len(invoices) > MAX_INVOICES else "",
        alert=connection_notice,
    )


def _search_invoices(account_id: int, text: str) -> Sequence[AccountInvoice]:
    """The invoices that a search finds, one more than are listed; none if finding them takes too long."""
    try:
        with account_transaction(account_id, Role.READS) as session:
            return account_invoices.search(session, account_id, text, MAX_INVOICES + 1)
    except ListTimeoutError:
        return []


@router.get("/records/{record_type}/{record_id}")
def show_record(
    request: Request,
    record_type: RecordType,
    record_id: RecordId,
    filters: RecordFilters,
) -> Response:
    """The invoices that Copper users see on a record."""
    browser_session = browser.require_admin(request.state.browser)
    locale = locales.negotiate(request)
    account_id = browser_session.account_id
    _require_record(account_id, record_type, record_id)
    selected = filters.to_filter()
    view = record_view.build_record_view(
        account_id, record_type, record_id, locale, selected=selected, limit=filters.limit, from_primary=True
    )
    if selected.status not in {"", *labels.STATUS_LABELS} and not view.filtered_count:
        raise ProblemError(422, f'"{forms.clean_line(selected.status)}" isn\'t an invoice status.')
    copper_url = _copper_url(account_id, record_type, record_id)
    is_opportunity = record_type is RecordType.OPPORTUNITY
    pins = build_opportunity_pins(account_id, record_id) if is_opportunity else None
    return render_page(
        request,
        "record.html",
        record=view,
        locale=locale,
        copper_url=copper_url,
        pins=pins,
        max_others=MAX_RESULTS,
    )


def _require_record(account_id: int, record_type: RecordType, record_id: int) -> None:
    """Raise `ProblemError` 404 for a record that has not been synced from Copper."""
    with account_transaction(account_id) as session:
        if match_reports.find_record(session, account_id, record_type, record_id) is None:
            raise ProblemError(
                404,
                f"No {record_type.value} with Copper ID {record_id} has synced. "
                "New records usually appear within a minute.",
            )


def _copper_url(account_id: int, record_type: RecordType, record_id: int) -> str:
    with account_transaction(account_id) as session:
        return links.record(accounts.get_copper_account_id(session, account_id), record_type.value, record_id)


@router.get("/records/{record_type}/{record_id}/invoices/{invoice_id}/match")
def show_match_details(request: Request, record_type: RecordType, record_id: RecordId, invoice_id: UUID) -> Response:
    """Why an invoice is shown on the record."""
    browser_session = browser.require_admin(request.state.browser)
    with account_transaction(browser_session.account_id) as session:
        match = match_reports.explain_invoice(session, browser_session.account_id, record_type, record_id, invoice_id)
        record = match_reports.find_record(session, browser_session.account_id, record_type, record_id)
        invoice = online_invoices.find(session, browser_session.account_id, record_type, record_id, invoice_id)
    if match is None:
        raise ProblemError(404, "This invoice is no longer on this record.")
    return render_page(
        request,
        "match_details.html",
        record_type=record_type,
        record_id=record_id,
        record_name=record.name if record else "",
        invoice_number=match.number or "this invoice",
        reasons=match.reasons,
        pin=match.pin,
        link_path=customer_link_path(record_type, record_id, invoice_id) if invoice and invoice.has_page else "",
    )


@router.get("/records/{record_type}/{record_id}/match")
def show_match_report(request: Request, record_type: RecordType, record_id: RecordId) -> Response:
    """The match report of a record: addresses, matched contacts and possible matches."""
    browser_session = browser.require_admin(request.state.browser)
    return _match_page(request, browser_session.account_id, record_type, record_id)


def _match_page(
    request: Request, account_id: int, record_type: RecordType, record_id: int, *, error: str | None = None
) -> Response:
    report = build_match_report(account_id, record_type, record_id)
    if report.record is None and error is None:
        _require_record(account_id, record_type, record_id)
    return render_page(
        request,
        "match.html",
        status=422 if error else 200,
        report=report,
        locale=locales.negotiate(request),
        xero_url=links.contact,
        error=error,
    )


@router.post("/links")
def create_link(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Link a Xero contact to a record."""
    browser_session = browser.require_admin(request.state.browser)
    link_form = forms.parse_form(LinkForm, form, LINK_MESSAGES)
    if isinstance(link_form, dict):
        raise ProblemError(422, next(iter(link_form.values())))
    link = link_form.to_link()
    try:
        is_new = manual_links.create(browser_session.account_id, link, actor=browser_session.user_name)
    except LinkError as error:
        return _match_page(request, browser_session.account_id, link.record_type, link.record_id, error=str(error))
    return redirect(request, _match_path(link), notice="Linked." if is_new else "")


def _match_path(link: Link) -> str:
    return f"/records/{link.record_type.value}/{link.record_id}/match"


@router.post("/links/remove")
def remove_link(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Remove a link."""
    browser_session = browser.require_admin(request.state.browser)
    link_form = forms.parse_form(LinkForm, form, LINK_MESSAGES)
    if isinstance(link_form, dict):
        raise ProblemError(422, next(iter(link_form.values())))
    link = link_form.to_link()
    was_linked = manual_links.remove(browser_session.account_id, link, actor=browser_session.user_name)
    return redirect(request, _match_path(link), notice="Unlinked." if was_linked else "")


@router.get("/export/records/{record_type}/{record_id}.{format}")
async def export_record(
    request: Request, record_type: RecordType, record_id: RecordId, format: ExportFormat
) -> Response:
    """Export the record's invoices."""
    browser_session = browser.require_admin(request.state.browser)
    return await exports.export_invoices(
        request, browser_session.account_id, browser_session.user_name, format, record_type, record_id
    )


@router.get("/export/invoices.{format}")
async def export_all_invoices(request: Request, format: ExportFormat) -> Response:
    """Export the invoices of all records."""
    browser_session = browser.require_admin(request.state.browser)
    return await exports.export_invoices(request, browser_session.account_id, browser_session.user_name, format)
