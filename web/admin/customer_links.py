"""The page with the link that an admin sends to a customer: it shows the link that is known, or requests it."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from services import customer_links
from services.customer_links import CustomerLinkError
from store.db.database import account_transaction
from store.db.enums import RecordType
from store.read_model import match_reports
from store.read_model.online_invoices import OnlineInvoice
from web.admin.render import redirect, render_page
from web.admin.vendor_calls import calls_vendor
from web.api.record_paths import RecordId
from web.auth import browser, rate_limits
from web.presentation.customer_links import link_problem
from web.presentation.problems import ProblemError

router = APIRouter()


def customer_link_path(record_type: RecordType, record_id: int, invoice_id: UUID) -> str:
    """The path of the page that shows an invoice's customer link."""
    return f"/records/{record_type.value}/{record_id}/invoices/{invoice_id}/customer-link"


@router.get("/records/{record_type}/{record_id}/invoices/{invoice_id}/customer-link")
def show_customer_link(request: Request, record_type: RecordType, record_id: RecordId, invoice_id: UUID) -> Response:
    """The link with which the customer sees an invoice, if it is known; otherwise the button that requests it."""
    browser_session = browser.require_admin(request.state.browser)
    try:
        invoice = customer_links.find_invoice(browser_session.account_id, record_type, record_id, invoice_id)
    except CustomerLinkError as error:
        raise link_problem(error) from None
    return _customer_link_page(request, record_type, record_id, invoice)


@router.post("/records/{record_type}/{record_id}/invoices/{invoice_id}/customer-link")
@calls_vendor
def create_customer_link(
    request: Request,
    form: Annotated[FormData, Depends(browser.read_form)],
    record_type: RecordType,
    record_id: RecordId,
    invoice_id: UUID,
) -> Response:
    """Request the link from Xero and redirect to the page that shows it."""
    browser_session = browser.require_admin(request.state.browser)
    account_id = browser_session.account_id
    try:
        invoice = customer_links.find_invoice(account_id, record_type, record_id, invoice_id)
    except CustomerLinkError as error:
        raise link_problem(error) from None
    if not invoice.url:
        rate_limits.limit_customer_links(f"session {browser_session.id}")
        try:
            customer_links.fetch_link(account_id, invoice)
        except CustomerLinkError as error:
            return _customer_link_page(request, record_type, record_id, invoice, link_problem(error))
    return redirect(request, customer_link_path(record_type, record_id, invoice_id))


def _customer_link_page(
    request: Request,
    record_type: RecordType,
    record_id: int,
    invoice: OnlineInvoice,
    problem: ProblemError | None = None,
) -> Response:
    account_id = browser.require_admin(request.state.browser).account_id
    with account_transaction(account_id) as session:
        record = match_reports.find_record(session, account_id, record_type, record_id)
    response = render_page(
        request,
        "customer_link.html",
        status=problem.status if problem else 200,
        record_type=record_type,
        record_id=record_id,
        record_name=record.name if record else "",
        invoice_number=invoice.number or "this invoice",
        url=invoice.url,
        link_path=customer_link_path(record_type, record_id, invoice.invoice_id),
        error=problem.detail if problem else "",
    )
    if problem and problem.retry_after is not None:
        response.headers["Retry-After"] = str(problem.retry_after)
    return response
