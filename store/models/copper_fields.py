"""Tables of the custom fields that Patina keeps up to date in Copper.

Every key starts with the account, so that the schema can be sharded by account.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlmodel import Field, SQLModel

from store.db.enums import FieldMeasure, FieldState, FieldWriting
from store.models.columns import Instant, account_key_column, column, key_column, record_type_check


class CopperFieldSettings(SQLModel, table=True):
    """Which custom fields an account keeps up to date, and on which records; no row: none.

    `version` grows with each change by an admin. `checked_at` is when the definitions were last compared with Copper's.
    `error` is why nothing is written, in words for an admin; the next attempt is at `not_before`. The writer that has
    the lease is the only one.
    """

    __tablename__ = "copper_field_settings"
    __table_args__ = (
        sa.CheckConstraint(f"state IN ({', '.join(repr(state.value) for state in FieldWriting)})", name="state"),
    )

    account_id: int = account_key_column()
    state: FieldWriting = column(sa.Text, "'off'")
    record_types: list[str] = column(pg.ARRAY(sa.Text), "'{}'")
    version: int = column(sa.BigInteger, "0")
    checked_at: datetime | None = column(Instant, null=True)
    not_before: datetime = column(Instant, "now()")
    error: str | None = column(sa.Text, null=True)
    lease_id: UUID | None = column(sa.Uuid, null=True)
    leased_until: datetime | None = column(Instant, null=True)


class CopperField(SQLModel, table=True):
    """A custom field of an account, by its key, which is Copper's `canonical_name`.

    `definition_id` is Copper's id of it, NULL before it was created. A field that is no longer selected stays, so that
    its values can be cleared and notifications about it are still recognised. `currency` is '' for dates and counts.
    """

    __tablename__ = "copper_field"
    __table_args__ = (
        sa.CheckConstraint(f"state IN ({', '.join(repr(state.value) for state in FieldState)})", name="state"),
    )

    account_id: int = account_key_column()
    field_key: str = key_column(sa.Text)
    measure: FieldMeasure = column(sa.Text)
    currency: str = column(sa.Text)
    is_selected: bool = column(sa.Boolean, "true")
    definition_id: int | None = column(sa.BigInteger, null=True)
    state: FieldState = column(sa.Text, "'new'")


class CopperFieldValue(SQLModel, table=True):
    """The values of a record's custom fields by key: as they should be, and as Copper has them.

    `is_stale`: the record's invoices have changed since `expected_values` were computed. Values are numbers, and dates
    as ISO texts; an empty field has no entry. `not_before` is when a difference may be written; `error` is why Copper
    refused the last attempt.
    """

    __tablename__ = "copper_field_value"
    __table_args__ = (
        sa.Index("copper_field_value_stale_idx", "account_id", postgresql_where=sa.text("is_stale")),
        sa.Index("copper_field_value_pending_idx", "account_id", "not_before", postgresql_where=sa.text("is_pending")),
        record_type_check("record_type"),
    )

    account_id: int = account_key_column()
    record_type: str = key_column(sa.Text)
    record_id: int = key_column()
    is_stale: bool = column(sa.Boolean, "true")
    expected_values: dict[str, Any] = column(pg.JSONB, "'{}'::jsonb")
    written_values: dict[str, Any] = column(pg.JSONB, "'{}'::jsonb")
    is_pending: bool = Field(
        default=None,
        sa_column=sa.Column(sa.Boolean, sa.Computed("expected_values <> written_values", persisted=True)),
    )
    written_at: datetime | None = column(Instant, null=True)
    not_before: datetime = column(Instant, "now()")
    attempts: int = column(sa.SmallInteger, "0")
    error: str | None = column(sa.Text, null=True)
