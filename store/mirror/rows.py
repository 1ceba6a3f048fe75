"""The rows of the mirror, as what was fetched is passed to it: validated by the vendors' schemas, sent as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, computed_field

from store.db.enums import RecordType
from store.mirror.names import name_key


class InvoiceRow(BaseModel):
    """An invoice or a credit as the mirror stores it.

    `created_at` and `created_source` are the fallback that needs no event. The `balance` of a credit is what is left of
    it. Without a version of the vendor's own (`has_version`), `updated_at` is the time of the fetch. `paid_on` is the
    day on which it was paid in full; `currency_rate` is the price of a unit of the organisation's base currency.
    """

    invoice_id: UUID
    contact_id: UUID | None
    type: str
    status: str
    number: str | None
    issue_date: date | None
    due_date: date | None
    total: Decimal | None
    balance: Decimal | None
    currency: str | None
    created_at: datetime
    created_source: str
    updated_at: datetime
    has_version: bool = True
    reference: str | None = None
    amount_paid: Decimal | None = None
    amount_credited: Decimal | None = None
    currency_rate: Decimal | None = None
    paid_on: date | None = None
    expected_payment_date: date | None = None
    is_sent: bool | None = None


class ContactRow(BaseModel):
    """A contact with its normalised addresses, each with what was typed.

    `phones` are its normalised phone numbers; None leaves those in the mirror, because Xero sent none of its lists.
    """

    contact_id: UUID
    name: str
    status: str
    merged_to: UUID | None
    updated_at: datetime
    has_version: bool = True
    emails: Mapping[str, str]
    phones: tuple[str, ...] | None = None


class RelationRow(BaseModel):
    """The far end of a relation."""

    related_type: RecordType
    related_id: int


class RecordRow(BaseModel):
    """A Copper record with its owner, addresses and phone numbers (as for contacts), and the relations in its fields.

    `email_domain` is a company's, normalised as the domains of addresses are.
    """

    record_id: int
    name: str
    assignee_id: int | None = None
    updated_at: datetime
    has_version: bool = True
    email_domain: str | None = None
    emails: Mapping[str, str] = {}
    phones: tuple[str, ...] = ()
    relations: tuple[RelationRow, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def name_key(self) -> str:
        """The name as names are compared."""
        return name_key(self.name)


MirrorRow = TypeVar("MirrorRow", InvoiceRow, ContactRow, RecordRow)
INVOICES = TypeAdapter(list[InvoiceRow])
CONTACTS = TypeAdapter(list[ContactRow])
RECORDS = TypeAdapter(list[RecordRow])


def newest(rows: Iterable[MirrorRow], key: str) -> list[MirrorRow]:
    """One row for each id: the newest version, if a response or a batch has several."""
    newest_rows: dict[Any, MirrorRow] = {}
    for row in rows:
        known = newest_rows.get(getattr(row, key))
        if known is None or row.updated_at >= known.updated_at:
            newest_rows[getattr(row, key)] = row
    return list(newest_rows.values())
