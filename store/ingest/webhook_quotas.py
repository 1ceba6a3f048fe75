"""Webhook quotas: how many events an account may store, and how many were only counted instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.database import execute_rowcount

RECENT_DAYS = 7

# Rows granted so far in the current minute and day.
MINUTE_ROWS = "CASE WHEN q.minute = EXCLUDED.minute THEN q.minute_rows ELSE 0 END"
DAY_ROWS = "CASE WHEN q.day = EXCLUDED.day THEN q.day_rows ELSE 0 END"
FITS = f"{MINUTE_ROWS} + %(rows)s <= %(minute_limit)s AND {DAY_ROWS} + %(rows)s <= %(day_limit)s"
# Busy accounts get large blocks and so ask rarely; quiet accounts get small blocks and so leave few rows unused.
BLOCK = f"GREATEST(%(rows)s, LEAST({MINUTE_ROWS} / 4, %(minute_limit)s / 50))"
GRANTED_ROWS = f"""CASE WHEN {FITS} THEN
    LEAST({BLOCK}, %(minute_limit)s - {MINUTE_ROWS}, %(day_limit)s - {DAY_ROWS}) ELSE 0 END"""
# The row lock serialises the web processes. Nothing is written for an account that is closed.
ACQUIRE = f"""
    INSERT INTO webhook_quota AS q (account_id, minute, minute_rows, day, day_rows, granted_rows)
    SELECT a.id, date_trunc('minute', now()), first.rows, CAST(now() AT TIME ZONE 'UTC' AS date), first.rows, first.rows
    FROM account a, (SELECT CASE WHEN %(rows)s <= LEAST(%(minute_limit)s::bigint, %(day_limit)s)
                            THEN %(rows)s::bigint ELSE 0 END AS rows) first
    WHERE a.id = %(account)s AND a.closed_at IS NULL FOR KEY SHARE OF a
    ON CONFLICT (account_id) DO UPDATE
    SET minute = EXCLUDED.minute, minute_rows = {MINUTE_ROWS} + {GRANTED_ROWS}, day = EXCLUDED.day,
        day_rows = {DAY_ROWS} + {GRANTED_ROWS}, granted_rows = {GRANTED_ROWS}
    RETURNING q.granted_rows, CAST(extract(epoch FROM q.minute + interval '1 minute' - now()) AS float8)
"""
RECORD_DROPPED = text("""
    INSERT INTO dropped_events AS existing (account_id, day, vendor, reason, events)
    SELECT a.id, CAST(now() AT TIME ZONE 'UTC' AS date), d.vendor, d.reason, d.events
    FROM json_to_recordset(CAST(:dropped AS json)) AS d(account_id bigint, vendor text, reason text, events bigint)
    JOIN account a ON a.id = d.account_id AND a.closed_at IS NULL
    ORDER BY a.id, d.vendor, d.reason FOR KEY SHARE OF a
    ON CONFLICT (account_id, day, vendor, reason) DO UPDATE SET events = existing.events + EXCLUDED.events
""")
RECENTLY_DROPPED = text("""
    SELECT vendor, reason, sum(events) AS events FROM dropped_events
    WHERE account_id = :account AND day > CAST(now() AT TIME ZONE 'UTC' AS date) - :days
    GROUP BY vendor, reason ORDER BY events DESC, vendor, reason
""")
DELETE_EXPIRED = text("DELETE FROM dropped_events WHERE day < CAST(now() AT TIME ZONE 'UTC' AS date) - :days")


@dataclass(frozen=True)
class QuotaGrant:
    """How many rows a web process may store for an account within `seconds`; 0 means none until then."""

    rows: int
    seconds: float


@dataclass(frozen=True)
class DroppedEvents:
    """How many of an account's events were counted and not stored, by vendor and reason."""

    vendor: str
    reason: str
    events: int


DroppedKey = tuple[int, str, str]
"""Account, vendor and reason."""


async def acquire(
    connection: AsyncConnection[TupleRow], account_id: int, rows: int, *, minute_limit: int, day_limit: int
) -> QuotaGrant | None:
    """Take `rows` and possibly some more of the account's quotas for this minute and this day (UTC).

    All processes together are never granted more than the limits. None if the account no longer exists.
    """
    params = {"account": account_id, "rows": rows, "minute_limit": minute_limit, "day_limit": day_limit}
    row = await (await connection.execute(ACQUIRE, params)).fetchone()
    return QuotaGrant(row[0], row[1]) if row else None


def record_dropped(session: Session, counts: Mapping[DroppedKey, int]) -> None:
    """Add to the accounts' counts of dropped events; an account that was closed in the meantime is left out."""
    rows = [
        {"account_id": account_id, "vendor": vendor, "reason": reason, "events": events}
        for (account_id, vendor, reason), events in counts.items()
    ]
    session.execute(RECORD_DROPPED, {"dropped": orjson.dumps(rows).decode()})


def recently_dropped(session: Session, account_id: int, days: int = RECENT_DAYS) -> list[DroppedEvents]:
    """The account's dropped events of the last `days`, most frequent first."""
    rows = session.execute(RECENTLY_DROPPED, {"account": account_id, "days": days})
    return [DroppedEvents(row.vendor, row.reason, int(row.events)) for row in rows]


def delete_expired(session: Session, days: int) -> int:
    """Delete counts older than `days`; return how many."""
    return execute_rowcount(session, DELETE_EXPIRED, {"days": days})


REASONS = {
    "over_limit": "beyond the limit a minute or a day: fetched by a catch-up instead",
    "malformed": "unreadable, beyond the {max_malformed} kept",
    "task": "about tasks",
    "project": "about projects",
    "activity_log": "about activities",
    "own_fields": "about fields that Patina itself writes",
}
OTHER_REASON = "of another type that is not shown"


def summary(dropped: Sequence[DroppedEvents], max_malformed: int) -> list[str]:
    """One sentence for each vendor and reason, such as `1,204 Copper events not kept: about tasks`."""
    sentences = []
    for count in dropped:
        noun = "event" if count.events == 1 else "events"
        reason = REASONS.get(count.reason, OTHER_REASON).format(max_malformed=max_malformed)
        sentences.append(f"{count.events:,} {count.vendor.capitalize()} {noun} not kept: {reason}")
    return sentences
