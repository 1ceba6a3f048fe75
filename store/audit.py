"""Who did what: kept a year, shown to admins. Names of people and things, never secrets or addresses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlmodel import Session

from store.database import touched

INSTALLATION = 0

NOTE = text("INSERT INTO audit (account_id, who, action, detail) VALUES (:account, :who, :action, :detail)")
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
    """Add a line, in the transaction of what it tells of. `action` is dotted and past: `key.revoked`."""
    chosen = {"account": account_id, "who": who[:200], "action": action, "detail": detail[:500]}
    session.execute(NOTE, chosen)


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
