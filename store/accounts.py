"""Accounts and what connects them: Copper credentials, Xero grants and organisations, API keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlmodel import Session

from store import refusals
from store.database import AccountClosedError
from store.models import SetupStep
from store.secrets import digest, fresh_token, seal, unseal

SAVE_ACCOUNT = text("""
    INSERT INTO account AS known (copper_account_id, name) VALUES (:copper_account_id, :name)
    ON CONFLICT (copper_account_id) DO UPDATE SET name = EXCLUDED.name WHERE known.closed_at IS NULL
    RETURNING id
""")
# One that is connected again while its older rows are being erased is another account from now on.
GIVE_UP_COPPER_ID = text("""
    UPDATE account SET copper_account_id = -id WHERE copper_account_id = :copper_account_id AND closed_at IS NOT NULL
""")
SAVE_CREDENTIAL = text("""
    INSERT INTO copper_credential (account_id, sealed, webhook_token_hash)
    VALUES (:account, :sealed, :token_hash)
    ON CONFLICT (account_id) DO UPDATE SET sealed = EXCLUDED.sealed, status = 'working', changed_at = now(),
        webhook_token_hash = EXCLUDED.webhook_token_hash
""")
CREDENTIAL = text("SELECT sealed, status, records_seen_to FROM copper_credential WHERE account_id = :account")
# A key that is refused says nothing of one that has replaced it meanwhile.
MARK_COPPER = text("""
    UPDATE copper_credential SET status = :status
    WHERE account_id = :account AND (CAST(:token_hash AS bytea) IS NULL OR webhook_token_hash = :token_hash)
""")
# A vendor's clock never runs back: two runs that end out of order keep the later time.
SAW_RECORDS = text("""
    UPDATE copper_credential SET records_seen_to = GREATEST(records_seen_to, :seen_to) WHERE account_id = :account
""")
SAW_CONTACTS = text("""
    UPDATE xero_organisation SET contacts_seen_to = GREATEST(contacts_seen_to, :seen_to)
    WHERE account_id = :account AND id = :organisation
""")
SAW_INVOICES = text("""
    UPDATE xero_organisation SET invoices_seen_to = GREATEST(invoices_seen_to, :seen_to)
    WHERE account_id = :account AND id = :organisation
""")
SAVE_GRANT = text("""
    INSERT INTO xero_grant (account_id, sealed, expires_at, status, scopes, xero_user_id, auth_event_id)
    VALUES (:account, :sealed, :expires_at, 'open', :scopes, :user_id, :auth_event_id)
    RETURNING id
""")
TAKE_UP_GRANT = text("""
    UPDATE xero_grant SET status = 'working' WHERE account_id = :account AND id = :grant AND status = 'open'
""")
DROP_GRANT = text("""
    DELETE FROM xero_grant g WHERE g.account_id = :account AND g.id = :grant AND NOT EXISTS (
        SELECT FROM xero_organisation o
        WHERE o.account_id = g.account_id AND o.grant_id = g.id AND o.status <> 'dropped')
    RETURNING sealed, xero_user_id
""")
REPLACE_TOKEN = text("""
    UPDATE xero_grant SET sealed = :sealed, expires_at = :expires_at, refreshed_at = now(),
        scopes = coalesce(CAST(:scopes AS text[]), scopes),
        xero_user_id = coalesce(CAST(:user_id AS text), xero_user_id),
        auth_event_id = coalesce(auth_event_id, CAST(:auth_event_id AS text)),
        status = CASE WHEN status = 'open' THEN status ELSE 'working' END
    WHERE account_id = :account AND id = :grant
""")
GRANT = text("""
    SELECT id, sealed, status, xero_user_id, auth_event_id, scopes FROM xero_grant
    WHERE account_id = :account AND id = :grant
""")
GRANT_LOCKED = text(f"{GRANT.text} FOR UPDATE")
IDLE_GRANTS = text("""
    SELECT account_id, id FROM xero_grant
    WHERE status = 'working' AND refreshed_at < now() - make_interval(secs => :seconds)
    ORDER BY refreshed_at LIMIT :limit
""")
# What a grant answers says nothing of an organisation that was moved to another one meanwhile, or dropped.
MARK_ORGANISATION = text("""
    UPDATE xero_organisation SET status = :status
    WHERE account_id = :account AND id = :id AND status <> 'dropped'
      AND (CAST(:grant AS bigint) IS NULL OR grant_id = :grant)
""")
MARK_GRANT = text("UPDATE xero_grant SET status = :status WHERE account_id = :account AND id = :grant")
SAVE_ORGANISATION = text("""
    INSERT INTO xero_organisation AS known (account_id, grant_id, tenant_id, connection_id, name)
    VALUES (:account, :grant, :tenant, :connection, :name)
    ON CONFLICT (account_id, tenant_id) DO UPDATE SET grant_id = EXCLUDED.grant_id,
        connection_id = EXCLUDED.connection_id, status = 'working',
        contacts_seen_to = CASE WHEN known.status <> 'dropped' THEN known.contacts_seen_to END,
        invoices_seen_to = CASE WHEN known.status <> 'dropped' THEN known.invoices_seen_to END
    RETURNING id
""")
# An organisation that was removed and is connected again before its rows were erased: what is left of them counts as
# never read, and shows again with the next projection.
REVIVE_ORGANISATION = text("""
    WITH revived AS (
        UPDATE xero_organisation SET status = 'working', contacts_seen_to = NULL, invoices_seen_to = NULL
        WHERE account_id = :account AND tenant_id = :tenant AND status = 'dropped'
        RETURNING id)
    INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
    SELECT DISTINCT i.account_id, 'contact', i.organisation_id, i.contact_id
    FROM revived JOIN invoice i ON i.account_id = :account AND i.organisation_id = revived.id
    WHERE i.contact_id IS NOT NULL
""")
DROP_UNUSED_GRANTS = text("""
    DELETE FROM xero_grant g WHERE g.account_id = :account AND NOT EXISTS (
        SELECT FROM xero_organisation o WHERE o.account_id = g.account_id AND o.grant_id = g.id)
    RETURNING id, sealed, xero_user_id
""")
ORGANISATIONS = text("""
    SELECT o.account_id, o.id, o.grant_id, o.tenant_id, o.name, o.status, o.contacts_seen_to, o.invoices_seen_to,
           o.time_zone, o.xero_time_zone,
           coalesce(r.endpoints, '{}') AS refused, coalesce(r.trusted, '{}') AS refused_lately
    FROM xero_organisation o, LATERAL (
        SELECT array_agg(endpoint) AS endpoints,
               array_agg(endpoint) FILTER (WHERE refused_at > now() - make_interval(secs => :trust)) AS trusted
        FROM refused_endpoint r WHERE r.account_id = o.account_id AND r.organisation_id = o.id) r
    WHERE o.account_id = :account AND o.status <> 'dropped'
      AND (CAST(:id AS bigint) IS NULL OR o.id = :id) ORDER BY o.id
""")
XERO_CONNECTIONS = text("""
    SELECT grant_id, connection_id, tenant_id FROM xero_organisation WHERE account_id = :account ORDER BY id
""")
# Over all accounts, as Xero's connections belong to a user and not to an account of ours.
ELSEWHERE = text("""
    SELECT DISTINCT tenant_id FROM xero_organisation
    WHERE account_id <> :account AND tenant_id = ANY(:tenants) AND status <> 'dropped'
""")
LOST = text("""
    SELECT o.id, o.name FROM xero_organisation o JOIN xero_grant g ON g.account_id = o.account_id AND g.id = o.grant_id
    WHERE o.account_id = :account AND o.status <> 'dropped' AND 'reconnect' IN (o.status, g.status) ORDER BY o.id
""")
# Copper first; a source that is not connected has no row.
CONNECTIONS = text("""
    SELECT account_id, CAST(0 AS bigint) AS source_id, 'Copper' AS name, status = 'reconnect' AS is_lost,
           records_seen_to AS seen_to, CAST(NULL AS uuid) AS tenant_id, false AS lacks_permission,
           false AS has_unknown_time_zone
    FROM copper_credential WHERE CAST(:account AS bigint) IS NULL OR account_id = :account
    UNION ALL
    SELECT o.account_id, o.id, o.name, 'reconnect' IN (o.status, g.status), o.invoices_seen_to, o.tenant_id,
           EXISTS (SELECT FROM refused_endpoint r WHERE r.account_id = o.account_id AND r.organisation_id = o.id
                   AND r.parameter = '' AND r.endpoint NOT LIKE '%/%'),
           coalesce(o.xero_time_zone, '') <> '' AND o.time_zone = 'UTC'
    FROM xero_organisation o JOIN xero_grant g ON g.account_id = o.account_id AND g.id = o.grant_id
    WHERE o.status <> 'dropped' AND (CAST(:account AS bigint) IS NULL OR o.account_id = :account)
    ORDER BY 1, 2
""")
ACCOUNTS = text("""
    SELECT id, copper_account_id, name, record_types, synced_at FROM account WHERE closed_at IS NULL ORDER BY id
""")
COPPER_ACCOUNT = text("SELECT copper_account_id FROM account WHERE id = :account")
SYNCED_AT = text("SELECT synced_at FROM account WHERE id = :account")
KNOWN = text("SELECT id FROM account WHERE copper_account_id = :copper_account_id AND closed_at IS NULL")
CHOICES = text("""
    SELECT name, record_types, shown, show_bills, visible_to_teams FROM account WHERE id = :account
""")
CHOOSE = text("""
    UPDATE account SET record_types = :record_types, shown = :shown, show_bills = :show_bills,
                       visible_to_teams = :visible_to_teams
    WHERE id = :account
""")
SETUP_STEP = text("SELECT setup_step FROM account WHERE id = :account")
FINISH_SETUP_STEP = text("""
    UPDATE account SET setup_step = CASE WHEN :step = 'settings' THEN 'panel' ELSE 'done' END
    WHERE id = :account AND setup_step = :step
""")
# A grant that no organisation was chosen from yet: the admin has just come back from Xero.
OPEN_GRANT = text("""
    SELECT id FROM xero_grant WHERE account_id = :account AND status = 'open' ORDER BY id DESC LIMIT 1
""")
GRANTS = text("""
    SELECT id, sealed, status, xero_user_id, auth_event_id, scopes FROM xero_grant
    WHERE account_id = :account ORDER BY id
""")


# A known zone is never called this: Xero's own UTC is Etc/UTC.
UNKNOWN_TIME_ZONE = "UTC"


@dataclass(frozen=True)
class AccountSummary:
    """An account as commands list it."""

    id: int
    copper_account_id: int
    name: str
    record_types: tuple[str, ...]
    synced_at: datetime | None


@dataclass(frozen=True)
class CopperAccess:
    """What a call to Copper needs, and the secret that its notifications carry. Never logged."""

    api_key: str
    email: str
    webhook_token: str
    webhook_secret: str

    def __repr__(self) -> str:
        return "CopperAccess(…)"


@dataclass(frozen=True)
class Choices:
    """An account's settings. `visible_to_teams` None is everyone; `shown` is 1 to 50 invoices."""

    name: str
    record_types: tuple[str, ...]
    shown: int
    show_bills: bool
    visible_to_teams: tuple[int, ...] | None


@dataclass(frozen=True)
class Connection:
    """A vendor's connection of an account: a Xero organisation, or (source 0) its Copper.

    `is_lost` says that only an admin can bring it back, `lacks_permission` that its grant does not open all that is
    needed; `seen_to` is None until all of it was imported once.
    """

    account_id: int
    source_id: int
    name: str
    is_lost: bool
    seen_to: datetime | None
    tenant_id: UUID | None
    lacks_permission: bool = False
    has_unknown_time_zone: bool = False


@dataclass(frozen=True)
class CopperState:
    """How an account's Copper stands: `lost` means that its key was refused."""

    lost: bool
    records_seen_to: datetime | None


@dataclass(frozen=True)
class Organisation:
    """A connected Xero organisation of an account.

    `time_zone` is the IANA name that its days go by, `xero_time_zone` what Xero calls it: None before Xero was asked.
    `refused` are the endpoints that its grant does not open; those in `refused_lately` are not worth asking yet.
    """

    account_id: int
    id: int
    grant_id: int
    tenant_id: UUID
    name: str
    status: str
    contacts_seen_to: datetime | None = None
    invoices_seen_to: datetime | None = None
    time_zone: str = UNKNOWN_TIME_ZONE
    xero_time_zone: str | None = None
    refused: Sequence[str] = ()
    refused_lately: Sequence[str] = ()

    @property
    def has_unknown_time_zone(self) -> bool:
        """Whether Xero named a zone that is not known here, so that its days go by UTC."""
        return bool(self.xero_time_zone) and self.time_zone == UNKNOWN_TIME_ZONE


@dataclass(frozen=True)
class GrantIdentity:
    """What a token answer says of itself: the Xero user, the authorisation, the granted scopes; None: not known."""

    user_id: str | None = None
    auth_event_id: str | None = None
    scopes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Grant:
    """A token set as Xero gave it. Never logged."""

    account_id: int
    id: int
    token: dict[str, Any]
    status: str
    identity: GrantIdentity = GrantIdentity()

    def __repr__(self) -> str:
        return f"Grant(account_id={self.account_id}, id={self.id}, status={self.status!r})"


@dataclass(frozen=True)
class DroppedGrant:
    """A token set that is no longer ours to use, but to end at Xero; `user_id` is the Xero user's. Never logged."""

    id: int
    token: dict[str, Any]
    user_id: str | None

    def __repr__(self) -> str:
        return f"DroppedGrant(id={self.id})"


def save_copper(
    session: Session, *, copper_account_id: int, name: str, api_key: str, email: str
) -> tuple[int, CopperAccess]:
    """Create or refresh an account with its Copper key; makes a new webhook path and secret."""
    chosen = {"copper_account_id": copper_account_id, "name": name}
    session.execute(GIVE_UP_COPPER_ID, chosen)
    account_id = session.execute(SAVE_ACCOUNT, chosen).scalar_one_or_none()
    if account_id is None:
        raise AccountClosedError("The account was disconnected at this very moment. Connect it again.")
    access = CopperAccess(api_key, email, fresh_token(), fresh_token())
    session.execute(
        SAVE_CREDENTIAL,
        {
            "account": account_id,
            "sealed": seal(vars(access)),
            "token_hash": digest(access.webhook_token),
        },
    )
    return account_id, access


def copper_access(session: Session, account_id: int) -> CopperAccess:
    """The account's Copper key; raises `LookupError` when Copper is not connected."""
    row = session.execute(CREDENTIAL, {"account": account_id}).one_or_none()
    if row is None:
        raise LookupError(f"account {account_id} has no Copper key: connect Copper first")
    return CopperAccess(**unseal(row.sealed))


def copper_state(session: Session, account_id: int) -> CopperState | None:
    """Whether the account's Copper key works and how far its records were read; None: not connected."""
    row = session.execute(CREDENTIAL, {"account": account_id}).one_or_none()
    return CopperState(row.status == "reconnect", row.records_seen_to) if row else None


def mark_copper(session: Session, account_id: int, status: str, key: CopperAccess | None = None) -> None:
    """Set the status of an account's Copper key: `working` or `reconnect` (only an admin can help).

    With `key`, only while that one is the account's.
    """
    token_hash = digest(key.webhook_token) if key is not None else None
    session.execute(MARK_COPPER, {"account": account_id, "status": status, "token_hash": token_hash})


def saw_records(session: Session, account_id: int, seen_to: datetime) -> None:
    """Everything that Copper changed before `seen_to` (its own clock) is in the mirror."""
    session.execute(SAW_RECORDS, {"account": account_id, "seen_to": seen_to})


def saw(session: Session, account_id: int, organisation_id: int, what: str, seen_to: datetime) -> None:
    """The same of an organisation's `contacts` or `invoices`, by Xero's clock."""
    chosen = {"account": account_id, "organisation": organisation_id, "seen_to": seen_to}
    session.execute({"contacts": SAW_CONTACTS, "invoices": SAW_INVOICES}[what], chosen)


def save_grant(
    session: Session, account_id: int, token: dict[str, Any], identity: GrantIdentity = GrantIdentity()
) -> int:
    """Keep a new Xero token set, `open` until an organisation is chosen from it; returns the grant's id."""
    chosen = {"account": account_id, **_grant_params(token, identity)}
    return int(session.execute(SAVE_GRANT, chosen).scalar_one())


def _grant_params(token: dict[str, Any], identity: GrantIdentity) -> dict[str, Any]:
    return {
        "sealed": seal(token),
        "expires_at": _expiry(token),
        "scopes": list(identity.scopes) if identity.scopes is not None else None,
        "user_id": identity.user_id,
        "auth_event_id": identity.auth_event_id,
    }


def _grant(account_id: int, row: Any) -> Grant:
    scopes = tuple(row.scopes) if row.scopes is not None else None
    identity = GrantIdentity(row.xero_user_id, row.auth_event_id, scopes)
    return Grant(account_id, row.id, unseal(row.sealed), row.status, identity)


def grant(session: Session, account_id: int, grant_id: int, *, lock: bool = False) -> Grant:
    """A grant's tokens; with `lock`, its row is held until the transaction ends."""
    chosen = {"account": account_id, "grant": grant_id}
    row = session.execute(GRANT_LOCKED if lock else GRANT, chosen).one_or_none()
    if row is None:
        raise LookupError(f"account {account_id} has no Xero grant {grant_id} any more")
    return _grant(account_id, row)


def replace_token(
    session: Session, held: Grant, token: dict[str, Any], identity: GrantIdentity = GrantIdentity()
) -> None:
    """Keep what a refresh answered; the caller holds the grant's lock. What it does not say stays as it was."""
    chosen = {"account": held.account_id, "grant": held.id, **_grant_params(token, identity)}
    session.execute(REPLACE_TOKEN, chosen)


def mark_grant(session: Session, account_id: int, grant_id: int, status: str) -> None:
    """Set a grant's status: `working` or `reconnect` (only an admin can help)."""
    session.execute(MARK_GRANT, {"account": account_id, "grant": grant_id, "status": status})


def mark_organisation(
    session: Session, account_id: int, organisation_id: int, status: str, *, grant_id: int | None = None
) -> None:
    """Set an organisation's status: `working` or `reconnect` (disconnected inside Xero).

    With `grant_id`, only while that is the grant by which the organisation is connected.
    """
    chosen = {"account": account_id, "id": organisation_id, "status": status, "grant": grant_id}
    session.execute(MARK_ORGANISATION, chosen)


def idle_grants(session: Session, seconds: float, limit: int) -> list[tuple[int, int]]:
    """(account, grant) of working grants that were not refreshed for `seconds`, longest first."""
    return [(row[0], row[1]) for row in session.execute(IDLE_GRANTS, {"seconds": seconds, "limit": limit})]


def _expiry(token: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(float(token["expires_at"]), UTC)


def save_organisation(
    session: Session, account_id: int, grant_id: int, *, tenant_id: UUID, connection_id: UUID, name: str
) -> int:
    """Connect an organisation through a grant, or move a connected one to a newer grant."""
    chosen = {
        "account": account_id,
        "grant": grant_id,
        "tenant": tenant_id,
        "connection": connection_id,
        "name": name,
    }
    session.execute(REVIVE_ORGANISATION, chosen)
    organisation_id = int(session.execute(SAVE_ORGANISATION, chosen).scalar_one())
    session.execute(TAKE_UP_GRANT, chosen)
    return organisation_id


def drop_unused_grants(session: Session, account_id: int) -> list[DroppedGrant]:
    """Forget the grants that no organisation came from, or that all have moved away from; their token sets."""
    rows = session.execute(DROP_UNUSED_GRANTS, {"account": account_id}).all()
    return [DroppedGrant(row.id, unseal(row.sealed), row.xero_user_id) for row in rows]


def xero_connections(session: Session, account_id: int) -> dict[int, list[tuple[UUID, UUID]]]:
    """(connection, tenant) of every organisation of the account by grant, those being erased too."""
    found: dict[int, list[tuple[UUID, UUID]]] = {}
    for row in session.execute(XERO_CONNECTIONS, {"account": account_id}):
        found.setdefault(row.grant_id, []).append((row.connection_id, row.tenant_id))
    return found


def tenants_elsewhere(session: Session, account_id: int, tenants: Collection[UUID]) -> set[UUID]:
    """Those of `tenants` that another account here is connected to; which one is not told."""
    return set(session.execute(ELSEWHERE, {"account": account_id, "tenants": list(tenants)}).scalars())


def organisations(session: Session, account_id: int) -> list[Organisation]:
    """The account's connected organisations."""
    chosen = {"account": account_id, "id": None, "trust": refusals.XERO_TRUST_SECONDS}
    return [_organisation(row) for row in session.execute(ORGANISATIONS, chosen)]


def organisation(session: Session, account_id: int, organisation_id: int) -> Organisation | None:
    """One connected organisation, or None when it was disconnected."""
    chosen = {"account": account_id, "id": organisation_id, "trust": refusals.XERO_TRUST_SECONDS}
    row = session.execute(ORGANISATIONS, chosen).one_or_none()
    return _organisation(row) if row else None


def _organisation(row: Any) -> Organisation:
    return Organisation(
        row.account_id,
        row.id,
        row.grant_id,
        row.tenant_id,
        row.name,
        row.status,
        row.contacts_seen_to,
        row.invoices_seen_to,
        row.time_zone,
        row.xero_time_zone,
        tuple(row.refused),
        tuple(row.refused_lately),
    )


def lost_organisations(session: Session, account_id: int) -> dict[int, str]:
    """The organisations whose connection only an admin can bring back, by id, with their names."""
    return {row.id: row.name for row in session.execute(LOST, {"account": account_id})}


def connections(session: Session, account_id: int | None = None) -> list[Connection]:
    """The connections of an account, or of all of them: Copper first, then the organisations by id.

    Those of an account that share a name carry their number in it.
    """
    found = [Connection(*row) for row in session.execute(CONNECTIONS, {"account": account_id})]
    count = Counter((connection.account_id, connection.name) for connection in found)
    return [
        connection
        if count[connection.account_id, connection.name] == 1 or not connection.source_id
        else replace(connection, name=f"{connection.name} (organisation {connection.source_id})")
        for connection in found
    ]


def accounts(session: Session) -> list[AccountSummary]:
    """Every account, oldest first."""
    return [AccountSummary(row[0], row[1], row[2], tuple(row[3]), row[4]) for row in session.execute(ACCOUNTS)]


def copper_account(session: Session, account_id: int) -> int:
    """Copper's own id of the account."""
    return int(session.execute(COPPER_ACCOUNT, {"account": account_id}).scalar_one())


def copper_account_if_kept(session: Session, account_id: int) -> int | None:
    """The same of an account that may be closed: None where it is erased, or its Copper account is connected again."""
    found: int | None = session.execute(COPPER_ACCOUNT, {"account": account_id}).scalar_one_or_none()
    return found if found is not None and found > 0 else None


def synced_at(session: Session, account_id: int) -> datetime | None:
    """When the account's rows were last known to be right."""
    at: datetime | None = session.execute(SYNCED_AT, {"account": account_id}).scalar_one()
    return at


def account_of_copper(session: Session, copper_account_id: int) -> int | None:
    """The account that a Copper account is connected as, or None."""
    chosen = {"copper_account_id": copper_account_id}
    found: int | None = session.execute(KNOWN, chosen).scalar_one_or_none()
    return found


def choices(session: Session, account_id: int) -> Choices:
    """The account's settings."""
    row = session.execute(CHOICES, {"account": account_id}).one()
    teams = tuple(row[4]) if row[4] is not None else None
    return Choices(row[0], tuple(row[1]), row[2], row[3], teams)


def choose(session: Session, account_id: int, wanted: Choices) -> None:
    """Change the account's settings, from the next read on; its name is Copper's and stays."""
    chosen = {
        "account": account_id,
        "record_types": list(wanted.record_types),
        "shown": wanted.shown,
        "show_bills": wanted.show_bills,
        "visible_to_teams": list(wanted.visible_to_teams) if wanted.visible_to_teams is not None else None,
    }
    session.execute(CHOOSE, chosen)


def setup_step(session: Session, account_id: int) -> SetupStep:
    """The step of set-up that the account waits for."""
    return SetupStep(session.execute(SETUP_STEP, {"account": account_id}).scalar_one())


def finish_setup_step(session: Session, account_id: int, step: SetupStep) -> None:
    """Go on to the next step of set-up, if the account waits for this one."""
    session.execute(FINISH_SETUP_STEP, {"account": account_id, "step": step.value})


def open_grant(session: Session, account_id: int) -> int | None:
    """The newest grant from which no organisation was chosen yet, or None."""
    found: int | None = session.execute(OPEN_GRANT, {"account": account_id}).scalar_one_or_none()
    return found


def drop_grant(session: Session, account_id: int, grant_id: int) -> DroppedGrant | None:
    """Forget a grant that no organisation needs any more; returns it, to be ended at Xero, or None."""
    row = session.execute(DROP_GRANT, {"account": account_id, "grant": grant_id}).one_or_none()
    return DroppedGrant(grant_id, unseal(row.sealed), row.xero_user_id) if row is not None else None


def grants(session: Session, account_id: int) -> list[Grant]:
    """All grants of the account."""
    rows = session.execute(GRANTS, {"account": account_id})
    return [_grant(account_id, row) for row in rows]
