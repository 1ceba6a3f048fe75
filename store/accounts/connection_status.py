"""The status of an account's connections to Copper and Xero, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

COPPER = 0
"""Stands for Copper where a connection is named by its organisation."""

# A source that is not connected has no row.
LIST = text("""
    SELECT account_id, CAST(0 AS bigint) AS organisation_id, 'Copper' AS name, status = 'needs_reauth' AS needs_reauth,
           records_synced_through AS synced_through, CAST(NULL AS uuid) AS tenant_id, false AS lacks_permission,
           false AS has_unknown_time_zone
    FROM copper_credential WHERE CAST(:account AS bigint) IS NULL OR account_id = :account
    UNION ALL
    SELECT o.account_id, o.id, o.name, 'needs_reauth' IN (o.status, g.status), o.invoices_synced_through, o.tenant_id,
           EXISTS (SELECT FROM refused_endpoint r WHERE r.account_id = o.account_id AND r.organisation_id = o.id
                   AND r.parameter = '' AND r.endpoint NOT LIKE '%/%'),
           coalesce(o.xero_time_zone, '') <> '' AND o.time_zone = 'UTC'
    FROM xero_organisation o JOIN xero_grant g ON g.account_id = o.account_id AND g.id = o.grant_id
    WHERE o.status <> 'removed' AND (CAST(:account AS bigint) IS NULL OR o.account_id = :account)
    ORDER BY 1, 2
""")


# The connections that work, of many accounts at once. A connection was read in full if all that the vendor allows was:
# Xero's invoices come last, unless Xero refuses them.
LIST_CONNECTED = text("""
    SELECT account_id, CAST(0 AS bigint) AS organisation_id, records_synced_through IS NOT NULL AS was_read_in_full
    FROM copper_credential WHERE account_id = ANY(CAST(:accounts AS bigint[])) AND status <> 'needs_reauth'
    UNION ALL
    SELECT o.account_id, o.id,
           o.invoices_synced_through IS NOT NULL
           OR o.contacts_synced_through IS NOT NULL
              AND EXISTS (SELECT FROM refused_endpoint r WHERE r.account_id = o.account_id AND r.organisation_id = o.id
                          AND r.endpoint = 'Invoices')
    FROM xero_organisation o JOIN xero_grant g ON g.account_id = o.account_id AND g.id = o.grant_id
    WHERE o.account_id = ANY(CAST(:accounts AS bigint[])) AND o.status NOT IN ('removed', 'needs_reauth')
      AND g.status <> 'needs_reauth'
""")


COUNT_PROBLEMS = text("""
    SELECT account_id, count(*) FILTER (WHERE is_broken) AS broken,
           count(*) FILTER (WHERE has_unknown_time_zone) AS unknown_time_zones
    FROM (SELECT account_id, true AS is_broken, false AS has_unknown_time_zone
          FROM copper_credential WHERE status = 'needs_reauth'
          UNION ALL
          SELECT o.account_id,
                 'needs_reauth' IN (o.status, g.status) OR (o.account_id, o.id) IN (
                     SELECT r.account_id, r.organisation_id FROM refused_endpoint r
                     WHERE r.parameter = '' AND r.endpoint NOT LIKE '%/%'),
                 coalesce(o.xero_time_zone, '') <> '' AND o.time_zone = 'UTC'
          FROM xero_organisation o JOIN xero_grant g ON g.account_id = o.account_id AND g.id = o.grant_id
          WHERE o.status <> 'removed') connection
    WHERE is_broken OR has_unknown_time_zone GROUP BY account_id
""")


@dataclass(frozen=True)
class ConnectionProblems:
    """How many of an account's connections a person must renew, and how many organisations have an unknown zone."""

    broken: int
    unknown_time_zones: int


@dataclass(frozen=True)
class WorkingConnection:
    """A connection that needs no person; `was_read_in_full` once all that the vendor allows was read."""

    account_id: int
    organisation_id: int
    was_read_in_full: bool


@dataclass(frozen=True)
class ConnectionStatus:
    """A connection of an account: to a Xero organisation, or (`organisation_id` is `COPPER`) to Copper.

    `needs_reauth`: only an admin can restore it. `lacks_permission`: its grant does not cover all that is needed.
    `synced_through` is None until everything was imported once.
    """

    account_id: int
    organisation_id: int
    name: str
    needs_reauth: bool
    synced_through: datetime | None
    tenant_id: UUID | None
    lacks_permission: bool = False
    has_unknown_time_zone: bool = False


def list_connected(session: Session, account_ids: Sequence[int]) -> list[WorkingConnection]:
    """The connections of these accounts that work, in no particular order."""
    rows = session.execute(LIST_CONNECTED, {"accounts": list(account_ids)})
    return [WorkingConnection(row[0], row[1], row[2]) for row in rows]


def count_problems(session: Session) -> dict[int, ConnectionProblems]:
    """The problems with connections, by account; accounts without any are left out."""
    return {row[0]: ConnectionProblems(row[1], row[2]) for row in session.execute(COUNT_PROBLEMS)}


def list_statuses(session: Session, account_id: int | None = None) -> list[ConnectionStatus]:
    """The connections of an account, or of all accounts: Copper first, then the organisations by id.

    Organisations of an account that share a name get their number added to it.
    """
    statuses = [ConnectionStatus(**row) for row in session.execute(LIST, {"account": account_id}).mappings()]
    counts = Counter((status.account_id, status.name) for status in statuses)
    return [
        status
        if counts[status.account_id, status.name] == 1 or status.organisation_id == COPPER
        else replace(status, name=f"{status.name} (organisation {status.organisation_id})")
        for status in statuses
    ]
