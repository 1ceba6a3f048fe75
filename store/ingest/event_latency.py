"""Event latency: the time from an event's receipt to its rows in the read model, as a histogram for each hour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from runtime.metrics import EVENT_LATENCY_BUCKETS
from store.db.database import execute_rowcount

# Upper bounds of the buckets in seconds; one more bucket takes what is above the last.

RECORD = text("""
    WITH completed AS MATERIALIZED (
        SELECT CAST(extract(epoch FROM now() - received_at) AS float8) AS latency
        FROM inbox WHERE account_id = :account AND id = ANY(:ids)),
    recorded AS (
        INSERT INTO event_latency AS existing (account_id, hour, bucket, events)
        SELECT :account, date_trunc('hour', now()), width_bucket(latency, CAST(:bounds AS float8[])), count(*)
        FROM completed GROUP BY 3 ORDER BY 3
        ON CONFLICT (account_id, hour, bucket) DO UPDATE SET events = existing.events + EXCLUDED.events)
    SELECT latency FROM completed
""")
SINCE = text("""
    SELECT hour, bucket, events FROM event_latency
    WHERE account_id = :account AND hour > now() - make_interval(hours => :hours) ORDER BY hour, bucket
""")
DELETE_EXPIRED = text("DELETE FROM event_latency WHERE hour < now() - make_interval(days => :days)")


@dataclass(frozen=True)
class HourlyLatency:
    """One hour's events by bucket (the index of its upper bound in `EVENT_LATENCY_BUCKETS`)."""

    hour: datetime
    buckets: dict[int, int]

    @property
    def events(self) -> int:
        """How many events became visible in this hour."""
        return sum(self.buckets.values())


def record_latency(session: Session, account_id: int, event_ids: Sequence[int]) -> list[float]:
    """Record that the rows of these events are visible now; return the latency of each in seconds."""
    params = {"account": account_id, "ids": list(event_ids), "bounds": list(EVENT_LATENCY_BUCKETS)}
    return list(session.execute(RECORD, params).scalars())


def latency_since(session: Session, account_id: int, hours: int) -> list[HourlyLatency]:
    """The account's last `hours` hours, oldest first; an hour without events is left out."""
    buckets_by_hour: dict[datetime, dict[int, int]] = {}
    for row in session.execute(SINCE, {"account": account_id, "hours": hours}):
        buckets_by_hour.setdefault(row.hour, {})[row.bucket] = row.events
    return [HourlyLatency(hour, buckets) for hour, buckets in buckets_by_hour.items()]


def quantile(hours: Iterable[HourlyLatency], fraction: float) -> float | None:
    """Seconds within which `fraction` (0 to 1) of the events became visible, interpolated; None without events.

    A latency above the last bound counts as that bound.
    """
    totals: dict[int, int] = {}
    for hourly in hours:
        for bucket, events in hourly.buckets.items():
            totals[bucket] = totals.get(bucket, 0) + events
    rank, cumulative = fraction * sum(totals.values()), 0.0
    for bucket, events in sorted(totals.items()):
        if cumulative + events >= rank:
            low = EVENT_LATENCY_BUCKETS[bucket - 1] if bucket else 0.0
            high = EVENT_LATENCY_BUCKETS[min(bucket, len(EVENT_LATENCY_BUCKETS) - 1)]
            return low + (high - low) * (rank - cumulative) / events
        cumulative += events
    return None


def delete_expired(session: Session, days: int) -> int:
    """Delete hours older than `days`; return the number of rows deleted."""
    return execute_rowcount(session, DELETE_EXPIRED, {"days": days})
