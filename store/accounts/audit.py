"""The audit log: who did what, kept for a year and shown to admins.

Entries name people and things, and hold no secrets and no e-mail addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.database import execute_rowcount
from store.db.tenancy import IS_WRITABLE

COMMAND_LINE = "the command line"
"""The actor of entries made by commands."""
MAX_ACTOR_LENGTH = 200
MAX_DETAIL_LENGTH = 500

RECORD = text(f"""
    INSERT INTO audit_log (account_id, actor, action, detail)
    SELECT CAST(:account AS bigint), CAST(:actor AS text), CAST(:action AS text), CAST(:detail AS text)
    WHERE {IS_WRITABLE}
""")
# Exports of an account run one at a time, so two of these statements never race.
RECORD_HOURLY = text(f"""
    INSERT INTO audit_log (account_id, actor, action, detail)
    SELECT CAST(:account AS bigint), CAST(:actor AS text), CAST(:action AS text), CAST(:detail AS text)
    WHERE {IS_WRITABLE}
      AND NOT EXISTS (SELECT FROM audit_log WHERE account_id = :account AND actor = :actor AND action = :action
                      AND starts_with(detail, :topic) AND created_at >= date_trunc('hour', now()))
""")
LATEST = text("""
    SELECT id, created_at, actor, action, detail FROM audit_log
    WHERE account_id = :account AND (CAST(:before AS bigint) IS NULL OR id < :before)
    ORDER BY id DESC LIMIT :limit
""")
# A partial index holds these rows: sign-ins may be rare among a year of exports.
LAST_SIGN_IN = text("""
    SELECT id, created_at, actor, action, detail FROM audit_log
    WHERE account_id = :account AND action = 'admin.signed_in' AND created_at <> :besides
    ORDER BY id DESC LIMIT 1
""")
DELETE_EXPIRED = text("DELETE FROM audit_log WHERE created_at < now() - make_interval(days => :days)")


@dataclass(frozen=True)
class AuditEntry:
    """One entry of the audit log."""

    id: int
    created_at: datetime
    actor: str
    action: str
    detail: str


def record(session: Session, account_id: int, actor: str, action: str, detail: str = "") -> None:
    """Add an entry, in the transaction that it describes. `action` is dotted and in the past tense: `key.revoked`.

    A closed account gets no entry, because its audit log is being erased.
    """
    record_each(session, account_id, actor, action, [detail])


def record_each(session: Session, account_id: int, actor: str, action: str, details: Sequence[str]) -> None:
    """Add an entry for each detail; otherwise like `record`."""
    rows = [
        {
            "account": account_id,
            "actor": actor[:MAX_ACTOR_LENGTH],
            "action": action,
            "detail": detail[:MAX_DETAIL_LENGTH],
        }
        for detail in details
    ]
    if rows:
        session.execute(RECORD, rows)


def record_hourly(session: Session, account_id: int, actor: str, action: str, topic: str, detail: str) -> None:
    """Add an entry unless this hour has one of the same actor, action and topic; `detail` begins with the topic.

    For what a program may do a thousand times an hour: only the first time is recorded.
    """
    params = {
        "account": account_id,
        "actor": actor[:MAX_ACTOR_LENGTH],
        "action": action,
        "topic": topic,
        "detail": detail[:MAX_DETAIL_LENGTH],
    }
    session.execute(RECORD_HOURLY, params)


def latest(session: Session, account_id: int, *, before: int | None = None, limit: int = 100) -> list[AuditEntry]:
    """The account's latest entries, newest first; with `before`, those with a smaller id."""
    rows = session.execute(LATEST, {"account": account_id, "before": before, "limit": limit})
    return [AuditEntry(*row) for row in rows]


def last_sign_in(session: Session, account_id: int, *, besides: datetime) -> AuditEntry | None:
    """The account's last sign-in of an admin, other than the one at the time `besides`."""
    row = session.execute(LAST_SIGN_IN, {"account": account_id, "besides": besides}).one_or_none()
    return AuditEntry(*row) if row is not None else None


def delete_expired(session: Session, days: int) -> int:
    """Delete entries older than `days`; return how many."""
    return execute_rowcount(session, DELETE_EXPIRED, {"days": days})
