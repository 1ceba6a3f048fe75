"""Who did what: kept a year, shown to admins. Names of people and things, never secrets or addresses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlmodel import Session

from store.database import touched
from store.tenancy import IS_WRITABLE

INSTALLATION = 0

NOTE = text(f"""
    INSERT INTO audit (account_id, who, action, detail)
    SELECT CAST(:account AS bigint), CAST(:who AS text), CAST(:action AS text), CAST(:detail AS text)
    WHERE {IS_WRITABLE}
""")
# As long as one export at a time runs of an account, no two of these see each other's absence.
NOTE_HOURLY = text(f"""
    INSERT INTO audit (account_id, who, action, detail)
    SELECT CAST(:account AS bigint), CAST(:who AS text), CAST(:action AS text), CAST(:detail AS text)
    WHERE {IS_WRITABLE}
      AND NOT EXISTS (SELECT FROM audit WHERE account_id = :account AND who = :who AND action = :action
                      AND starts_with(detail, :topic) AND at >= date_trunc('hour', now()))
""")
LATEST = text("""
    SELECT id, at, who, action, detail FROM audit
    WHERE account_id = :account AND (CAST(:before AS bigint) IS NULL OR id < :before)
    ORDER BY id DESC LIMIT :limit
""")
# An index holds these rows alone: among a year of exports there may be few of them.
LAST_SIGN_IN = text("""
    SELECT id, at, who, action, detail FROM audit
    WHERE account_id = :account AND action = 'admin.signed_in' AND at <> :besides
    ORDER BY id DESC LIMIT 1
""")
FORGET = text("DELETE FROM audit WHERE at < now() - make_interval(days => :days)")


@dataclass(frozen=True)
class Entry:
    """One line of the trail."""

    id: int
    at: datetime
    who: str
    action: str
    detail: str


def note(session: Session, account_id: int, who: str, action: str, detail: str = "") -> None:
    """Add a line, in the transaction of what it tells of. `action` is dotted and past: `key.revoked`.

    An account that is closed gets none: its trail is being erased.
    """
    chosen = {"account": account_id, "who": who[:200], "action": action, "detail": detail[:500]}
    session.execute(NOTE, chosen)


def note_hourly(session: Session, account_id: int, who: str, action: str, topic: str, detail: str) -> None:
    """Add a line unless this hour has one of the same caller, action and topic, which `detail` begins with.

    For what a program may do a thousand times an hour: the first time is told, the others are its repetition.
    """
    params = {"account": account_id, "who": who[:200], "action": action, "topic": topic, "detail": detail[:500]}
    session.execute(NOTE_HOURLY, params)


def latest(session: Session, account_id: int, *, before: int | None = None, limit: int = 100) -> list[Entry]:
    """The account's latest lines, newest first, those older than `before`."""
    rows = session.execute(LATEST, {"account": account_id, "before": before, "limit": limit})
    return [Entry(*row) for row in rows]


def last_sign_in(session: Session, account_id: int, *, besides: datetime) -> Entry | None:
    """The account's last sign-in of an admin, apart from the one at the time `besides`."""
    row = session.execute(LAST_SIGN_IN, {"account": account_id, "besides": besides}).one_or_none()
    return Entry(*row) if row is not None else None


def forget(session: Session, days: int) -> int:
    """Delete lines older than `days`; returns how many went."""
    return touched(session, FORGET, {"days": days})
