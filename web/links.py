"""Links into Xero and Copper."""

from __future__ import annotations

from uuid import UUID

from runtime.settings import settings

GO = "https://go.xero.com/organisationlogin/default.aspx"
PAGES = {"ACCREC": "/AccountsReceivable/View.aspx", "ACCPAY": "/AccountsPayable/Edit.aspx"}

COPPER_WORDS = {"lead": "lead", "person": "contact", "company": "organization", "opportunity": "deal"}


def invoice(kind: str, invoice_id: UUID | str, short_code: str | None) -> str:
    """Opens the invoice in its own organisation (Xero docs: deep-link-xero).

    Without a short code the page opens in whichever organisation the reader used last.
    """
    return _in_organisation(f"{PAGES.get(kind, PAGES['ACCREC'])}?InvoiceID={invoice_id}", short_code)


def contact(contact_id: UUID, short_code: str | None) -> str:
    """Opens a contact in its own organisation (Xero docs: deep-link-xero)."""
    return _in_organisation(f"/Contacts/View/{contact_id}", short_code)


def _in_organisation(page: str, short_code: str | None) -> str:
    if not short_code:
        return f"https://go.xero.com{page}"
    return f"{GO}?shortcode={short_code}&redirecturl={page}"


def record(copper_account_id: int, kind: str, record_id: int) -> str:
    """Opens a record in Copper, whose own addresses call people contacts, companies organizations, and so on."""
    word = COPPER_WORDS[kind]
    return f"{settings().copper_login_url}/companies/{copper_account_id}/app#/{word}/{record_id}"


def panel(token: str) -> str:
    """What an admin of Copper gives as the embedded app's address."""
    return f"{settings().public_url}/panel?token={token}"
