"""Accounts: one row for each connected Copper account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Result, text
from sqlalchemy.orm import Session

from store.db.database import AccountClosedError
from store.db.enums import SetupStep
from store.sync import scheduled_tasks

UPSERT = text("""
    INSERT INTO account AS known (copper_account_id, name) VALUES (:copper_account_id, :name)
    ON CONFLICT (copper_account_id) DO UPDATE SET name = EXCLUDED.name WHERE known.closed_at IS NULL
    RETURNING id
""")
# A Copper account that is connected again while its old rows are being erased becomes a new account.
RELEASE_COPPER_ID = text("""
    UPDATE account SET copper_account_id = -id WHERE copper_account_id = :copper_account_id AND closed_at IS NOT NULL
""")
SUMMARIES = "SELECT id, copper_account_id, name, record_types, synced_at FROM account WHERE closed_at IS NULL"
LIST = text(f"{SUMMARIES} ORDER BY id LIMIT CAST(:limit AS bigint)")
FIND = text(f"{SUMMARIES} AND id = ANY(:accounts) ORDER BY id")
COUNT = text("SELECT count(*) FROM account WHERE closed_at IS NULL")
COPPER_ACCOUNT_ID = text("SELECT copper_account_id FROM account WHERE id = :account")
SYNCED_AT = text("SELECT synced_at FROM account WHERE id = :account")
FIND_BY_COPPER_ID = text("SELECT id FROM account WHERE copper_account_id = :copper_account_id AND closed_at IS NULL")
SETUP_STEP = text("SELECT setup_step FROM account WHERE id = :account")
COMPLETE_SETUP_STEP = text("""
    UPDATE account SET setup_step = CASE WHEN :step = 'settings' THEN 'panel' ELSE 'done' END
    WHERE id = :account AND setup_step = :step
""")


@dataclass(frozen=True)
class AccountSummary:
    """An account as commands list it."""

    id: int
    copper_account_id: int
    name: str
    record_types: tuple[str, ...]
    synced_at: datetime | None


def upsert(session: Session, copper_account_id: int, name: str) -> int:
    """Create the account of a Copper account, or update its name; returns its id.

    Raises `AccountClosedError` if the account is closed at the same moment.
    """
    params = {"copper_account_id": copper_account_id, "name": name}
    session.execute(RELEASE_COPPER_ID, params)
    account_id: int | None = session.execute(UPSERT, params).scalar_one_or_none()
    if account_id is None:
        raise AccountClosedError("The account was disconnected at this very moment. Connect it again.")
    scheduled_tasks.add_missing(session, account_id)
    return account_id


def list_accounts(session: Session, limit: int | None = None) -> list[AccountSummary]:
    """The accounts that are not closed, oldest first: the first `limit`, or (None) all."""
    return _summaries(session.execute(LIST, {"limit": limit}))


def find_accounts(session: Session, account_ids: Sequence[int]) -> list[AccountSummary]:
    """Those of these accounts that exist and are not closed, oldest first."""
    return _summaries(session.execute(FIND, {"accounts": list(account_ids)}))


def _summaries(rows: Result[Any]) -> list[AccountSummary]:
    return [AccountSummary(**{**row, "record_types": tuple(row["record_types"])}) for row in rows.mappings()]


def count(session: Session) -> int:
    """The number of accounts that are not closed."""
    return int(session.execute(COUNT).scalar_one())


def get_copper_account_id(session: Session, account_id: int) -> int:
    """Copper's own id of the account."""
    return int(session.execute(COPPER_ACCOUNT_ID, {"account": account_id}).scalar_one())


def find_copper_account_id(session: Session, account_id: int) -> int | None:
    """Copper's own id of an account that may be closed; None if it is erased, or its Copper account reconnected."""
    copper_account_id: int | None = session.execute(COPPER_ACCOUNT_ID, {"account": account_id}).scalar_one_or_none()
    return copper_account_id if copper_account_id is not None and copper_account_id > 0 else None


def find_by_copper_account_id(session: Session, copper_account_id: int) -> int | None:
    """The id of the account that a Copper account is connected as, or None."""
    params = {"copper_account_id": copper_account_id}
    account_id: int | None = session.execute(FIND_BY_COPPER_ID, params).scalar_one_or_none()
    return account_id


def get_synced_at(session: Session, account_id: int) -> datetime | None:
    """The time as of which the account's rows are known to be correct."""
    synced_at: datetime | None = session.execute(SYNCED_AT, {"account": account_id}).scalar_one()
    return synced_at


def get_setup_step(session: Session, account_id: int) -> SetupStep:
    """The set-up step that the account is at."""
    return SetupStep(session.execute(SETUP_STEP, {"account": account_id}).scalar_one())


def complete_setup_step(session: Session, account_id: int, step: SetupStep) -> None:
    """Advance the account to the next set-up step, if it is at `step`."""
    session.execute(COMPLETE_SETUP_STEP, {"account": account_id, "step": step.value})
