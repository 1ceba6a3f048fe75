"""Connected Xero organisations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from store.accounts import refused_endpoints
from store.db.enums import CreditResource, OrganisationStatus
from store.sync import watermarks

UNKNOWN_TIME_ZONE = "UTC"
"""The days of an organisation whose zone is not known go by UTC. No known zone has this name: Xero's UTC is Etc/UTC."""

WATERMARK_COLUMNS = tuple(f"{resource}_synced_through" for resource in watermarks.XERO_RESOURCES)
KEEP_WATERMARKS = ", ".join(
    f"{column} = CASE WHEN known.status <> 'removed' THEN known.{column} END" for column in WATERMARK_COLUMNS
)
CLEAR_WATERMARKS = ", ".join(f"{column} = NULL" for column in WATERMARK_COLUMNS)

UPSERT = text(f"""
    INSERT INTO xero_organisation AS known (account_id, grant_id, tenant_id, connection_id, name)
    VALUES (:account, :grant, :tenant, :connection, :name)
    ON CONFLICT (account_id, tenant_id) DO UPDATE SET grant_id = EXCLUDED.grant_id,
        connection_id = EXCLUDED.connection_id, status = 'active',
        {KEEP_WATERMARKS}
    RETURNING id
""")
# An organisation that was removed may be connected again before its rows are erased: the rows that are left count as
# never synced, and the next projection shows them again.
REVIVE = text(f"""
    WITH revived AS (
        UPDATE xero_organisation SET status = 'active', {CLEAR_WATERMARKS}
        WHERE account_id = :account AND tenant_id = :tenant AND status = 'removed'
        RETURNING id)
    INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
    SELECT DISTINCT i.account_id, 'contact', i.organisation_id, i.contact_id
    FROM revived JOIN xero_invoice i ON i.account_id = :account AND i.organisation_id = revived.id
    WHERE i.contact_id IS NOT NULL
""")
ACTIVATE_GRANT = text("""
    UPDATE xero_grant SET status = 'active' WHERE account_id = :account AND id = :grant AND status = 'pending'
""")
# A grant's refusal says nothing about an organisation that was moved to another grant meanwhile, or removed.
SET_STATUS = text("""
    UPDATE xero_organisation SET status = :status
    WHERE account_id = :account AND id = :id AND status <> 'removed'
      AND (CAST(:grant AS bigint) IS NULL OR grant_id = :grant)
""")
SELECT = text(f"""
    SELECT o.account_id, o.id, o.grant_id, o.tenant_id, o.name, o.status,
           {", ".join(f"o.{column}" for column in WATERMARK_COLUMNS)}, o.time_zone, o.xero_time_zone,
           (SELECT shown_credits FROM account a WHERE a.id = o.account_id) AS shown_credits,
           coalesce(r.endpoints, '{{}}') AS refused, coalesce(r.trusted, '{{}}') AS refused_lately
    FROM xero_organisation o, LATERAL (
        SELECT array_agg(endpoint) AS endpoints,
               array_agg(endpoint) FILTER (WHERE refused_at > now() - make_interval(secs => :trust)) AS trusted
        FROM refused_endpoint r WHERE r.account_id = o.account_id AND r.organisation_id = o.id) r
    WHERE o.account_id = :account AND o.status <> 'removed'
      AND (CAST(:id AS bigint) IS NULL OR o.id = :id) ORDER BY o.id
""")
LIST_XERO_CONNECTIONS = text("""
    SELECT grant_id, connection_id, tenant_id FROM xero_organisation WHERE account_id = :account ORDER BY id
""")
# This looks at all accounts, because a connection at Xero belongs to a Xero user and not to one of our accounts.
FIND_TENANTS_OF_OTHER_ACCOUNTS = text("""
    SELECT DISTINCT tenant_id FROM xero_organisation
    WHERE account_id <> :account AND tenant_id = ANY(:tenants) AND status <> 'removed'
""")
LIST_NEEDING_REAUTH = text("""
    SELECT o.id, o.name FROM xero_organisation o JOIN xero_grant g ON g.account_id = o.account_id AND g.id = o.grant_id
    WHERE o.account_id = :account AND o.status <> 'removed' AND 'needs_reauth' IN (o.status, g.status) ORDER BY o.id
""")


@dataclass(frozen=True)
class Organisation:
    """A connected Xero organisation of an account.

    `time_zone` is the IANA name of the zone of its days, `xero_time_zone` is Xero's own name for it: None before Xero
    was asked. `shown_credits` are the credits that the account shows; others are not fetched. `refused` are the
    endpoints that its grant may not call; those in `refused_lately` are not to be tried again yet.
    """

    account_id: int
    id: int
    grant_id: int
    tenant_id: UUID
    name: str
    status: OrganisationStatus
    contacts_synced_through: datetime | None = None
    invoices_synced_through: datetime | None = None
    credits_synced_through: Mapping[CreditResource, datetime | None] = field(default_factory=dict)
    shown_credits: Sequence[CreditResource] = ()
    time_zone: str = UNKNOWN_TIME_ZONE
    xero_time_zone: str | None = None
    refused: Sequence[str] = ()
    refused_lately: Sequence[str] = ()

    @property
    def has_unknown_time_zone(self) -> bool:
        """Whether Xero named a zone that is not known here, so that its days go by UTC."""
        return bool(self.xero_time_zone) and self.time_zone == UNKNOWN_TIME_ZONE


def connect(
    session: Session, account_id: int, grant_id: int, *, tenant_id: UUID, connection_id: UUID, name: str
) -> int:
    """Connect an organisation through a grant, or move a connected one to a newer grant; returns its id."""
    params = {
        "account": account_id,
        "grant": grant_id,
        "tenant": tenant_id,
        "connection": connection_id,
        "name": name,
    }
    session.execute(REVIVE, params)
    organisation_id = int(session.execute(UPSERT, params).scalar_one())
    session.execute(ACTIVATE_GRANT, params)
    return organisation_id


def list_connected(session: Session, account_id: int) -> list[Organisation]:
    """The account's connected organisations."""
    params = {"account": account_id, "id": None, "trust": refused_endpoints.XERO_TRUST_SECONDS}
    return [_to_organisation(row) for row in session.execute(SELECT, params)]


def find(session: Session, account_id: int, organisation_id: int) -> Organisation | None:
    """One connected organisation, or None if it was removed."""
    params = {"account": account_id, "id": organisation_id, "trust": refused_endpoints.XERO_TRUST_SECONDS}
    row = session.execute(SELECT, params).one_or_none()
    return _to_organisation(row) if row else None


def set_status(
    session: Session, account_id: int, organisation_id: int, status: OrganisationStatus, *, grant_id: int | None = None
) -> None:
    """Set an organisation's status.

    With `grant_id`, only if that is the grant through which the organisation is connected.
    """
    params = {"account": account_id, "id": organisation_id, "status": status.value, "grant": grant_id}
    session.execute(SET_STATUS, params)


def list_needing_reauth(session: Session, account_id: int) -> dict[int, str]:
    """Names by id of the organisations that an admin must connect again."""
    return {row.id: row.name for row in session.execute(LIST_NEEDING_REAUTH, {"account": account_id})}


def list_xero_connections(session: Session, account_id: int) -> dict[int, list[tuple[UUID, UUID]]]:
    """(connection, tenant) ids by grant of every organisation of the account, including those being erased."""
    connections: dict[int, list[tuple[UUID, UUID]]] = {}
    for row in session.execute(LIST_XERO_CONNECTIONS, {"account": account_id}):
        connections.setdefault(row.grant_id, []).append((row.connection_id, row.tenant_id))
    return connections


def find_tenants_of_other_accounts(session: Session, account_id: int, tenants: Collection[UUID]) -> set[UUID]:
    """Those of `tenants` that any other account is connected to, without saying which."""
    params = {"account": account_id, "tenants": list(tenants)}
    return set(session.execute(FIND_TENANTS_OF_OTHER_ACCOUNTS, params).scalars())


def _to_organisation(row: Row[Any]) -> Organisation:
    return Organisation(
        account_id=row.account_id,
        id=row.id,
        grant_id=row.grant_id,
        tenant_id=row.tenant_id,
        name=row.name,
        status=OrganisationStatus(row.status),
        contacts_synced_through=row.contacts_synced_through,
        invoices_synced_through=row.invoices_synced_through,
        credits_synced_through={resource: getattr(row, f"{resource}_synced_through") for resource in CreditResource},
        shown_credits=tuple(CreditResource(resource) for resource in row.shown_credits),
        time_zone=row.time_zone,
        xero_time_zone=row.xero_time_zone,
        refused=tuple(row.refused),
        refused_lately=tuple(row.refused_lately),
    )
