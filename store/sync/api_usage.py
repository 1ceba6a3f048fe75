"""API usage: vendor calls and downloaded bytes by organisation, day and priority."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.database import execute_rowcount

RECORD = text("""
    INSERT INTO api_usage AS usage (account_id, organisation_id, day, priority, calls, failed, rate_limited,
                                    bytes_compressed, bytes_uncompressed)
    VALUES (:account, :organisation, CAST(now() AS date), :priority, :calls, :failed, :rate_limited, :bytes_compressed,
            :bytes_uncompressed)
    ON CONFLICT (account_id, organisation_id, day, priority) DO UPDATE SET
        calls = usage.calls + EXCLUDED.calls, failed = usage.failed + EXCLUDED.failed,
        rate_limited = usage.rate_limited + EXCLUDED.rate_limited,
        bytes_compressed = usage.bytes_compressed + EXCLUDED.bytes_compressed,
        bytes_uncompressed = usage.bytes_uncompressed + EXCLUDED.bytes_uncompressed, last_call_at = now()
""")
# A Xero organisation's call limit belongs to its tenant, which several accounts may share.
XERO_CALLS_TODAY = text("""
    SELECT coalesce(sum(u.calls) FILTER (WHERE u.day = CAST(now() AS date)), 0),
           extract(epoch FROM now() - max(u.last_call_at))
    FROM xero_organisation o
    JOIN api_usage u ON u.account_id = o.account_id AND u.organisation_id = o.id
    WHERE o.tenant_id = :tenant AND u.day >= CAST(now() AS date) - 1
""")
COPPER_CALLS_TODAY = text("""
    SELECT coalesce(sum(calls) FILTER (WHERE day = CAST(now() AS date)), 0),
           extract(epoch FROM now() - max(last_call_at))
    FROM api_usage
    WHERE account_id = :account AND organisation_id = 0 AND day >= CAST(now() AS date) - 1
""")
SINCE = text("""
    SELECT account_id, organisation_id, priority, sum(calls), sum(failed), sum(rate_limited), sum(bytes_compressed),
           sum(bytes_uncompressed)
    FROM api_usage
    WHERE (CAST(:account AS bigint) IS NULL OR account_id = :account) AND day >= :since
    GROUP BY account_id, organisation_id, priority ORDER BY account_id, organisation_id, priority
""")
TOTALS_BY_DAY = text("""
    SELECT day, CASE WHEN organisation_id = 0 THEN 'copper' ELSE 'xero' END AS vendor, priority, sum(calls),
           sum(failed), sum(rate_limited), sum(bytes_compressed), sum(bytes_uncompressed)
    FROM api_usage WHERE day >= :since GROUP BY 1, 2, 3
""")
XERO_BYTES_SINCE = text("""
    SELECT coalesce(sum(bytes_uncompressed), 0) FROM api_usage WHERE day >= :since AND organisation_id <> 0
""")
# Xero's day is the 24 hours from the first call, so it may have begun yesterday.
BUSY_ORGANISATIONS = text("""
    SELECT o.account_id, o.id, o.tenant_id
    FROM (SELECT account_id, organisation_id, sum(calls) AS calls FROM api_usage
          WHERE day >= CAST(now() AS date) - 1 AND organisation_id <> 0
          GROUP BY 1, 2 HAVING sum(calls) >= :calls) busy
    JOIN xero_organisation o ON o.account_id = busy.account_id AND o.id = busy.organisation_id
    ORDER BY busy.calls DESC, o.account_id, o.id LIMIT :limit
""")
DELETE_EXPIRED = text("DELETE FROM api_usage WHERE day < CAST(now() AS date) - CAST(:days AS int)")


@dataclass(frozen=True)
class ApiUsage:
    """Calls of one priority and the bytes they downloaded, as sent over the wire and uncompressed.

    `organisation_id` 0 is the account's Copper.
    """

    account_id: int
    organisation_id: int
    priority: str
    calls: int
    failed: int
    rate_limited: int
    bytes_compressed: int
    bytes_uncompressed: int


@dataclass(frozen=True)
class UsageTotal:
    """Calls of one day (UTC), vendor (`xero` or `copper`) and priority, of all accounts, and their bytes."""

    day: date
    vendor: str
    priority: str
    calls: int
    failed: int
    rate_limited: int
    bytes_compressed: int
    bytes_uncompressed: int


def totals_by_day(session: Session, since: date) -> list[UsageTotal]:
    """The usage of all accounts together, of each day since `since`."""
    rows = session.execute(TOTALS_BY_DAY, {"since": since})
    return [UsageTotal(row[0], row[1], row[2], *map(int, row[3:])) for row in rows]


def xero_bytes_since(session: Session, since: date) -> int:
    """Uncompressed bytes that all accounts downloaded from Xero since a day (UTC)."""
    return int(session.execute(XERO_BYTES_SINCE, {"since": since}).scalar_one())


def busy_organisations(session: Session, calls: int, limit: int) -> list[tuple[int, int, UUID]]:
    """(account, organisation, tenant) of those with at least so many calls since yesterday, the busiest first."""
    return [(row[0], row[1], row[2]) for row in session.execute(BUSY_ORGANISATIONS, {"calls": calls, "limit": limit})]


def record(session: Session, usage: ApiUsage) -> None:
    """Add calls of today to the stored usage."""
    params = {
        "account": usage.account_id,
        "organisation": usage.organisation_id,
        "priority": usage.priority,
        "calls": usage.calls,
        "failed": usage.failed,
        "rate_limited": usage.rate_limited,
        "bytes_compressed": usage.bytes_compressed,
        "bytes_uncompressed": usage.bytes_uncompressed,
    }
    session.execute(RECORD, params)


def xero_calls_today(session: Session, tenant: UUID) -> tuple[int, float | None]:
    """Calls to a Xero organisation today (UTC), and seconds since the last call (None: none since yesterday)."""
    calls, age = session.execute(XERO_CALLS_TODAY, {"tenant": tenant}).one()
    return int(calls), float(age) if age is not None else None


def copper_calls_today(session: Session, account_id: int) -> tuple[int, float | None]:
    """Calls to an account's Copper today (UTC), and seconds since the last call (None: none since yesterday)."""
    calls, age = session.execute(COPPER_CALLS_TODAY, {"account": account_id}).one()
    return int(calls), float(age) if age is not None else None


def usage_since(session: Session, day: date | datetime, account_id: int | None = None) -> list[ApiUsage]:
    """Usage since a day (UTC) by organisation and priority, of one account or (None) of all."""
    rows = session.execute(SINCE, {"account": account_id, "since": day})
    return [ApiUsage(row[0], row[1], row[2], *map(int, row[3:])) for row in rows]


def delete_expired(session: Session, days: int) -> int:
    """Delete usage older than `days`; return the number of rows deleted."""
    return execute_rowcount(session, DELETE_EXPIRED, {"days": days})
