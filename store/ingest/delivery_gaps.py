"""Gap detection: Xero numbers its deliveries, so a gap that stays open means missed deliveries.

`contiguous_through` is the sequence number up to which every delivery has been received. Deliveries above it are kept
until those before them arrive. They may arrive out of order, so a gap counts only after a grace period.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

# Counting starts with the first delivery ever. A count that begins at 1 again belongs to a new webhook.
DETECT_GAPS = text("""
    WITH current AS (SELECT contiguous_through FROM xero_sequence WHERE id = 1 FOR UPDATE),
    base AS (
        SELECT CASE WHEN EXISTS (SELECT FROM xero_delivery WHERE first_sequence = 1)
                         AND (SELECT contiguous_through FROM current) > 0 AND NOT EXISTS (
                             SELECT FROM xero_delivery
                             WHERE last_sequence > (SELECT contiguous_through FROM current))
                    THEN 0
                    ELSE coalesce((SELECT contiguous_through FROM current),
                                  (SELECT min(first_sequence) - 1 FROM xero_delivery)) END AS contiguous_through),
    delivery AS (
        SELECT first_sequence, last_sequence, received_at,
               max(last_sequence) OVER (ORDER BY first_sequence, last_sequence
                                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS previous
        FROM xero_delivery, base WHERE last_sequence > base.contiguous_through),
    gap AS (
        SELECT min(d.first_sequence) AS ends_at FROM delivery d, base
        WHERE d.first_sequence
              > greatest(coalesce(d.previous, base.contiguous_through), base.contiguous_through) + 1),
    expired AS (
        SELECT EXISTS (SELECT FROM delivery d, gap
                       WHERE d.first_sequence >= gap.ends_at
                         AND d.received_at < now() - make_interval(secs => :seconds)) AS has_gap),
    advanced AS (
        SELECT coalesce(CASE WHEN expired.has_gap THEN (SELECT max(last_sequence) FROM delivery)
                             ELSE (SELECT max(d.last_sequence) FROM delivery d
                                   WHERE gap.ends_at IS NULL OR d.first_sequence < gap.ends_at) END,
                        base.contiguous_through) AS contiguous_through
        FROM base, gap, expired)
    INSERT INTO xero_sequence (id, contiguous_through)
    SELECT 1, contiguous_through FROM advanced WHERE contiguous_through IS NOT NULL
    ON CONFLICT (id) DO UPDATE SET contiguous_through = EXCLUDED.contiguous_through
    RETURNING contiguous_through, (SELECT has_gap FROM expired)
""")
DELETE_CONTIGUOUS = text("DELETE FROM xero_delivery WHERE last_sequence <= :contiguous_through")


def detect_gaps(session: Session, grace_seconds: float) -> bool:
    """Advance over the received deliveries; return True if a gap stayed open for `grace_seconds`.

    A gap is reported once. Of two schedulers that call this at once, one waits for the other.
    """
    row = session.execute(DETECT_GAPS, {"seconds": grace_seconds}).one_or_none()
    if row is None:
        return False
    session.execute(DELETE_CONTIGUOUS, {"contiguous_through": row.contiguous_through})
    return bool(row.has_gap)
