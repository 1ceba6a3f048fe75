"""Call meters: what each purpose cost in calls and bytes, by organisation and day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from sqlalchemy import text
from sqlmodel import Session

from store.database import touched

RECORD = text("""
    INSERT INTO call_meter AS known (account_id, organisation_id, day, purpose, calls, failed, refused,
                                     bytes_wire, bytes_plain)
    VALUES (:account, :organisation, CAST(now() AS date), :purpose, 1, :failed, :refused, :wire, :plain)
    ON CONFLICT (account_id, organisation_id, day, purpose) DO UPDATE SET
        calls = known.calls + 1, failed = known.failed + EXCLUDED.failed,
        refused = known.refused + EXCLUDED.refused, bytes_wire = known.bytes_wire + EXCLUDED.bytes_wire,
        bytes_plain = known.bytes_plain + EXCLUDED.bytes_plain, last_at = now()
""")
# A Xero organisation's budget is its tenant's, whichever accounts share it.
XERO_USED = text("""
    SELECT coalesce(sum(m.calls) FILTER (WHERE m.day = CAST(now() AS date)), 0),
           extract(epoch FROM now() - max(m.last_at))
    FROM xero_organisation o
    JOIN call_meter m ON m.account_id = o.account_id AND m.organisation_id = o.id
    WHERE o.tenant_id = :tenant AND m.day >= CAST(now() AS date) - 1
""")
COPPER_USED = text("""
    SELECT coalesce(sum(calls) FILTER (WHERE day = CAST(now() AS date)), 0), extract(epoch FROM now() - max(last_at))
    FROM call_meter
    WHERE account_id = :account AND organisation_id = 0 AND day >= CAST(now() AS date) - 1
""")
SINCE = text("""
    SELECT account_id, organisation_id, purpose, sum(calls), sum(failed), sum(refused), sum(bytes_wire),
           sum(bytes_plain)
    FROM call_meter
    WHERE (CAST(:account AS bigint) IS NULL OR account_id = :account) AND day >= :since
    GROUP BY account_id, organisation_id, purpose ORDER BY account_id, organisation_id, purpose
""")
FORGET = text("DELETE FROM call_meter WHERE day < CAST(now() AS date) - CAST(:days AS int)")


@dataclass(frozen=True)
class Metered:
    """Calls of one purpose and the bytes they pulled: as sent over the wire, and uncompressed."""

    account_id: int
    organisation_id: int
    purpose: str
    calls: int
    failed: int
    refused: int
    bytes_wire: int
    bytes_plain: int


def record(
    session: Session,
    account_id: int,
    organisation_id: int,
    purpose: str,
    *,
    failed: bool,
    refused: bool,
    wire: int,
    plain: int,
) -> None:
    """Count one call; `organisation_id` 0 is the account's Copper."""
    chosen = {
        "account": account_id,
        "organisation": organisation_id,
        "purpose": purpose,
        "failed": int(failed),
        "refused": int(refused),
        "wire": wire,
        "plain": plain,
    }
    session.execute(RECORD, chosen)


def xero_used(session: Session, tenant: UUID) -> tuple[int, float | None]:
    """Calls of a Xero organisation today (UTC), and seconds since the last one (None: none lately)."""
    used, ago = session.execute(XERO_USED, {"tenant": tenant}).one()
    return int(used), float(ago) if ago is not None else None


def copper_used(session: Session, account_id: int) -> tuple[int, float | None]:
    """The same of an account's Copper."""
    used, ago = session.execute(COPPER_USED, {"account": account_id}).one()
    return int(used), float(ago) if ago is not None else None


def since(session: Session, day: date | datetime, account_id: int | None = None) -> list[Metered]:
    """What was counted since a day (UTC), by organisation and purpose, of one account or of all."""
    rows = session.execute(SINCE, {"account": account_id, "since": day})
    return [Metered(row[0], row[1], row[2], *map(int, row[3:])) for row in rows]


def forget(session: Session, days: int) -> int:
    """Drop meters older than `days`; returns how many rows went."""
    return touched(session, FORGET, {"days": days})
