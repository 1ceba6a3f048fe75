"""Recurring tasks: when each was last started. Claims are atomic, so several schedulers may run.

A claim reads only what is due, by an index, however many accounts there are. So each account has a row of every
recurring task from its creation on; `add_missing` adds the rows of a task that is new in a release.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from runtime.settings import settings
from store.db.database import AccountClosedError, execute_rowcount
from store.db.tenancy import LOCK_ACCOUNT

MIN_WAIT_SECONDS = 0.1
CATCH_UP, RECONCILIATION, RELATIONS, CREATED_DATES = "catch_up", "reconciliation", "relations", "created_dates"
RECURRING_TASKS = (CATCH_UP, RECONCILIATION, RELATIONS, CREATED_DATES)
"""The tasks that every account has."""

# The latest time up to `at` that is an account's own time of the night: the hour plus a share of the spread that its id
# determines.
NIGHT = "make_interval(hours => :hour, secs => ({account} * 7919 % 86400) / 86400.0 * :spread * 3600)"
LATEST_NIGHT = f"(date_trunc('day', {{at}} AT TIME ZONE 'UTC' - {NIGHT}) + {NIGHT}) AT TIME ZONE 'UTC'"
# A task that was never started counts from the account's creation, so that nothing runs on top of a first backfill; a
# nightly one from the account's own time of the night before.
ADD_MISSING = text(f"""
    INSERT INTO scheduled_task (account_id, name, last_started_at)
    SELECT a.id, task.name,
           CASE WHEN task.name = '{RECONCILIATION}' THEN {LATEST_NIGHT.format(at="a.created_at", account="a.id")}
                ELSE a.created_at END
    FROM account a, unnest(CAST(:names AS text[])) AS task(name)
    WHERE a.closed_at IS NULL AND (CAST(:account AS bigint) IS NULL OR a.id = :account)
      AND NOT EXISTS (SELECT FROM scheduled_task t WHERE t.account_id = a.id AND t.name = task.name)
    FOR KEY SHARE OF a
    ON CONFLICT DO NOTHING
""")
ADD_INSTALLATION = text("""
    INSERT INTO scheduled_task (account_id, name, last_started_at) VALUES (0, :name, '-infinity') ON CONFLICT DO NOTHING
""")
# The accounts that have waited longest come first. With a gap, each starts that much later than the one before it, and
# the first after the last one of the previous claim; `last_started_at` is then in the future.
CLAIM = text("""
    WITH due AS (
        SELECT t.account_id, t.last_started_at
        FROM scheduled_task t JOIN account a ON a.id = t.account_id AND a.closed_at IS NULL
        WHERE t.name = :name AND t.account_id <> 0 AND t.last_started_at <= now() - make_interval(secs => :seconds)
        ORDER BY t.last_started_at LIMIT :limit
        FOR UPDATE OF t FOR KEY SHARE OF a),
    start AS (
        SELECT account_id,
               greatest(now(), (SELECT max(last_started_at) FROM scheduled_task WHERE name = :name)
                               + make_interval(secs => :gap))
               + (row_number() OVER (ORDER BY last_started_at, account_id) - 1) * make_interval(secs => :gap) AS at
        FROM due)
    UPDATE scheduled_task t SET last_started_at = start.at
    FROM start WHERE t.account_id = start.account_id AND t.name = :name
    RETURNING t.account_id, extract(epoch FROM t.last_started_at - now())
""")
CLAIM_INSTALLATION = text("""
    UPDATE scheduled_task SET last_started_at = now()
    WHERE name = :name AND account_id = 0 AND last_started_at <= now() - make_interval(secs => :seconds)
    RETURNING account_id
""")
CLAIM_FOR_ACCOUNT = text(f"""
    WITH locked AS ({LOCK_ACCOUNT.format(account=":account")})
    INSERT INTO scheduled_task AS t (account_id, name) SELECT id, :name FROM locked
    ON CONFLICT (account_id, name) DO UPDATE SET last_started_at = now()
    WHERE t.last_started_at <= now() - make_interval(secs => :seconds)
    RETURNING account_id
""")
REMAINING_WAIT = text("""
    SELECT greatest(:seconds - extract(epoch FROM now() - last_started_at), 0) FROM scheduled_task
    WHERE account_id = :account AND name = :name
""")
# `last_started_at` is the account's own time of the night, not the time of the claim, so a day later it is due again.
CLAIM_NIGHTLY = text(f"""
    WITH due AS (
        SELECT t.account_id FROM scheduled_task t JOIN account a ON a.id = t.account_id AND a.closed_at IS NULL
        WHERE t.name = :name AND t.last_started_at <= now() - interval '24 hours'
        ORDER BY t.last_started_at LIMIT :limit
        FOR UPDATE OF t FOR KEY SHARE OF a)
    UPDATE scheduled_task t SET last_started_at = {LATEST_NIGHT.format(at="now()", account="t.account_id")}
    FROM due WHERE t.account_id = due.account_id AND t.name = :name
    RETURNING t.account_id
""")


@dataclass(frozen=True)
class Claim:
    """An account whose task the caller starts in `delay` seconds."""

    account_id: int
    delay: float


def add_missing(session: Session, account_id: int | None = None) -> int:
    """Add the recurring tasks that an account, or (None) any account, does not have; return how many there were."""
    config = settings()
    params = {
        "names": list(RECURRING_TASKS),
        "account": account_id,
        "hour": config.reconcile_hour,
        "spread": config.reconcile_spread_hours,
    }
    return execute_rowcount(session, ADD_MISSING, params)


def claim(session: Session, name: str, seconds: float, *, gap: float = 0.0, limit: int | None = None) -> list[Claim]:
    """Start task `name` for the accounts for which it last started at least `seconds` ago, up to `limit` of them.

    One account starts every `gap` seconds, in all claims together; without a gap, all start now.
    """
    params = {"name": name, "seconds": seconds, "gap": gap, "limit": limit}
    return [Claim(row[0], max(float(row[1]), 0.0)) for row in session.execute(CLAIM, params)]


def claim_for_account(session: Session, account_id: int, name: str, seconds: float) -> float:
    """Start one account's task, at most once in `seconds`; return 0 if it was started, else the seconds to wait.

    Unlike a recurring task it is due the first time. Raises `AccountClosedError` for an account that is closed.
    """
    params = {"account": account_id, "name": name, "seconds": seconds}
    if session.execute(CLAIM_FOR_ACCOUNT, params).first() is not None:
        return 0.0
    wait = session.execute(REMAINING_WAIT, params).scalar_one_or_none()
    if wait is None:
        raise AccountClosedError(f"account {account_id} is closed")
    return max(float(wait), MIN_WAIT_SECONDS)


def claim_installation(session: Session, name: str, seconds: float) -> bool:
    """Start a task of the whole installation if it is due; return whether it was."""
    session.execute(ADD_INSTALLATION, {"name": name})
    return session.execute(CLAIM_INSTALLATION, {"name": name, "seconds": seconds}).first() is not None


def claim_nightly(
    session: Session, name: str, hour: int, spread_hours: float, *, gap: float = 0.0, limit: int | None = None
) -> list[Claim]:
    """Start a nightly task for the accounts whose own time of this night has come, up to `limit` of them.

    Of those that are due together, because nights were missed, one account starts every `gap` seconds.
    """
    params = {"name": name, "hour": hour, "spread": spread_hours, "limit": limit}
    account_ids = session.execute(CLAIM_NIGHTLY, params).scalars()
    return [Claim(account_id, number * gap) for number, account_id in enumerate(account_ids)]
