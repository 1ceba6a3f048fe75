"""Freshness: how long events took from their receipt to the rows they led to, as a histogram an hour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlmodel import Session

from store.database import touched

# Upper bounds of the buckets, in seconds; one more takes what is above.
BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0)

RECORD = text("""
    WITH finished AS MATERIALIZED (
        SELECT CAST(extract(epoch FROM now() - received_at) AS float8) AS took
        FROM inbox WHERE account_id = :account AND id = ANY(:ids)),
    kept AS (
        INSERT INTO freshness AS known (account_id, hour, bucket, events)
        SELECT :account, date_trunc('hour', now()), width_bucket(took, CAST(:bounds AS float8[])), count(*)
        FROM finished GROUP BY 3 ORDER BY 3
        ON CONFLICT (account_id, hour, bucket) DO UPDATE SET events = known.events + EXCLUDED.events)
    SELECT took FROM finished
""")
SINCE = text("""
    SELECT hour, bucket, events FROM freshness
    WHERE account_id = :account AND hour > now() - make_interval(hours => :hours) ORDER BY hour, bucket
""")
FORGET = text("DELETE FROM freshness WHERE hour < now() - make_interval(days => :days)")


@dataclass(frozen=True)
class Hour:
    """One hour's events by bucket (the index of its upper bound in `BOUNDS`)."""

    at: datetime
    buckets: dict[int, int]

    @property
    def events(self) -> int:
        """How many events became visible in it."""
        return sum(self.buckets.values())


def record(session: Session, account_id: int, event_ids: Sequence[int]) -> list[float]:
    """Note that the rows of some events are visible now; returns how many seconds each took."""
    chosen = {"account": account_id, "ids": list(event_ids), "bounds": list(BOUNDS)}
    return list(session.execute(RECORD, chosen).scalars())


def since(session: Session, account_id: int, hours: int) -> list[Hour]:
    """The account's last hours, oldest first; an hour without events is left out."""
    found: dict[datetime, dict[int, int]] = {}
    for row in session.execute(SINCE, {"account": account_id, "hours": hours}):
        found.setdefault(row.hour, {})[row.bucket] = row.events
    return [Hour(at, buckets) for at, buckets in found.items()]


def quantile(hours: Iterable[Hour], share: float) -> float | None:
    """Seconds within which `share` (0 to 1) of the events were visible, to the width of a bucket; None without any.

    What took longer than the last bound counts as that bound.
    """
    total: dict[int, int] = {}
    for hour in hours:
        for bucket, events in hour.buckets.items():
            total[bucket] = total.get(bucket, 0) + events
    wanted, seen = share * sum(total.values()), 0.0
    for bucket, events in sorted(total.items()):
        if seen + events >= wanted:
            low = BOUNDS[bucket - 1] if bucket else 0.0
            high = BOUNDS[min(bucket, len(BOUNDS) - 1)]
            return low + (high - low) * (wanted - seen) / events
        seen += events
    return None


def forget(session: Session, days: int) -> int:
    """Drop hours older than `days`; returns how many rows went."""
    return touched(session, FORGET, {"days": days})
