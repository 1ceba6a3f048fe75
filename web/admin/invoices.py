"""The account's invoices: the list with its search and filters, and its export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from services.invoice_report import InvoiceReport, build_invoice_report
from store.db.database import Role, account_transaction
from store.read_model import account_invoices, invoice_pins
from store.read_model.account_invoices import AccountInvoice, AccountInvoiceFilter, InvoiceGroup, ListTimeoutError, Sort
from store.read_model.online_invoices import has_page
from web.admin import forms, notices, searches
from web.admin.customer_links import customer_link_path
from web.admin.forms import FormState
from web.admin.render import redirect, render_page
from web.admin.searches import Topic
from web.api import cursors
from web.auth import browser
from web.presentation import exports, invoice_list_view, invoice_view, locales
from web.presentation.exports import ExportFormat
from web.presentation.problems import ProblemError

router = APIRouter()
PATH = "/invoices"
ROWS_PER_PAGE = 50
MAX_OPPORTUNITIES = 20
MAX_SEARCH_LENGTH = 200
IS_MATCHED: dict[str, bool | None] = {"": None, "yes": True, "no": False}
ORDER_LABELS: dict[Sort, str] = {
    "created": "Newest created",
    "due": "Due date, earliest first",
    "balance": "Balance due, highest first",
}
TOO_SLOW = (
    "This search took too long, so it was stopped. Choose an organisation, a currency or a type, or search again."
)


@dataclass(frozen=True)
class ListQuery:
    """What the URL of the list says. `search` is encrypted, '' for none; `currency` "none" is a missing currency."""

    search: str = ""
    status: str = ""
    organisation: str = ""
    currency: str = ""
    invoice_type: str = ""
    matched: str = ""
    order: Sort = "created"

    def path(self, base: str = PATH, **changes: str) -> str:
        """The path of the list with some values changed, without those that are the default."""
        values = {name: value for name, value in {**vars(self), **changes}.items() if value and value != "created"}
        return f"{base}?{urlencode(values)}" if values else base

    def to_filter(self, search: str) -> AccountInvoiceFilter:
        """The filter, with the text of the search."""
        return AccountInvoiceFilter(
            search=search,
            status=self.status,
            organisation_id=int(self.organisation) if self.organisation else None,
            currency=None if not self.currency else "" if self.currency == "none" else self.currency,
            type=self.invoice_type or None,
            is_matched=IS_MATCHED[self.matched],
        )


def parse_query(
    search: Annotated[str, Query(max_length=searches.MAX_ENCRYPTED_SEARCH)] = "",
    status: Annotated[str, Query(pattern="^[A-Z]{0,20}$")] = "",
    organisation: Annotated[str, Query(pattern="^[0-9]{0,18}$")] = "",
    currency: Annotated[str, Query(pattern="^([A-Za-z]{3}|none)?$")] = "",
    invoice_type: Annotated[str, Query(pattern="^[A-Z-]{0,30}$")] = "",
    matched: Literal["", "yes", "no"] = "",
    order: Sort = "created",
) -> ListQuery:
    """A dependency: the query of the list; invalid values are refused."""
    return ListQuery(search, status, organisation, currency, invoice_type, matched, order)


CurrentQuery = Annotated[ListQuery, Depends(parse_query)]


@router.post(PATH)
def search_invoices(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Redirect to the filtered list. The search text is encrypted in the URL, as it may name a person."""
    browser_session = browser.require_admin(request.state.browser)
    text = forms.clean_line(str(form.get("q", "")))
    query = _query_of_form(form)
    if len(text) > MAX_SEARCH_LENGTH:
        message = f"This search is too long. Use at most {MAX_SEARCH_LENGTH} characters."
        return _list_page(request, ListQuery(), text, form=forms.rejected_form(form, {"q": message}))
    encrypted = searches.encrypt(Topic.INVOICES, browser_session.account_id, text)
    return redirect(request, replace(query, search=encrypted).path())


def search_path(account_id: int, text: str) -> str:
    """The path of the list with a search, whose text is encrypted."""
    return ListQuery(search=searches.encrypt(Topic.INVOICES, account_id, text)).path()


def _query_of_form(form: FormData) -> ListQuery:
    """The filters of the form; what the list would refuse is refused there."""
    names = ("status", "organisation", "currency", "invoice_type", "matched", "order")
    values = {name: forms.clean_line(str(form.get(name, "")))[:40] for name in names}
    return ListQuery(**{name: value for name, value in values.items() if value})  # type: ignore[arg-type]


@router.get(PATH)
def show_invoices(
    request: Request, query: CurrentQuery, after: Annotated[str | None, Query(max_length=200)] = None
) -> Response:
    """The account's invoices and credits, filtered and sorted, with their sums."""
    text = _decrypt_search(request, query)
    return _list_page(request, query, text or "", after=after, has_expired=text is None)


def _decrypt_search(request: Request, query: ListQuery) -> str | None:
    """The text of the search; None if it has expired or is not ours."""
    account_id = browser.require_admin(request.state.browser).account_id
    return searches.decrypt(Topic.INVOICES, account_id, query.search)


def _list_page(
    request: Request,
    query: ListQuery,
    text: str,
    *,
    after: str | None = None,
    form: FormState = forms.EMPTY_FORM,
    has_expired: bool = False,
) -> Response:
    account_id, locale = browser.require_admin(request.state.browser).account_id, locales.negotiate(request)
    cursor = cursors.decode_listed(after, query.order) if after else None
    invoice_filter = query.to_filter("" if form.has_errors else text)
    rows: Sequence[AccountInvoice] = ()
    groups: Sequence[InvoiceGroup] = ()
    is_too_slow = False
    with account_transaction(account_id, Role.READS) as session:
        connection_notice = notices.for_connection(session, account_id)
        organisations = account_invoices.list_organisations(session, account_id)
    try:
        with account_transaction(account_id, Role.READS) as session:
            groups = account_invoices.summarise(session, account_id, invoice_filter)
            rows = account_invoices.list_page(
                session, account_id, invoice_filter, query.order, cursor, ROWS_PER_PAGE + 1
            )
    except ListTimeoutError:
        is_too_slow = True
    page = rows[:ROWS_PER_PAGE]
    return render_page(
        request,
        "invoices.html",
        status=422 if form.has_errors else 503 if is_too_slow else 200,
        alert=connection_notice,
        form=form,
        q=text,
        query=query,
        problem=TOO_SLOW if is_too_slow else searches.EXPIRED if has_expired else "",
        rows=[invoice_list_view.row(invoice, locale) for invoice in page],
        statuses=invoice_list_view.status_options(groups, locale),
        sums=invoice_list_view.sums(groups, query.status, locale),
        currencies=invoice_list_view.currencies(groups),
        types=invoice_list_view.types(groups),
        organisations=organisations,
        orders=ORDER_LABELS,
        has_filter=invoice_filter != AccountInvoiceFilter(),
        after=cursors.encode_listed(page[-1].cursor) if len(rows) > ROWS_PER_PAGE else None,
        is_first_page=cursor is None,
    )


@router.get(f"{PATH}/{{invoice_id}}")
def show_invoice(
    request: Request, invoice_id: UUID, search: Annotated[str, Query(max_length=searches.MAX_ENCRYPTED_SEARCH)] = ""
) -> Response:
    """Everything known of an invoice, and which records have it and why."""
    account_id = browser.require_admin(request.state.browser).account_id
    return invoice_page(request, invoice_id, searches.decrypt(Topic.OPPORTUNITIES, account_id, search) or "")


def invoice_page(request: Request, invoice_id: UUID, q: str = "", form: FormState = forms.EMPTY_FORM) -> Response:
    """The page of an invoice, with the opportunities that `q` finds to pin it to."""
    browser_session, locale = browser.require_admin(request.state.browser), locales.negotiate(request)
    report = build_invoice_report(browser_session.account_id, invoice_id)
    if report is None:
        raise ProblemError(404, "No invoice with this ID has synced. New invoices usually appear within a minute.")
    with account_transaction(browser_session.account_id, Role.READS) as session:
        opportunities = (
            invoice_pins.search_opportunities(session, browser_session.account_id, q, MAX_OPPORTUNITIES) if q else []
        )
    return render_page(
        request,
        "invoice.html",
        status=422 if form.has_errors else 200,
        form=form,
        q=q,
        opportunities=opportunities,
        max_opportunities=MAX_OPPORTUNITIES,
        pinned_opportunities={pin.opportunity_id for pin in report.pins},
        report=report,
        invoice=invoice_view.build_invoice_view(report, locale),
        created_sources=invoice_view.CREATED_SOURCES,
        customer_link=_customer_link(report),
        link_path="",
    )


def _customer_link(report: InvoiceReport) -> str:
    """The path of the page with the link for the customer, by the first record with the invoice; '' without one."""
    invoice = report.invoice.item
    if not has_page(invoice.type, invoice.status):
        return ""
    shown_on = (explained.record for explained in report.records if explained.record.is_shown)
    record = next(shown_on, None)
    return customer_link_path(record.record_type, record.record_id, invoice.invoice_id) if record else ""


@router.get("/export/invoice-list.{format}")
async def export_list(request: Request, format: ExportFormat, query: CurrentQuery) -> Response:
    """Export the filtered list, in its order, each invoice once."""
    browser_session = browser.require_admin(request.state.browser)
    text = _decrypt_search(request, query)
    if text is None:
        raise ProblemError(422, searches.EXPIRED)
    return await exports.export_invoice_list(
        request, browser_session.account_id, browser_session.user_name, format, query.to_filter(text), query.order
    )
