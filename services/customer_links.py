"""Customer links: the address at which a customer sees an invoice in Xero, fetched when somebody wants to send it.

Whoever has the link can see the invoice and pay it, so it is never logged.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

import structlog

from store.accounts import xero_organisations
from store.db.database import account_transaction
from store.db.enums import RecordType
from store.read_model import online_invoices
from store.read_model.online_invoices import OnlineInvoice
from worker.vendors.errors import (
    AuthorizationLostError,
    BudgetExhaustedError,
    EndpointRefusedError,
    NotFoundError,
    TransientError,
    VendorError,
)
from worker.vendors.rate_limit.budget import Priority
from worker.vendors.xero.client import XeroClient

log = structlog.get_logger()


class LinkFailure(StrEnum):
    """Why there is no customer link."""

    NOT_ON_RECORD = "not_on_record"
    NOT_A_SALE = "not_a_sale"
    DRAFT = "draft"
    DISCONNECTED = "disconnected"
    NOT_PERMITTED = "not_permitted"
    OUT_OF_CALLS = "out_of_calls"
    NOT_IN_XERO = "not_in_xero"
    XERO_UNAVAILABLE = "xero_unavailable"
    REFUSED = "refused"


MESSAGES = {
    LinkFailure.NOT_ON_RECORD: "This invoice is no longer on this record.",
    LinkFailure.NOT_A_SALE: "Only sales invoices have a link for the customer.",
    LinkFailure.DRAFT: "A draft has no link for the customer. Approve it in Xero first.",
    LinkFailure.DISCONNECTED: "Xero is disconnected. An admin can reconnect it in Settings.",
    LinkFailure.NOT_PERMITTED: "Xero doesn't let Patina read invoices. An admin can reconnect Xero in Settings.",
    LinkFailure.OUT_OF_CALLS: "Patina can't make more calls to Xero right now. Try again later.",
    LinkFailure.NOT_IN_XERO: "Xero no longer has this invoice.",
    LinkFailure.XERO_UNAVAILABLE: "Xero is unavailable right now. Try again in a moment.",
    LinkFailure.REFUSED: "Xero gave no link for this invoice. Open the invoice in Xero to share it.",
}


# The first that applies counts: an exhausted budget is a transient error too.
FAILURES: dict[type[VendorError], LinkFailure] = {
    AuthorizationLostError: LinkFailure.DISCONNECTED,
    EndpointRefusedError: LinkFailure.NOT_PERMITTED,
    BudgetExhaustedError: LinkFailure.OUT_OF_CALLS,
    TransientError: LinkFailure.XERO_UNAVAILABLE,
    NotFoundError: LinkFailure.NOT_IN_XERO,
}


class CustomerLinkError(Exception):
    """There is no customer link; the text says why and what helps. `retry_after` in seconds, if waiting helps."""

    def __init__(self, failure: LinkFailure, retry_after: float | None = None) -> None:
        super().__init__(MESSAGES[failure])
        self.failure = failure
        self.retry_after = retry_after


def find_invoice(account_id: int, record_type: RecordType, record_id: int, invoice_id: UUID) -> OnlineInvoice:
    """The invoice with its link, if that is known; makes no call. Raises `CustomerLinkError` if it cannot have one."""
    with account_transaction(account_id) as session:
        invoice = online_invoices.find(session, account_id, record_type, record_id, invoice_id)
    if invoice is None:
        raise CustomerLinkError(LinkFailure.NOT_ON_RECORD)
    if not invoice.is_sale:
        raise CustomerLinkError(LinkFailure.NOT_A_SALE)
    if invoice.is_draft:
        raise CustomerLinkError(LinkFailure.DRAFT)
    return invoice


def fetch_link(account_id: int, invoice: OnlineInvoice) -> str:
    """Fetch the invoice's link from Xero, with one call, and keep it; raises `CustomerLinkError` without one."""
    with account_transaction(account_id) as session:
        organisation = xero_organisations.find(session, account_id, invoice.organisation_id)
    if organisation is None:
        raise CustomerLinkError(LinkFailure.DISCONNECTED)
    try:
        url = XeroClient(organisation, Priority.INTERACTIVE).online_invoice_url(invoice.invoice_id)
    except VendorError as error:
        log.info("customer_link.failed", account=account_id, organisation=organisation.id, error=type(error).__name__)
        raise CustomerLinkError(_failure_of(error), error.retry_after) from None
    with account_transaction(account_id) as session:
        online_invoices.save_url(session, account_id, invoice.organisation_id, invoice.invoice_id, url)
    return url


def _failure_of(error: VendorError) -> LinkFailure:
    failures = (failure for error_type, failure in FAILURES.items() if isinstance(error, error_type))
    return next(failures, LinkFailure.REFUSED)
