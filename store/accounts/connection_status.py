"""The status of an account's connections to Copper and Xero, side by side."""

from __future__ import annotations

from collections import Counter
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
