"""Columns and constraints that the tables share."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from store.db.enums import RecordType

SQLModel.metadata.naming_convention = {
    "pk": "%(table_name)s_pkey",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "ck": "%(table_name)s_%(constraint_name)s_check",
}
Instant = sa.DateTime(timezone=True)


def record_type_check(column: str) -> sa.CheckConstraint:
    """A check instead of an enum, because behind row-level security only leakproof comparisons may use an index."""
    values = ", ".join(repr(record_type.value) for record_type in RecordType)
    return sa.CheckConstraint(f"{column} IN ({values})", name=column)


def key_column(sa_type: Any = sa.BigInteger) -> Any:
    """A column of the primary key."""
    return Field(sa_type=sa_type, primary_key=True, sa_column_kwargs={"autoincrement": False})


def account_key_column() -> Any:
    """The key column of the row's account. The row is deleted with the account at the latest."""
    return Field(
        sa_type=sa.BigInteger,
        primary_key=True,
        foreign_key="account.id",
        ondelete="CASCADE",
        sa_column_kwargs={"autoincrement": False},
    )


def serial_column() -> Any:
    """A generated bigint key."""
    return Field(default=None, sa_column=sa.Column(sa.BigInteger, sa.Identity(), primary_key=True))


def column(sa_type: Any, default: str | None = None, *, null: bool = False) -> Any:
    """A column that is not part of the key, with a default of the database."""
    kwargs = {"server_default": sa.text(default)} if default is not None else {}
    if null:
        return Field(default=None, sa_type=sa_type, nullable=True, sa_column_kwargs=kwargs)
    return Field(sa_type=sa_type, nullable=False, sa_column_kwargs=kwargs)
