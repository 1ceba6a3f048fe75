"""Xero counts its deliveries: a hole that stays open means that some were missed.

`settled_to` is the number up to which everything is accounted for. Deliveries above it are kept until the
ones before them have come too; they may come out of order, so a hole counts only after a while.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlmodel import Session

# The first delivery ever is where counting starts; a count that begins at 1 again is a new webhook's.
SETTLE = text("""
    WITH known AS (SELECT settled_to FROM xero_sequence WHERE id = 1 FOR UPDATE),
    base AS (
        SELECT CASE WHEN EXISTS (SELECT FROM xero_delivery WHERE first_sequence = 1)
                         AND (SELECT settled_to FROM known) > 0 AND NOT EXISTS (
                             SELECT FROM xero_delivery WHERE last_sequence > (SELECT settled_to FROM known))
                    THEN 0
                    ELSE coalesce((SELECT settled_to FROM known),
                                  (SELECT min(first_sequence) - 1 FROM xero_delivery)) END AS settled_to),
    reach AS (
        SELECT first_sequence, last_sequence, received_at,
               max(last_sequence) OVER (ORDER BY first_sequence, last_sequence
                                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
        FROM xero_delivery, base WHERE last_sequence > base.settled_to),
    hole AS (
        SELECT min(r.first_sequence) AS at FROM reach r, base
        WHERE r.first_sequence > greatest(coalesce(r.before, base.settled_to), base.settled_to) + 1),
    missed AS (
        SELECT EXISTS (SELECT FROM reach r, hole
                       WHERE r.first_sequence >= hole.at
                         AND r.received_at < now() - make_interval(secs => :seconds)) AS open),
    settled AS (
        SELECT coalesce(CASE WHEN missed.open THEN (SELECT max(last_sequence) FROM reach)
                             ELSE (SELECT max(r.last_sequence) FROM reach r
                                   WHERE hole.at IS NULL OR r.first_sequence < hole.at) END,
                        base.settled_to) AS settled_to
        FROM base, hole, missed)
    INSERT INTO xero_sequence (id, settled_to)
    SELECT 1, settled_to FROM settled WHERE settled_to IS NOT NULL
    ON CONFLICT (id) DO UPDATE SET settled_to = EXCLUDED.settled_to
    RETURNING settled_to, (SELECT open FROM missed)
""")
FORGET = text("DELETE FROM xero_delivery WHERE last_sequence <= :settled_to")


def settle(session: Session, seconds: float) -> bool:
    """Account for what has come; True when a hole stayed open for `seconds`: deliveries were missed.

    A hole is told of once. One of two schedulers that do this at once waits for the other.
    """
    row = session.execute(SETTLE, {"seconds": seconds}).one_or_none()
    if row is None:
        return False
    session.execute(FORGET, {"settled_to": row.settled_to})
    return bool(row.open)
