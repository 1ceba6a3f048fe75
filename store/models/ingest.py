"""Tables of webhook events.

Every key starts with the account, so that the schema can be sharded by account.
"""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import SQLModel

from store.db.enums import (
    EventState,
)
from store.models.columns import Instant, account_key_column, column, key_column, serial_column


class Inbox(SQLModel, table=True):
    """Events as they were received, committed before they are acknowledged.

    Account 0 holds events of no account: those of unknown tenants, and malformed bodies for a person to inspect.
    """

    __table_args__ = (
        sa.UniqueConstraint("account_id", "dedupe_key"),
        sa.Index(
            "inbox_pending_idx",
            "account_id",
            "vendor",
            "organisation_id",
            "id",
            postgresql_where=sa.text("state IN ('pending', 'leased')"),
        ),
        sa.Index("inbox_failed_idx", "account_id", "id", postgresql_where=sa.text("state = 'failed'")),
        sa.Index("inbox_received_idx", "received_at", postgresql_using="brin"),
        sa.CheckConstraint("state IN ('pending', 'leased', 'done', 'failed', 'ignored', 'dismissed')", name="state"),
    )

    account_id: int = key_column()
    id: int = serial_column()
    vendor: str = column(sa.Text)
    organisation_id: int = column(sa.BigInteger, "0")
    tenant: str = column(sa.Text)
    category: str = column(sa.Text)
    event_type: str = column(sa.Text)
    resource_id: str = column(sa.Text)
    occurred_at: datetime | None = column(Instant, null=True)
    received_at: datetime = column(Instant, "now()")
    dedupe_key: bytes = column(sa.LargeBinary)
    correlation_id: str = column(sa.Text)
    state: EventState = column(sa.Text, "'pending'")
    attempts: int = column(sa.SmallInteger, "0")
    not_before: datetime = column(Instant, "now()")
    lease_id: UUID | None = column(sa.Uuid, null=True)
    leased_until: datetime | None = column(Instant, null=True)
    error: str | None = column(sa.Text, null=True)
    body: bytes | None = column(sa.LargeBinary, null=True)
    finished_at: datetime | None = column(Instant, null=True)


class DroppedEvents(SQLModel, table=True):
    """How many of an account's events were counted and not stored, by day (UTC), vendor and reason."""

    __tablename__ = "dropped_events"

    account_id: int = key_column()
    day: date = key_column(sa.Date)
    vendor: str = key_column(sa.Text)
    reason: str = key_column(sa.Text)
    events: int = column(sa.BigInteger)


class WebhookQuota(SQLModel, table=True):
    """How many inbox rows the web processes were granted for an account's Copper notifications this minute and day.

    `granted_rows` is the size of the latest grant.
    """

    __tablename__ = "webhook_quota"

    account_id: int = key_column()
    minute: datetime = column(Instant)
    minute_rows: int = column(sa.BigInteger, "0")
    day: date = column(sa.Date)
    day_rows: int = column(sa.BigInteger, "0")
    granted_rows: int = column(sa.BigInteger, "0")


class EventLatency(SQLModel, table=True):
    """The time from an event's receipt to its rows, as an hourly histogram (`EVENT_LATENCY_BUCKETS`)."""

    __tablename__ = "event_latency"

    account_id: int = account_key_column()
    hour: datetime = key_column(Instant)
    bucket: int = key_column(sa.SmallInteger)
    events: int = column(sa.BigInteger, "0")


class XeroDelivery(SQLModel, table=True):
    """The sequence numbers of one webhook delivery, kept until there is no gap below them."""

    __tablename__ = "xero_delivery"

    first_sequence: int = key_column()
    last_sequence: int = key_column()
    received_at: datetime = column(Instant, "now()")


class XeroSequence(SQLModel, table=True):
    """The number (`contiguous_through`) up to which all Xero deliveries to this app were received; one row."""

    __tablename__ = "xero_sequence"

    id: int = key_column()
    contiguous_through: int = column(sa.BigInteger)
