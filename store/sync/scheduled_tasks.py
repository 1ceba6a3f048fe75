"""Recurring tasks: when each was last started. Claims are atomic, so several schedulers may run."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.database import AccountClosedError
from store.db.tenancy import LOCK_ACCOUNT

MIN_WAIT_SECONDS = 0.1

# A task that was never started counts from the account's creation, so that nothing runs on top of a first backfill.
ENSURE = text("""
    INSERT INTO scheduled_task (account_id, name, last_started_at)
    SELECT id, :name, created_at FROM account a
    WHERE closed_at IS NULL AND NOT EXISTS (SELECT FROM scheduled_task t WHERE t.account_id = a.id AND t.name = :name)
    FOR KEY SHARE
    ON CONFLICT DO NOTHING
""")
ENSURE_INSTALLATION = text("""
    INSERT INTO scheduled_task (account_id, name, last_started_at) VALUES (0, :name, '-infinity') ON CONFLICT DO NOTHING
""")
CLAIM = text("""
    UPDATE scheduled_task t SET last_started_at = now()
    WHERE t.name = :name AND t.account_id <> 0 AND t.last_started_at <= now() - make_interval(secs => :seconds)
      AND EXISTS (SELECT FROM account a WHERE a.id = t.account_id AND a.closed_at IS NULL)
    RETURNING t.account_id
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
# Each account has its own time of the night: the hour plus a share of the spread that its id determines.
CLAIM_NIGHTLY = text("""
    UPDATE scheduled_task t SET last_started_at = now()
    FROM (SELECT id, make_interval(hours => :hour, secs => (id * 7919 % 86400) / 86400.0 * :spread * 3600) AS at
          FROM account WHERE closed_at IS NULL) a
    WHERE t.name = :name AND t.account_id = a.id
      AND t.last_started_at < date_trunc('day', now() AT TIME ZONE 'UTC' - a.at) AT TIME ZONE 'UTC' + a.at
    RETURNING t.account_id
""")


def claim(session: Session, name: str, seconds: float) -> list[int]:
    """Start task `name` for all accounts for which it last started at least `seconds` ago; return their ids."""
    session.execute(ENSURE, {"name": name})
    return list(session.execute(CLAIM, {"name": name, "seconds": seconds}).scalars())


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
    session.execute(ENSURE_INSTALLATION, {"name": name})
    return session.execute(CLAIM_INSTALLATION, {"name": name, "seconds": seconds}).first() is not None


def claim_nightly(session: Session, name: str, hour: int, spread_hours: float) -> list[int]:
    """Start a nightly task for all accounts whose own time of this night has come; return their ids."""
    session.execute(ENSURE, {"name": name})
    params = {"name": name, "hour": hour, "spread": spread_hours}
    return list(session.execute(CLAIM_NIGHTLY, params).scalars())
