"""Tables of the read model: invoices and balances by record, and what is still to be projected.

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
from store.models.columns import Instant, account_key_column, column, key_column, record_type_check, serial_column

RANKING_COLUMNS = (
    *("open", "overdue", "not_due"),
    *("overdue_1_to_30", "overdue_31_to_60", "overdue_61_to_90", "overdue_over_90"),
)
"""The amounts of a balance by which records can be ranked, each with an index."""


class ContactLink(SQLModel, table=True):
    """A Xero contact that was linked manually to a record, because no address matches.

    `batch_id` is shared by the links that were made together, so that they can be undone together.
    """

    __tablename__ = "contact_link"
    __table_args__ = (
        sa.Index("contact_link_record_idx", "account_id", "record_type", "record_id"),
        sa.Index("contact_link_batch_idx", "account_id", "batch_id", postgresql_where=sa.text("batch_id IS NOT NULL")),
        record_type_check("record_type"),
    )

    account_id: int = account_key_column()
    organisation_id: int = key_column()
    contact_id: UUID = key_column(sa.Uuid)
    record_type: RecordType = key_column(sa.Text)
    record_id: int = key_column()
    linked_by: str = column(sa.Text)
    linked_at: datetime = column(Instant, "now()")
    batch_id: UUID | None = column(sa.Uuid, null=True)


class InvoicePin(SQLModel, table=True):
    """An invoice that was pinned to an opportunity by hand."""

    __tablename__ = "invoice_pin"
    __table_args__ = (sa.Index("invoice_pin_opportunity_idx", "account_id", "opportunity_id"),)

    account_id: int = account_key_column()
    organisation_id: int = key_column()
    invoice_id: UUID = key_column(sa.Uuid)
    opportunity_id: int = key_column()
    pinned_by: str = column(sa.Text)
    pinned_at: datetime = column(Instant, "now()")


class ProjectionQueue(SQLModel, table=True):
    """A change of the mirror that is not projected yet. The projection computes which records it affects."""

    __tablename__ = "projection_queue"

    account_id: int = account_key_column()
    id: int = serial_column()
    entity_type: str = column(sa.Text)
    organisation_id: int | None = column(sa.BigInteger, null=True)
    xero_id: UUID | None = column(sa.Uuid, null=True)
    record_id: int | None = column(sa.BigInteger, null=True)
    email: str | None = column(sa.Text, null=True)
    queued_at: datetime = column(Instant, "now()")


class RecordInvoice(SQLModel, table=True):
    """The read model: one row for each record and invoice. Its primary key covers every displayed column."""

    __tablename__ = "record_invoice"
    __table_args__ = (
        sa.PrimaryKeyConstraint(
            "account_id",
            "record_type",
            "record_id",
            "created_at",
            "invoice_id",
            postgresql_include=[
                "organisation_id",
                "type",
                "status",
                "number",
                "issuer",
                "issue_date",
                "due_date",
                "total",
                "balance",
                "currency",
                "created_source",
                "short_code",
                "reference",
                "paid_on",
                "expected_payment_date",
                "amount_paid",
                "amount_credited",
                "is_sent",
            ],
        ),
        sa.Index("record_invoice_invoice_idx", "account_id", "invoice_id"),
        {
            "postgresql_with": {
                "fillfactor": "85",
                "autovacuum_vacuum_scale_factor": "0.02",
                "autovacuum_vacuum_insert_scale_factor": "0.05",
            }
        },
    )

    account_id: int = key_column()
    record_type: str = key_column(sa.Text)
    record_id: int = key_column()
    created_at: datetime = key_column(Instant)
    invoice_id: UUID = key_column(sa.Uuid)
    organisation_id: int = column(sa.BigInteger)
    type: str = column(sa.Text)
    status: str = column(sa.Text)
    number: str | None = column(sa.Text, null=True)
    issuer: str = column(sa.Text)
    issue_date: date | None = column(sa.Date, null=True)
    due_date: date | None = column(sa.Date, null=True)
    total: Decimal | None = column(sa.Numeric, null=True)
    balance: Decimal | None = column(sa.Numeric, null=True)
    currency: str | None = column(sa.Text, null=True)
    created_source: str = column(sa.Text)
    short_code: str | None = column(sa.Text, null=True)
    reference: str | None = column(sa.Text, null=True)
    paid_on: date | None = column(sa.Date, null=True)
    expected_payment_date: date | None = column(sa.Date, null=True)
    amount_paid: Decimal | None = column(sa.Numeric, null=True)
    amount_credited: Decimal | None = column(sa.Numeric, null=True)
    is_sent: bool | None = column(sa.Boolean, null=True)


class RecordBalance(SQLModel, table=True):
    """A record's open balance by type and currency ('': none given): the sum of its rows that await payment.

    For a type of credits it is what is left to use. `overdue` is the part that was due before its organisation's
    `balances_as_of`; it is the sum of the four columns after it, which divide it by days overdue. A record without a
    balance has no row.
    """

    __tablename__ = "record_balance"
    __table_args__ = (
        *(
            sa.Index(f"record_balance_{name}_idx", "account_id", "record_type", "type", "currency", name, "record_id")
            for name in RANKING_COLUMNS
        ),
    )

    account_id: int = key_column()
    record_type: str = key_column(sa.Text)
    record_id: int = key_column()
    type: str = key_column(sa.Text)
    currency: str = key_column(sa.Text)
    open: Decimal = column(sa.Numeric)
    overdue: Decimal = column(sa.Numeric)
    overdue_1_to_30: Decimal = column(sa.Numeric)
    overdue_31_to_60: Decimal = column(sa.Numeric)
    overdue_61_to_90: Decimal = column(sa.Numeric)
    overdue_over_90: Decimal = column(sa.Numeric)
    invoices: int = column(sa.Integer)
    overdue_invoices: int = column(sa.Integer)
    not_due: Decimal = Field(
        default=None, sa_column=sa.Column(sa.Numeric, sa.Computed("open - overdue", persisted=True))
    )
