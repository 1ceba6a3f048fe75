"""How much of what webhooks bring may be kept for an account, and how much was counted instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from sqlalchemy import text
from sqlmodel import Session

from store.database import touched

RECENT_DAYS = 7

# What a window has given out so far, if it is the one of now.
IN_MINUTE = "CASE WHEN w.minute = EXCLUDED.minute THEN w.in_minute ELSE 0 END"
IN_DAY = "CASE WHEN w.day = EXCLUDED.day THEN w.in_day ELSE 0 END"
FITS = f"{IN_MINUTE} + %(rows)s <= %(minute_limit)s AND {IN_DAY} + %(rows)s <= %(day_limit)s"
# Whoever has many asks rarely; whoever has few leaves little behind.
BLOCK = f"GREATEST(%(rows)s, LEAST({IN_MINUTE} / 4, %(minute_limit)s / 50))"
GRANTED = f"""CASE WHEN {FITS} THEN
    LEAST({BLOCK}, %(minute_limit)s - {IN_MINUTE}, %(day_limit)s - {IN_DAY}) ELSE 0 END"""
# The row's lock makes the processes take turns; of an account that is being closed nothing is written.
TAKE = f"""
    INSERT INTO notification_window AS w (account_id, minute, in_minute, day, in_day, granted)
    SELECT a.id, date_trunc('minute', now()), first.rows, CAST(now() AT TIME ZONE 'UTC' AS date), first.rows, first.rows
    FROM account a, (SELECT CASE WHEN %(rows)s <= LEAST(%(minute_limit)s::bigint, %(day_limit)s)
                            THEN %(rows)s::bigint ELSE 0 END AS rows) first
    WHERE a.id = %(account)s AND a.closed_at IS NULL FOR KEY SHARE OF a
    ON CONFLICT (account_id) DO UPDATE
    SET minute = EXCLUDED.minute, in_minute = {IN_MINUTE} + {GRANTED}, day = EXCLUDED.day,
        in_day = {IN_DAY} + {GRANTED}, granted = {GRANTED}
    RETURNING w.granted, CAST(extract(epoch FROM w.minute + interval '1 minute' - now()) AS float8)
"""
COUNT_DROPPED = text("""
    INSERT INTO dropped_events AS known (account_id, day, source, reason, events)
    SELECT a.id, CAST(now() AT TIME ZONE 'UTC' AS date), d.source, d.reason, d.events
    FROM json_to_recordset(CAST(:dropped AS json)) AS d(account_id bigint, source text, reason text, events bigint)
    JOIN account a ON a.id = d.account_id AND a.closed_at IS NULL
    ORDER BY a.id, d.source, d.reason FOR KEY SHARE OF a
    ON CONFLICT (account_id, day, source, reason) DO UPDATE SET events = known.events + EXCLUDED.events
""")
RECENT = text("""
    SELECT source, reason, sum(events) AS events FROM dropped_events
    WHERE account_id = :account AND day > CAST(now() AT TIME ZONE 'UTC' AS date) - :days
    GROUP BY source, reason ORDER BY events DESC, source, reason
""")
PURGE = text("DELETE FROM dropped_events WHERE day < CAST(now() AT TIME ZONE 'UTC' AS date) - :days")


@dataclass(frozen=True)
class Grant:
    """How many rows a web process may have kept for an account, within so many seconds; 0: none until then."""

    rows: int
    seconds: float


@dataclass(frozen=True)
class DroppedEvents:
    """How many of an account's events were counted and not kept, by vendor and reason."""

    source: str
    reason: str
    events: int


DroppedKey = tuple[int, str, str]
"""Account, vendor and reason."""


async def take(
    connection: AsyncConnection[TupleRow], account_id: int, rows: int, *, minute_limit: int, day_limit: int
) -> Grant | None:
    """Take room for `rows` and some more of what an account may have kept this minute and this day (UTC).

    The processes together are never granted more than the limits. None when there is no such account any more.
    """
    params = {"account": account_id, "rows": rows, "minute_limit": minute_limit, "day_limit": day_limit}
    row = await (await connection.execute(TAKE, params)).fetchone()
    return Grant(row[0], row[1]) if row else None


def count_dropped(session: Session, dropped: Mapping[DroppedKey, int]) -> None:
    """Add to the counts of accounts; one that was closed meanwhile is left out."""
    rows = [
        {"account_id": account_id, "source": source, "reason": reason, "events": events}
        for (account_id, source, reason), events in dropped.items()
    ]
    session.execute(COUNT_DROPPED, {"dropped": orjson.dumps(rows).decode()})


def recently_dropped(session: Session, account_id: int, days: int = RECENT_DAYS) -> list[DroppedEvents]:
    """What was not kept of an account's events in the last `days`, the most frequent first."""
    rows = session.execute(RECENT, {"account": account_id, "days": days})
    return [DroppedEvents(row.source, row.reason, int(row.events)) for row in rows]


def purge(session: Session, days: int) -> int:
    """Delete counts older than `days`; returns how many went."""
    return touched(session, PURGE, {"days": days})


REASONS = {
    "over_limit": "beyond the limit a minute or a day: fetched by a catch-up instead",
    "malformed": "unreadable, beyond the {most} kept",
    "task": "about tasks",
    "project": "about projects",
    "activity_log": "about activities",
}


def summary(dropped: Sequence[DroppedEvents], most_malformed: int) -> list[str]:
    """One sentence for each vendor and reason, such as `1,204 Copper events not kept: about tasks`."""
    said = []
    for one in dropped:
        noun = "event" if one.events == 1 else "events"
        reason = REASONS.get(one.reason, "of another type that is not shown").format(most=most_malformed)
        said.append(f"{one.events:,} {one.source.capitalize()} {noun} not kept: {reason}")
    return said
