"""Accounts and what connects them: Copper credentials, Xero grants and organisations, API keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlmodel import Session

from store.models import SetupStep
from store.secrets import digest, fresh_token, seal, unseal

SAVE_ACCOUNT = text("""
    INSERT INTO account (copper_account_id, name) VALUES (:copper_account_id, :name)
    ON CONFLICT (copper_account_id) DO UPDATE SET name = EXCLUDED.name
    RETURNING id
""")
SAVE_CREDENTIAL = text("""
    INSERT INTO copper_credential (account_id, sealed, webhook_token_hash)
    VALUES (:account, :sealed, :token_hash)
    ON CONFLICT (account_id) DO UPDATE SET sealed = EXCLUDED.sealed, status = 'working', changed_at = now(),
        webhook_token_hash = EXCLUDED.webhook_token_hash
""")
CREDENTIAL = text("SELECT sealed, status, records_seen_to FROM copper_credential WHERE account_id = :account")
MARK_COPPER = text("UPDATE copper_credential SET status = :status WHERE account_id = :account")
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
    INSERT INTO xero_grant (account_id, sealed, expires_at, status) VALUES (:account, :sealed, :expires_at, 'open')
    RETURNING id
""")
TAKE_UP_GRANT = text("""
    UPDATE xero_grant SET status = 'working' WHERE account_id = :account AND id = :grant AND status = 'open'
""")
DROP_GRANT = text("""
    DELETE FROM xero_grant g WHERE g.account_id = :account AND g.id = :grant AND NOT EXISTS (
        SELECT FROM xero_organisation o
        WHERE o.account_id = g.account_id AND o.grant_id = g.id AND o.status <> 'dropped')
    RETURNING sealed
""")
REPLACE_TOKEN = text("""
    UPDATE xero_grant SET sealed = :sealed, expires_at = :expires_at, refreshed_at = now(),
        status = CASE WHEN status = 'open' THEN status ELSE 'working' END
    WHERE account_id = :account AND id = :grant
""")
GRANT = text("SELECT sealed, status FROM xero_grant WHERE account_id = :account AND id = :grant")
GRANT_LOCKED = text("""
    SELECT sealed, status FROM xero_grant WHERE account_id = :account AND id = :grant FOR UPDATE
""")
IDLE_GRANTS = text("""
    SELECT account_id, id FROM xero_grant
    WHERE status = 'working' AND refreshed_at < now() - make_interval(secs => :seconds)
    ORDER BY refreshed_at LIMIT :limit
""")
MARK_ORGANISATION = text("UPDATE xero_organisation SET status = :status WHERE account_id = :account AND id = :id")
MARK_GRANT = text("UPDATE xero_grant SET status = :status WHERE account_id = :account AND id = :grant")
SAVE_ORGANISATION = text("""
    INSERT INTO xero_organisation (account_id, grant_id, tenant_id, connection_id, name)
    VALUES (:account, :grant, :tenant, :connection, :name)
    ON CONFLICT (account_id, tenant_id) DO UPDATE SET grant_id = EXCLUDED.grant_id,
        connection_id = EXCLUDED.connection_id, status = 'working'
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
""")
ORGANISATIONS = text("""
    SELECT account_id, id, grant_id, tenant_id, name, status, contacts_seen_to, invoices_seen_to
    FROM xero_organisation
    WHERE account_id = :account AND status <> 'dropped'
      AND (CAST(:id AS bigint) IS NULL OR id = :id) ORDER BY id
""")
LOST = text("""
    SELECT o.name FROM xero_organisation o JOIN xero_grant g ON g.account_id = o.account_id AND g.id = o.grant_id
    WHERE o.account_id = :account AND o.status <> 'dropped' AND 'reconnect' IN (o.status, g.status) ORDER BY o.id
""")
ACCOUNTS = text("SELECT id, copper_account_id, name, record_types, synced_at FROM account ORDER BY id")
COPPER_ACCOUNT = text("SELECT copper_account_id FROM account WHERE id = :account")
SYNCED_AT = text("SELECT synced_at FROM account WHERE id = :account")
KNOWN = text("SELECT id FROM account WHERE copper_account_id = :copper_account_id")
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
GRANTS = text("SELECT id, sealed, status FROM xero_grant WHERE account_id = :account ORDER BY id")


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
class CopperState:
    """How an account's Copper stands: `lost` means that its key was refused."""

    lost: bool
    records_seen_to: datetime | None


@dataclass(frozen=True)
class Organisation:
    """A connected Xero organisation of an account."""

    account_id: int
    id: int
    grant_id: int
    tenant_id: UUID
    name: str
    status: str
    contacts_seen_to: datetime | None = None
    invoices_seen_to: datetime | None = None


@dataclass(frozen=True)
class Grant:
    """A token set as Xero gave it. Never logged."""

    account_id: int
    id: int
    token: dict[str, Any]
    status: str

    def __repr__(self) -> str:
        return f"Grant(account_id={self.account_id}, id={self.id}, status={self.status!r})"


def save_copper(
    session: Session, *, copper_account_id: int, name: str, api_key: str, email: str
) -> tuple[int, CopperAccess]:
    """Create or refresh an account with its Copper key; makes a new webhook path and secret."""
    chosen = {"copper_account_id": copper_account_id, "name": name}
    account_id = int(session.execute(SAVE_ACCOUNT, chosen).scalar_one())
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


def mark_copper(session: Session, account_id: int, status: str) -> None:
    """Set the status of an account's Copper key: `working` or `reconnect` (only an admin can help)."""
    session.execute(MARK_COPPER, {"account": account_id, "status": status})


def saw_records(session: Session, account_id: int, seen_to: datetime) -> None:
    """Everything that Copper changed before `seen_to` (its own clock) is in the mirror."""
    session.execute(SAW_RECORDS, {"account": account_id, "seen_to": seen_to})


def saw(session: Session, account_id: int, organisation_id: int, what: str, seen_to: datetime) -> None:
    """The same of an organisation's `contacts` or `invoices`, by Xero's clock."""
    chosen = {"account": account_id, "organisation": organisation_id, "seen_to": seen_to}
    session.execute({"contacts": SAW_CONTACTS, "invoices": SAW_INVOICES}[what], chosen)


def save_grant(session: Session, account_id: int, token: dict[str, Any]) -> int:
    """Keep a new Xero token set, `open` until an organisation is chosen from it; returns the grant's id."""
    chosen = {"account": account_id, "sealed": seal(token), "expires_at": _expiry(token)}
    return int(session.execute(SAVE_GRANT, chosen).scalar_one())


def grant(session: Session, account_id: int, grant_id: int, *, lock: bool = False) -> Grant:
    """A grant's tokens; with `lock`, its row is held until the transaction ends."""
    chosen = {"account": account_id, "grant": grant_id}
    row = session.execute(GRANT_LOCKED if lock else GRANT, chosen).one_or_none()
    if row is None:
        raise LookupError(f"account {account_id} has no Xero grant {grant_id} any more")
    return Grant(account_id, grant_id, unseal(row.sealed), row.status)


def replace_token(session: Session, held: Grant, token: dict[str, Any]) -> None:
    """Keep what a refresh answered; the caller holds the grant's lock."""
    chosen = {
        "account": held.account_id,
        "grant": held.id,
        "sealed": seal(token),
        "expires_at": _expiry(token),
    }
    session.execute(REPLACE_TOKEN, chosen)


def mark_grant(session: Session, account_id: int, grant_id: int, status: str) -> None:
    """Set a grant's status: `working` or `reconnect` (only an admin can help)."""
    session.execute(MARK_GRANT, {"account": account_id, "grant": grant_id, "status": status})


def mark_organisation(session: Session, account_id: int, organisation_id: int, status: str) -> None:
    """Set an organisation's status: `working` or `reconnect` (disconnected inside Xero)."""
    session.execute(MARK_ORGANISATION, {"account": account_id, "id": organisation_id, "status": status})


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
    session.execute(DROP_UNUSED_GRANTS, {"account": account_id})
    return organisation_id


def organisations(session: Session, account_id: int) -> list[Organisation]:
    """The account's connected organisations."""
    return [Organisation(*row) for row in session.execute(ORGANISATIONS, {"account": account_id, "id": None})]


def organisation(session: Session, account_id: int, organisation_id: int) -> Organisation | None:
    """One connected organisation, or None when it was disconnected."""
    row = session.execute(ORGANISATIONS, {"account": account_id, "id": organisation_id}).one_or_none()
    return Organisation(*row) if row else None


def lost_organisations(session: Session, account_id: int) -> list[str]:
    """Names of the organisations whose connection only an admin can bring back."""
    return list(session.execute(LOST, {"account": account_id}).scalars())


def accounts(session: Session) -> list[AccountSummary]:
    """Every account, oldest first."""
    return [AccountSummary(row[0], row[1], row[2], tuple(row[3]), row[4]) for row in session.execute(ACCOUNTS)]


def copper_account(session: Session, account_id: int) -> int:
    """Copper's own id of the account."""
    return int(session.execute(COPPER_ACCOUNT, {"account": account_id}).scalar_one())


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


def drop_grant(session: Session, account_id: int, grant_id: int) -> dict[str, Any] | None:
    """Forget a grant that no organisation needs any more; returns its token set, to be revoked at Xero."""
    chosen = {"account": account_id, "grant": grant_id}
    sealed = session.execute(DROP_GRANT, chosen).scalar_one_or_none()
    return unseal(sealed) if sealed is not None else None


def grants(session: Session, account_id: int) -> list[Grant]:
    """All grants of the account."""
    rows = session.execute(GRANTS, {"account": account_id})
    return [Grant(account_id, row.id, unseal(row.sealed), row.status) for row in rows]
