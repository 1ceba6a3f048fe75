"""Online invoices: the pages at Xero where customers see their invoices. An address is kept once it was requested."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.enums import InvoiceStatus, InvoiceType, RecordType

FIND_INVOICE = text("""
    SELECT i.organisation_id, i.invoice_id, i.number, i.type, i.status, i.online_url AS url
    FROM account a
    JOIN record_invoice x ON x.account_id = a.id AND is_shown(a, x.record_type, x.type, x.status)
    JOIN xero_invoice i ON i.account_id = x.account_id AND i.organisation_id = x.organisation_id
         AND i.invoice_id = x.invoice_id AND NOT i.is_deleted
    WHERE a.id = :account AND a.record_types @> ARRAY[CAST(:type AS text)]
      AND x.invoice_id = :invoice AND x.record_type = :type AND x.record_id = :record
""")
SAVE_URL = text("""
    UPDATE xero_invoice SET online_url = :url
    WHERE account_id = :account AND organisation_id = :organisation AND invoice_id = :invoice
""")


def has_page(invoice_type: str, status: str) -> bool:
    """Whether Xero has a page of an invoice for the customer: of a sales invoice, once it is no longer a draft."""
    return invoice_type == InvoiceType.INVOICE and status != InvoiceStatus.DRAFT


@dataclass(frozen=True)
class OnlineInvoice:
    """An invoice of a record, with the address of its page at Xero; `url` is None before it was requested."""

    organisation_id: int
    invoice_id: UUID
    number: str | None
    type: str
    status: str
    url: str | None

    @property
    def is_sale(self) -> bool:
        """Whether it is a sales invoice, not a bill or a credit: only these have a page for the customer."""
        return self.type == InvoiceType.INVOICE

    @property
    def is_draft(self) -> bool:
        """Whether it is a draft: Xero gives it a page for the customer once it is no longer one."""
        return self.status == InvoiceStatus.DRAFT

    @property
    def has_page(self) -> bool:
        """Whether Xero has a page of the invoice for the customer."""
        return has_page(self.type, self.status)


def find(
    session: Session, account_id: int, record_type: RecordType, record_id: int, invoice_id: UUID
) -> OnlineInvoice | None:
    """An invoice that the account shows on a record; None if it does not."""
    params = {"account": account_id, "type": record_type.value, "record": record_id, "invoice": invoice_id}
    row = session.execute(FIND_INVOICE, params).mappings().first()
    return OnlineInvoice(**row) if row else None


def save_url(session: Session, account_id: int, organisation_id: int, invoice_id: UUID, url: str) -> None:
    """Keep the address of an invoice's page; does nothing if the invoice was erased meanwhile."""
    params = {"account": account_id, "organisation": organisation_id, "invoice": invoice_id, "url": url}
    session.execute(SAVE_URL, params)
