"""Deep links into Xero and Copper."""

from __future__ import annotations

from uuid import UUID

from runtime.settings import settings
from store.db.enums import InvoiceType

ORGANISATION_LOGIN = "https://go.xero.com/organisationlogin/default.aspx"
# Xero documents the pages of invoices and credit notes. Prepayments and overpayments are bank transactions.
BANK_TRANSACTION = "/Bank/ViewTransaction.aspx?bankTransactionID="
SALES_CREDIT_NOTE = "/AccountsReceivable/ViewCreditNote.aspx?creditNoteID="
SALES_INVOICE = "/AccountsReceivable/View.aspx?InvoiceID="
PAGES: dict[str, str] = {
    InvoiceType.INVOICE: SALES_INVOICE,
    InvoiceType.BILL: "/AccountsPayable/Edit.aspx?InvoiceID=",
    InvoiceType.CREDIT_NOTE: SALES_CREDIT_NOTE,
    InvoiceType.BILL_CREDIT_NOTE: "/AccountsPayable/ViewCreditNote.aspx?creditNoteID=",
    InvoiceType.UNKNOWN_CREDIT_NOTE: SALES_CREDIT_NOTE,
    InvoiceType.PREPAYMENT: BANK_TRANSACTION,
    InvoiceType.BILL_PREPAYMENT: BANK_TRANSACTION,
    InvoiceType.UNKNOWN_PREPAYMENT: BANK_TRANSACTION,
    InvoiceType.OVERPAYMENT: BANK_TRANSACTION,
    InvoiceType.BILL_OVERPAYMENT: BANK_TRANSACTION,
    InvoiceType.UNKNOWN_OVERPAYMENT: BANK_TRANSACTION,
}

COPPER_PATHS = {"lead": "lead", "person": "contact", "company": "organization", "opportunity": "deal"}


def invoice(invoice_type: str, invoice_id: UUID | str, short_code: str | None) -> str:
    """The URL of an invoice or a credit, in its own organisation (Xero docs: deep-link-xero).

    Without a short code the page opens in the organisation that the user opened last.
    """
    return _in_organisation(f"{PAGES.get(invoice_type, SALES_INVOICE)}{invoice_id}", short_code)


def contact(contact_id: UUID, short_code: str | None) -> str:
    """The URL of a contact, in its own organisation (Xero docs: deep-link-xero)."""
    return _in_organisation(f"/Contacts/View/{contact_id}", short_code)


def _in_organisation(page: str, short_code: str | None) -> str:
    if not short_code:
        return f"https://go.xero.com{page}"
    return f"{ORGANISATION_LOGIN}?shortcode={short_code}&redirecturl={page}"


def record(copper_account_id: int, record_type: str, record_id: int) -> str:
    """The URL of a record in Copper, whose URLs call people contacts, companies organizations, and so on."""
    path = COPPER_PATHS[record_type]
    return f"{settings().copper_login_url}/companies/{copper_account_id}/app#/{path}/{record_id}"


def panel(token: str) -> str:
    """The URL that an admin enters in Copper for the embedded app."""
    return f"{settings().public_url}/panel?token={token}"
