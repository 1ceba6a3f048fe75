"""Links into Xero."""

from __future__ import annotations

from uuid import UUID

GO = "https://go.xero.com/organisationlogin/default.aspx"
PAGES = {"ACCREC": "/AccountsReceivable/View.aspx", "ACCPAY": "/AccountsPayable/Edit.aspx"}


def invoice(kind: str, invoice_id: UUID, short_code: str | None) -> str:
    """Opens the invoice in its own organisation (Xero docs: deep-link-xero).

    Without a short code the page opens in whichever organisation the reader used last.
    """
    page = f"{PAGES.get(kind, PAGES['ACCREC'])}?InvoiceID={invoice_id}"
    if not short_code:
        return f"https://go.xero.com{page}"
    return f"{GO}?shortcode={short_code}&redirecturl={page}"
