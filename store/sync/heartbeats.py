"""Heartbeats: when each kind of process was last known to be running."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

AGES = text("SELECT process, extract(epoch FROM now() - last_seen_at) FROM heartbeat")
RECORD = text("""
    WITH previous AS (SELECT last_seen_at FROM heartbeat WHERE process = :process),
    recorded AS (
        INSERT INTO heartbeat (process) VALUES (:process)
        ON CONFLICT (process) DO UPDATE SET last_seen_at = now()
        RETURNING 1)
    SELECT extract(epoch FROM now() - (SELECT last_seen_at FROM previous)) FROM recorded
""")


def heartbeat_ages(session: Session) -> dict[str, float]:
    """Seconds since the last heartbeat of each kind of process; a process that never ran is left out."""
    return {row[0]: float(row[1]) for row in session.execute(AGES)}


def record_heartbeat(session: Session, process: str) -> float | None:
    """Record a heartbeat of a kind of process; return the seconds since the previous one, None for the first."""
    age = session.execute(RECORD, {"process": process}).scalar_one()
    return float(age) if age is not None else None
