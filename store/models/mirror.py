"""Tables that mirror the data of Xero and Copper.

Every key starts with the account, so that the schema can be sharded by account.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from store.db.enums import (
    RecordType,
)
from store.mirror.address_patterns import IS_IRREGULAR
from store.models.columns import Instant, account_key_column, column, key_column, record_type_check


class XeroContact(SQLModel, table=True):
    """Mirror of a Xero contact; its addresses are in `xero_contact_email`.

    If the vendor gave no version (`has_version` is false), `updated_at` is when the row was fetched, and any later
    fetch replaces it.
    """

    __tablename__ = "xero_contact"

    account_id: int = account_key_column()
    organisation_id: int = key_column()
    contact_id: UUID = key_column(sa.Uuid)
    name: str = column(sa.Text)
    status: str = column(sa.Text)
    merged_to: UUID | None = column(sa.Uuid, null=True)
    updated_at: datetime = column(Instant)
    has_version: bool = column(sa.Boolean, "true")
    fetched_at: datetime = column(Instant)
    changed_at: datetime = column(Instant)
    is_deleted: bool = column(sa.Boolean, "false")


class XeroContactEmail(SQLModel, table=True):
    """A normalised address of a contact or of one of its contact persons.

    `as_typed` is the address as it was typed, if that differs.
    """

    __tablename__ = "xero_contact_email"
    __table_args__ = (
        sa.Index("xero_contact_email_email_idx", "account_id", "email"),
        sa.Index("xero_contact_email_domain_idx", "account_id", "domain"),
        sa.Index(
            "xero_contact_email_irregular_idx",
            "account_id",
            "organisation_id",
            "contact_id",
            "email",
            postgresql_where=sa.text(IS_IRREGULAR),
        ),
    )

    account_id: int = account_key_column()
    organisation_id: int = key_column()
    contact_id: UUID = key_column(sa.Uuid)
    email: str = key_column(sa.Text)
    domain: str = Field(
        default=None, sa_column=sa.Column(sa.Text, sa.Computed("split_part(email, '@', 2)", persisted=True))
    )
    as_typed: str | None = column(sa.Text, null=True)


class XeroContactPhone(SQLModel, table=True):
    """A phone number of a contact, as its digits without the prefixes of calls abroad or within the country."""

    __tablename__ = "xero_contact_phone"

    account_id: int = account_key_column()
    organisation_id: int = key_column()
    contact_id: UUID = key_column(sa.Uuid)
    phone: str = key_column(sa.Text)


class XeroInvoice(SQLModel, table=True):
    """Mirror of a Xero invoice, bill or credit (see `InvoiceType`).

    `created_at` is the best known date, `created_source` its origin. `has_version` is as for contacts. The `balance` of
    a credit is what is left of it. `paid_on` is the day on which it was paid in full, `currency_rate` the price of a
    unit of the organisation's base currency in the invoice's own. `online_url` is the customer link, once it was
    requested: Xero sends it with no listing, so a fetch leaves it alone.
    """

    __tablename__ = "xero_invoice"
    __table_args__ = (
        sa.Index("xero_invoice_contact_idx", "account_id", "organisation_id", "contact_id"),
        sa.Index(
            "xero_invoice_open_idx",
            "account_id",
            "currency",
            "type",
            postgresql_include=["organisation_id", "status", "balance", "due_date"],
            postgresql_where=sa.text("status = 'AUTHORISED' AND balance > 0 AND NOT is_deleted"),
        ),
        sa.Index("xero_invoice_created_idx", "account_id", "created_at", "invoice_id"),
        sa.CheckConstraint(
            "created_source IN ('webhook', 'history', 'issue_date', 'updated_date')", name="created_source"
        ),
    )

    account_id: int = account_key_column()
    organisation_id: int = key_column()
    invoice_id: UUID = key_column(sa.Uuid)
    contact_id: UUID | None = column(sa.Uuid, null=True)
    type: str = column(sa.Text)
    status: str = column(sa.Text)
    number: str | None = column(sa.Text, null=True)
    reference: str | None = column(sa.Text, null=True)
    issue_date: date | None = column(sa.Date, null=True)
    due_date: date | None = column(sa.Date, null=True)
    paid_on: date | None = column(sa.Date, null=True)
    expected_payment_date: date | None = column(sa.Date, null=True)
    total: Decimal | None = column(sa.Numeric, null=True)
    balance: Decimal | None = column(sa.Numeric, null=True)
    amount_paid: Decimal | None = column(sa.Numeric, null=True)
    amount_credited: Decimal | None = column(sa.Numeric, null=True)
    currency: str | None = column(sa.Text, null=True)
    currency_rate: Decimal | None = column(sa.Numeric, null=True)
    is_sent: bool | None = column(sa.Boolean, null=True)
    created_at: datetime = column(Instant)
    created_source: str = column(sa.Text)
    updated_at: datetime = column(Instant)
    has_version: bool = column(sa.Boolean, "true")
    fetched_at: datetime = column(Instant)
    changed_at: datetime = column(Instant)
    history_fetched_at: datetime | None = column(Instant, null=True)
    online_url: str | None = column(sa.Text, null=True)
    is_deleted: bool = column(sa.Boolean, "false")


class CopperRecord(SQLModel, table=True):
    """Mirror of a Copper lead, person, company or opportunity; `has_version` is as for Xero contacts.

    `name_key` is its name as names are compared (`store.mirror.names`). Only a company has an `email_domain`.
    `relations_fetched_at` is when its relations were last fetched: an opportunity's `/related`, a company's people.
    `assignee_id` is the Copper user who owns the record, or None.
    """

    __tablename__ = "copper_record"
    __table_args__ = (
        sa.Index(
            "copper_record_domain_idx",
            "account_id",
            "email_domain",
            postgresql_where=sa.text("email_domain IS NOT NULL"),
        ),
        sa.Index("copper_record_name_key_idx", "account_id", "name_key", postgresql_where=sa.text("name_key <> ''")),
        record_type_check("record_type"),
    )

    account_id: int = account_key_column()
    record_type: RecordType = key_column(sa.Text)
    record_id: int = key_column()
    name: str = column(sa.Text)
    name_key: str = column(sa.Text, "''")
    email_domain: str | None = column(sa.Text, null=True)
    updated_at: datetime = column(Instant)
    has_version: bool = column(sa.Boolean, "true")
    fetched_at: datetime = column(Instant)
    changed_at: datetime = column(Instant)
    assignee_id: int | None = column(sa.BigInteger, null=True)
    relations_fetched_at: datetime | None = column(Instant, null=True)
    is_deleted: bool = column(sa.Boolean, "false")


class CopperUser(SQLModel, table=True):
    """The name of a Copper user, for the owners of records; every fetch replaces all users of the account."""

    __tablename__ = "copper_user"

    account_id: int = account_key_column()
    user_id: int = key_column()
    name: str = column(sa.Text)
    fetched_at: datetime = column(Instant)


class CopperRecordEmail(SQLModel, table=True):
    """A normalised address of a lead or a person; `as_typed` is as for contacts."""

    __tablename__ = "copper_record_email"
    __table_args__ = (
        sa.Index("copper_record_email_domain_idx", "account_id", "domain"),
        sa.Index("copper_record_email_email_idx", "account_id", "email"),
        sa.Index(
            "copper_record_email_irregular_idx",
            "account_id",
            "record_type",
            "record_id",
            "email",
            postgresql_where=sa.text(IS_IRREGULAR),
        ),
        record_type_check("record_type"),
    )

    account_id: int = account_key_column()
    record_type: RecordType = key_column(sa.Text)
    record_id: int = key_column()
    email: str = key_column(sa.Text)
    domain: str = Field(
        default=None, sa_column=sa.Column(sa.Text, sa.Computed("split_part(email, '@', 2)", persisted=True))
    )
    as_typed: str | None = column(sa.Text, null=True)


class CopperRecordPhone(SQLModel, table=True):
    """A phone number of a lead, person or company, as for contacts; `last_digits` is what finds it."""

    __tablename__ = "copper_record_phone"
    __table_args__ = (
        sa.Index("copper_record_phone_digits_idx", "account_id", "last_digits"),
        record_type_check("record_type"),
    )

    account_id: int = account_key_column()
    record_type: RecordType = key_column(sa.Text)
    record_id: int = key_column()
    phone: str = key_column(sa.Text)
    last_digits: str = Field(
        default=None, sa_column=sa.Column(sa.Text, sa.Computed('"right"(phone, 8)', persisted=True))
    )


class CopperRelation(SQLModel, table=True):
    """A relation, stored with the record that contains it: a person's company, an opportunity's people.

    `origin` is `field` (`company_id`, `primary_contact_id`) or `related` (the record's `/related`).
    """

    __tablename__ = "copper_relation"
    __table_args__ = (
        sa.Index("copper_relation_related_idx", "account_id", "related_type", "related_id", "record_type", "record_id"),
        record_type_check("record_type"),
        record_type_check("related_type"),
    )

    account_id: int = account_key_column()
    record_type: RecordType = key_column(sa.Text)
    record_id: int = key_column()
    related_type: RecordType = key_column(sa.Text)
    related_id: int = key_column()
    origin: str = key_column(sa.Text)


class UnreadableField(SQLModel, table=True):
    """A field of a vendor's responses that could not be parsed, and in how many rows; '' stands for whole rows."""

    __tablename__ = "unreadable_field"

    account_id: int = account_key_column()
    organisation_id: int = key_column()
    resource: str = key_column(sa.Text)
    field: str = key_column(sa.Text)
    rows: int = column(sa.BigInteger, "0")
    last_row_id: str = column(sa.Text)
    first_seen_at: datetime = column(Instant, "now()")
    last_seen_at: datetime = column(Instant, "now()")
