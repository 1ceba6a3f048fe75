"""One invoice or credit of the account, whatever its status: its fields, its contact's addresses, and its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.enums import RecordType
from store.read_model.account_invoices import COLUMNS
from store.read_model.record_invoices import InvoiceListItem

MAX_EMAILS = 50

FIND = text(f"""
    SELECT {COLUMNS},
           r.updated_at, r.has_version, r.fetched_at, r.is_deleted OR r.status = 'DELETED' AS is_deleted,
           is_shown(a, NULL, r.type, r.status) AS is_shown, is_shown(a, NULL, r.type, 'AUTHORISED') AS is_type_shown,
           r.currency_rate
    FROM account a
    JOIN xero_organisation o ON o.account_id = a.id AND o.status <> 'removed'
    JOIN xero_invoice r ON r.account_id = a.id AND r.organisation_id = o.id AND r.invoice_id = :invoice
    LEFT JOIN xero_contact c ON c.account_id = a.id AND c.organisation_id = r.organisation_id
         AND c.contact_id = r.contact_id
    WHERE a.id = :account
    ORDER BY r.is_deleted, r.organisation_id LIMIT 1
""")
LIST_CONTACT_EMAILS = text("""
    SELECT email FROM xero_contact_email
    WHERE account_id = :account AND organisation_id = :organisation AND contact_id = :contact
    ORDER BY email LIMIT :limit
""")
# Companies first, because they are what people look for; then whoever is closest to the contact.
LIST_RECORDS = text("""
    SELECT x.record_type, x.record_id, coalesce(c.name, '') AS name,
           x.record_type = ANY(a.record_types) AND is_shown(a, x.record_type, x.type, x.status) AS is_shown,
           count(*) OVER () AS records
    FROM account a
    JOIN record_invoice x ON x.account_id = a.id AND x.invoice_id = :invoice
    LEFT JOIN copper_record c ON c.account_id = a.id AND c.record_type = x.record_type AND c.record_id = x.record_id
    WHERE a.id = :account
    ORDER BY array_position('{company,person,lead,opportunity}', x.record_type), x.record_id
    LIMIT :limit
""")


@dataclass(frozen=True)
class InvoiceDetails:
    """An invoice or a credit with everything that is mirrored of it.

    `is_deleted`: it was deleted in Xero. `is_shown`: the account's settings let it be shown, which
    depends on its type (`is_type_shown`) and its status. `updated_at` is Xero's
    time of the last change if `has_version`; otherwise it is when the invoice was fetched.
    """

    item: InvoiceListItem
    contact_id: UUID | None
    contact_name: str
    updated_at: datetime
    has_version: bool
    fetched_at: datetime
    is_deleted: bool
    is_shown: bool
    is_type_shown: bool
    currency_rate: Decimal | None


@dataclass(frozen=True)
class InvoiceRecord:
    """A record that has the invoice; `is_shown` is False if the account's settings hide it there."""

    record_type: RecordType
    record_id: int
    name: str
    is_shown: bool


def find(session: Session, account_id: int, invoice_id: UUID) -> InvoiceDetails | None:
    """An invoice of a connected organisation, deleted or not; None if it was never synced."""
    row = session.execute(FIND, {"account": account_id, "invoice": invoice_id}).mappings().one_or_none()
    if row is None:
        return None
    fields = InvoiceListItem._fields
    others = {name: value for name, value in row.items() if name not in fields}
    return InvoiceDetails(item=InvoiceListItem(**{name: row[name] for name in fields}), **others)


def list_contact_emails(session: Session, account_id: int, organisation_id: int, contact_id: UUID) -> list[str]:
    """The normalised addresses of a contact, of which there may be none; at most `MAX_EMAILS`."""
    params = {"account": account_id, "organisation": organisation_id, "contact": contact_id, "limit": MAX_EMAILS}
    return list(session.execute(LIST_CONTACT_EMAILS, params).scalars())


def list_records(
    session: Session, account_id: int, invoice_id: UUID, limit: int
) -> tuple[Sequence[InvoiceRecord], int]:
    """The first records that have the invoice, and how many there are."""
    rows = session.execute(LIST_RECORDS, {"account": account_id, "invoice": invoice_id, "limit": limit}).all()
    records = [InvoiceRecord(RecordType(row.record_type), row.record_id, row.name, row.is_shown) for row in rows]
    return records, rows[0].records if rows else 0
