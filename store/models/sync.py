"""Tables of sync runs, the schedule and API usage.

Every key starts with the account, so that the schema can be sharded by account.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlmodel import Field, SQLModel

from store.db.enums import (
    RunState,
)
from store.models.columns import Instant, account_key_column, column, key_column, serial_column


class SyncRun(SQLModel, table=True):
    """One backfill, catch-up or reconciliation of one source: a chain of short jobs with a committed cursor.

    It is `paused` while its connection needs a new authorisation, and continues where it stopped. `drift` counts, by
    resource type, the rows that a reconciliation found missing, stale and extra.
    """

    __tablename__ = "sync_run"
    __table_args__ = (
        sa.Index(
            "sync_run_running_idx",
            "account_id",
            "organisation_id",
            "kind",
            unique=True,
            postgresql_where=sa.text("state = 'running'"),
        ),
        sa.Index("sync_run_latest_idx", "account_id", "organisation_id", "kind", "id"),
        sa.Index("sync_run_failed_idx", "account_id", postgresql_where=sa.text("state = 'failed'")),
        sa.Index("sync_run_due_idx", "not_before", postgresql_where=sa.text("state = 'running'")),
        sa.Index(
            "sync_run_drift_idx",
            "account_id",
            "organisation_id",
            "id",
            postgresql_where=sa.text(
                "kind = 'reconciliation' AND state = 'done' AND jsonb_path_exists(drift, '$.*.* ? (@ > 0)')"
            ),
        ),
        sa.CheckConstraint("state IN ('running', 'paused', 'done', 'failed')", name="state"),
    )

    account_id: int = account_key_column()
    id: int = serial_column()
    organisation_id: int = column(sa.BigInteger, "0")
    kind: str = column(sa.Text)
    state: RunState = column(sa.Text, "'running'")
    stage: str = column(sa.Text)
    cursor: dict[str, Any] = column(pg.JSONB, "'{}'::jsonb")
    counts: dict[str, Any] = column(pg.JSONB, "'{}'::jsonb")
    drift: dict[str, Any] | None = column(pg.JSONB, null=True)
    lease_id: UUID | None = column(sa.Uuid, null=True)
    leased_until: datetime | None = column(Instant, null=True)
    not_before: datetime = column(Instant, "now()")
    attempts: int = column(sa.SmallInteger, "0")
    error: str | None = column(sa.Text, null=True)
    started_at: datetime = column(Instant, "now()")
    finished_at: datetime | None = column(Instant, null=True)


class RunSeenId(SQLModel, table=True):
    """An id that a dry run has seen at the vendor. A dry run does not write to the mirror, so it is kept here."""

    __tablename__ = "run_seen_id"

    account_id: int = account_key_column()
    run_id: int = key_column()
    resource_type: str = key_column(sa.Text)
    resource_id: str = key_column(sa.Text)


class ApiUsage(SQLModel, table=True):
    """Calls to a vendor and downloaded bytes, by organisation (0: Copper), day (UTC) and priority."""

    __tablename__ = "api_usage"
    __table_args__ = (sa.Index(None, "day"),)

    account_id: int = account_key_column()
    organisation_id: int = key_column()
    day: date = key_column(sa.Date)
    priority: str = key_column(sa.Text)
    calls: int = column(sa.BigInteger, "0")
    failed: int = column(sa.BigInteger, "0")
    rate_limited: int = column(sa.BigInteger, "0")
    bytes_compressed: int = column(sa.BigInteger, "0")
    bytes_uncompressed: int = column(sa.BigInteger, "0")
    last_call_at: datetime = column(Instant, "now()")


class ScheduledTask(SQLModel, table=True):
    """When a recurring task of an account (0: of the installation) last started, or (in the future) will start."""

    __tablename__ = "scheduled_task"
    __table_args__ = (sa.Index(None, "name", "last_started_at"),)

    account_id: int = key_column()
    name: str = key_column(sa.Text)
    last_started_at: datetime = column(Instant, "now()")


class Heartbeat(SQLModel, table=True):
    """When a kind of process was last known to be running."""

    process: str = Field(sa_type=sa.Text, primary_key=True)
    last_seen_at: datetime = column(Instant, "now()")
