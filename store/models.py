"""The tables. Every key starts with the account, so that the schema shards by account."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlmodel import Field, SQLModel

SQLModel.metadata.naming_convention = {
    "pk": "%(table_name)s_pkey",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "ck": "%(table_name)s_%(constraint_name)s_check",
}
Instant = sa.DateTime(timezone=True)
INSTALLATION = 0
"""The account id of rows that belong to the installation and to no account."""


class RecordType(StrEnum):
    """The Copper record types that show invoices. Ids are unique within a type only."""

    LEAD = "lead"
    PERSON = "person"
    COMPANY = "company"
    OPPORTUNITY = "opportunity"

    @property
    def plural(self) -> str:
        """The plural in Copper's and our own paths."""
        return {"person": "people", "company": "companies", "opportunity": "opportunities"}.get(self.value, "leads")


class SetupStep(StrEnum):
    """The step of the set-up that an account has to complete next, once its Xero organisations are selected."""

    SETTINGS = "settings"
    PANEL = "panel"
    DONE = "done"


class SignInMethod(StrEnum):
    """How somebody signed in: with a Copper API key, or with Copper's own sign-in (OAuth)."""

    KEY = "key"
    COPPER = "copper"


class Surface(StrEnum):
    """What a browser session opens: Patina's own pages, or the panel in Copper."""

    PAGES = "pages"
    PANEL = "panel"


class GrantStatus(StrEnum):
    """Whether an account's authorisation at a vendor (a Xero grant or a Copper key) works.

    A grant is pending until an admin has chosen organisations from it. Only an admin can renew one that needs it.
    """

    PENDING = "pending"
    ACTIVE = "active"
    NEEDS_REAUTH = "needs_reauth"


class OrganisationStatus(StrEnum):
    """Whether a Xero organisation is connected. The rows of a removed one are deleted in the background."""

    ACTIVE = "active"
    NEEDS_REAUTH = "needs_reauth"
    REMOVED = "removed"


class EventState(StrEnum):
    """The state of an event in the inbox. A failed event is in quarantine until an admin replays or dismisses it."""

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    IGNORED = "ignored"
    DISMISSED = "dismissed"


class RunState(StrEnum):
    """The state of a sync run. A run is paused while its connection needs a new authorisation."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"


def _record_type_check(column: str) -> sa.CheckConstraint:
    """A check instead of an enum, because behind row-level security only leakproof comparisons may use an index."""
    values = ", ".join(repr(record_type.value) for record_type in RecordType)
    return sa.CheckConstraint(f"{column} IN ({values})", name=column)


def _key(sa_type: Any = sa.BigInteger) -> Any:
    return Field(sa_type=sa_type, primary_key=True, sa_column_kwargs={"autoincrement": False})


def _account_key() -> Any:
    """The key column of the row's account. The row is deleted with the account at the latest."""
    return Field(
        sa_type=sa.BigInteger,
        primary_key=True,
        foreign_key="account.id",
        ondelete="CASCADE",
        sa_column_kwargs={"autoincrement": False},
    )


def _serial() -> Any:
    return Field(default=None, sa_column=sa.Column(sa.BigInteger, sa.Identity(), primary_key=True))


def _column(sa_type: Any, default: str | None = None, *, null: bool = False) -> Any:
    kwargs = {"server_default": sa.text(default)} if default is not None else {}
    if null:
        return Field(default=None, sa_type=sa_type, nullable=True, sa_column_kwargs=kwargs)
    return Field(sa_type=sa_type, nullable=False, sa_column_kwargs=kwargs)


class Account(SQLModel, table=True):
    """One Copper account and its settings. `synced_at` is when its read model was last known to be up to date.

    `balances_as_of` is the day (UTC) on which all balances of its records were last computed. `time_zones` copies the
    zones of its organisations (organisation id: IANA name), so that a read is one statement. `setup_step` is where
    signing in leads until the set-up is complete. `closed_at` is set when the account is disconnected: from then on it
    is invisible and no work starts for it, and its row is deleted when no data is left
    (`store.accounts.deprovisioning`).
    """

    __table_args__ = (
        sa.CheckConstraint(f"setup_step IN ({', '.join(repr(step.value) for step in SetupStep)})", name="setup_step"),
    )

    id: int = _serial()
    copper_account_id: int = Field(sa_type=sa.BigInteger, unique=True)
    name: str = _column(sa.Text)
    record_types: list[str] = _column(pg.ARRAY(sa.Text), "'{lead,person,company,opportunity}'")
    invoice_limit: int = _column(sa.SmallInteger, "5")
    show_bills: bool = _column(sa.Boolean, "false")
    visible_to_teams: list[int] | None = _column(pg.ARRAY(sa.BigInteger), null=True)
    created_at: datetime = _column(Instant, "now()")
    synced_at: datetime | None = _column(Instant, null=True)
    balances_as_of: date = _column(sa.Date, "CURRENT_DATE")
    time_zones: dict[str, str] = _column(pg.JSONB, "'{}'::jsonb")
    setup_step: SetupStep = _column(sa.Text, "'settings'")
    closed_at: datetime | None = _column(Instant, null=True)


class CopperCredential(SQLModel, table=True):
    """An account's Copper credentials, and the token that identifies Copper's notifications."""

    __tablename__ = "copper_credential"

    account_id: int = _account_key()
    encrypted_payload: bytes = _column(sa.LargeBinary)
    webhook_token_hash: bytes = Field(sa_type=sa.LargeBinary, unique=True)
    status: GrantStatus = _column(sa.Text, "'active'")
    changed_at: datetime = _column(Instant, "now()")
    records_synced_through: datetime | None = _column(Instant, null=True)


class XeroGrant(SQLModel, table=True):
    """One authorisation by a Xero user: an encrypted token set, which may cover several organisations.

    `scopes`, `xero_user_id` and `auth_event_id` come from the token response; None if it lacks them.
    """

    __tablename__ = "xero_grant"

    account_id: int = _account_key()
    id: int = _serial()
    encrypted_payload: bytes = _column(sa.LargeBinary)
    status: GrantStatus = _column(sa.Text, "'active'")
    expires_at: datetime = _column(Instant)
    refreshed_at: datetime = _column(Instant, "now()")
    scopes: list[str] | None = _column(pg.ARRAY(sa.Text), null=True)
    xero_user_id: str | None = _column(sa.Text, null=True)
    auth_event_id: str | None = _column(sa.Text, null=True)


class RefusedEndpoint(SQLModel, table=True):
    """An endpoint (or one `parameter` of it) that a vendor refuses to an account; organisation 0 is Copper."""

    __tablename__ = "refused_endpoint"

    account_id: int = _account_key()
    organisation_id: int = _key()
    endpoint: str = _key(sa.Text)
    parameter: str = _key(sa.Text)
    refused_at: datetime = _column(Instant, "now()")


class XeroOrganisation(SQLModel, table=True):
    """One Xero organisation of one account. If two accounts have the same organisation, each has its own row.

    `time_zone` is its IANA zone as PostgreSQL knows it: UTC before Xero was asked, or if the zone is unknown here.
    `xero_time_zone` is Xero's name of it: NULL before Xero was asked, '' if Xero gave none. `balances_as_of` is the
    local day for which the overdue part of its records' balances was computed.
    """

    __tablename__ = "xero_organisation"
    __table_args__ = (sa.UniqueConstraint("account_id", "tenant_id"),)

    account_id: int = _account_key()
    id: int = _serial()
    grant_id: int = _column(sa.BigInteger)
    tenant_id: UUID = Field(sa_type=sa.Uuid, index=True)
    connection_id: UUID = _column(sa.Uuid)
    name: str = _column(sa.Text)
    short_code: str | None = _column(sa.Text, null=True)
    base_currency: str | None = _column(sa.Text, null=True)
    status: OrganisationStatus = _column(sa.Text, "'active'")
    connected_at: datetime = _column(Instant, "now()")
    invoices_synced_through: datetime | None = _column(Instant, null=True)
    contacts_synced_through: datetime | None = _column(Instant, null=True)
    xero_time_zone: str | None = _column(sa.Text, null=True)
    time_zone: str = _column(sa.Text, "'UTC'")
    balances_as_of: date = _column(sa.Date, "CURRENT_DATE")


class ApiKey(SQLModel, table=True):
    """A bearer key of an account, stored as its SHA-256 and a prefix to recognise it by.

    `scopes` say what it opens: `read` the records' invoices, `admin` all of the API, `panel` the panel in Copper.
    """

    __tablename__ = "api_key"

    account_id: int = _account_key()
    id: int = _serial()
    key_hash: bytes = Field(sa_type=sa.LargeBinary, unique=True)
    prefix: str = _column(sa.Text)
    name: str = _column(sa.Text)
    scopes: list[str] = _column(pg.ARRAY(sa.Text), "'{read}'")
    created_at: datetime = _column(Instant, "now()")
    last_used_at: datetime | None = _column(Instant, null=True)
    revoked_at: datetime | None = _column(Instant, null=True)


class BrowserSession(SQLModel, table=True):
    """A signed-in browser, identified by the hash of its cookie: an admin, or a viewer with their teams.

    `last_used_at` is accurate to a few minutes. `confirmed_at` is when the person last proved their identity. `client`
    names the kind of browser. `teams_fetched_at` is when a viewer's teams were last fetched from Copper.
    """

    __tablename__ = "browser_session"
    __table_args__ = (
        sa.CheckConstraint("role IN ('admin', 'viewer')", name="role"),
        sa.CheckConstraint("method IN ('key', 'copper')", name="method"),
        sa.CheckConstraint("surface IN ('pages', 'panel')", name="surface"),
    )

    account_id: int = _account_key()
    id: int = _serial()
    token_hash: bytes = Field(sa_type=sa.LargeBinary, unique=True)
    role: str = _column(sa.Text)
    user_id: int = _column(sa.BigInteger)
    user_name: str = _column(sa.Text)
    created_at: datetime = _column(Instant, "now()")
    expires_at: datetime = _column(Instant)
    teams: list[int] | None = _column(pg.ARRAY(sa.BigInteger), null=True)
    teams_fetched_at: datetime | None = _column(Instant, null=True)
    last_used_at: datetime = _column(Instant, "now()")
    confirmed_at: datetime | None = _column(Instant, null=True)
    method: str = _column(sa.Text, "'key'")
    surface: str = _column(sa.Text, "'pages'")
    client: str = _column(sa.Text, "''")


class OAuthState(SQLModel, table=True):
    """A pending OAuth request to a vendor, valid once and for a few minutes.

    `browser_hash` is the hash of the cookie of the browser that was sent there; account 0 is a sign-in.
    """

    __tablename__ = "oauth_state"

    account_id: int = _key()
    state_hash: bytes = _key(sa.LargeBinary)
    purpose: str = _column(sa.Text)
    browser_hash: bytes = _column(sa.LargeBinary)
    encrypted_payload: bytes = _column(sa.LargeBinary)
    expires_at: datetime = _column(Instant)


class Invitation(SQLModel, table=True):
    """A set-up code for a new account, stored as a hash, of the installation. `note` says whom it is for."""

    __table_args__ = (sa.UniqueConstraint("code_hash"),)

    id: int = _serial()
    code_hash: bytes = _column(sa.LargeBinary)
    note: str = _column(sa.Text)
    created_at: datetime = _column(Instant, "now()")
    expires_at: datetime = _column(Instant)
    used_at: datetime | None = _column(Instant, null=True)
    revoked_at: datetime | None = _column(Instant, null=True)


class NamedAdmin(SQLModel, table=True):
    """A Copper user whom an admin has made an admin: signing in with Copper does not prove that they are one."""

    __tablename__ = "named_admin"

    account_id: int = _account_key()
    user_id: int = _key()
    name: str = _column(sa.Text)
    named_at: datetime = _column(Instant, "now()")


class AuditLog(SQLModel, table=True):
    """Who did what, for the admins of an account; account 0 holds entries about accounts that no longer exist."""

    __tablename__ = "audit_log"
    __table_args__ = (
        sa.Index(
            "audit_log_admin_sign_in_idx",
            "account_id",
            "id",
            postgresql_where=sa.text("action = 'admin.signed_in'"),
        ),
    )

    account_id: int = _key()
    id: int = _serial()
    created_at: datetime = _column(Instant, "now()")
    actor: str = _column(sa.Text)
    action: str = _column(sa.Text)
    detail: str = _column(sa.Text, "''")


class CleanupTask(SQLModel, table=True):
    """A task that remains after an account was closed or an organisation was removed; deleted when it is done."""

    __tablename__ = "cleanup_task"

    account_id: int = _key()
    id: int = _serial()
    task_type: str = _column(sa.Text)
    encrypted_payload: bytes = _column(sa.LargeBinary)
    attempts: int = _column(sa.SmallInteger, "0")
    not_before: datetime = _column(Instant, "now()")
    error: str | None = _column(sa.Text, null=True)


class Inbox(SQLModel, table=True):
    """Events as they were received, committed before they are acknowledged.

    Account 0 holds events of no account: those of unknown tenants, and malformed bodies for a person to inspect.
    """

    __table_args__ = (
        sa.UniqueConstraint("account_id", "dedupe_key"),
        sa.Index(
            "inbox_pending_idx",
            "account_id",
            "vendor",
            "organisation_id",
            "id",
            postgresql_where=sa.text("state IN ('pending', 'leased')"),
        ),
        sa.Index("inbox_failed_idx", "account_id", "id", postgresql_where=sa.text("state = 'failed'")),
        sa.Index("inbox_received_idx", "received_at", postgresql_using="brin"),
        sa.CheckConstraint("state IN ('pending', 'leased', 'done', 'failed', 'ignored', 'dismissed')", name="state"),
    )

    account_id: int = _key()
    id: int = _serial()
    vendor: str = _column(sa.Text)
    organisation_id: int = _column(sa.BigInteger, "0")
    tenant: str = _column(sa.Text)
    category: str = _column(sa.Text)
    event_type: str = _column(sa.Text)
    resource_id: str = _column(sa.Text)
    occurred_at: datetime | None = _column(Instant, null=True)
    received_at: datetime = _column(Instant, "now()")
    dedupe_key: bytes = _column(sa.LargeBinary)
    correlation_id: str = _column(sa.Text)
    state: EventState = _column(sa.Text, "'pending'")
    attempts: int = _column(sa.SmallInteger, "0")
    not_before: datetime = _column(Instant, "now()")
    lease_id: UUID | None = _column(sa.Uuid, null=True)
    leased_until: datetime | None = _column(Instant, null=True)
    error: str | None = _column(sa.Text, null=True)
    body: bytes | None = _column(sa.LargeBinary, null=True)
    finished_at: datetime | None = _column(Instant, null=True)


class DroppedEvents(SQLModel, table=True):
    """How many of an account's events were counted and not stored, by day (UTC), vendor and reason."""

    __tablename__ = "dropped_events"

    account_id: int = _key()
    day: date = _key(sa.Date)
    vendor: str = _key(sa.Text)
    reason: str = _key(sa.Text)
    events: int = _column(sa.BigInteger)


class WebhookQuota(SQLModel, table=True):
    """How many inbox rows the web processes were granted for an account's Copper notifications this minute and day.

    `granted_rows` is the size of the latest grant.
    """

    __tablename__ = "webhook_quota"

    account_id: int = _key()
    minute: datetime = _column(Instant)
    minute_rows: int = _column(sa.BigInteger, "0")
    day: date = _column(sa.Date)
    day_rows: int = _column(sa.BigInteger, "0")
    granted_rows: int = _column(sa.BigInteger, "0")


class XeroContact(SQLModel, table=True):
    """Mirror of a Xero contact; its addresses are in `xero_contact_email`.

    If the vendor gave no version (`has_version` is false), `updated_at` is when the row was fetched, and any later
    fetch replaces it.
    """

    __tablename__ = "xero_contact"

    account_id: int = _account_key()
    organisation_id: int = _key()
    contact_id: UUID = _key(sa.Uuid)
    name: str = _column(sa.Text)
    status: str = _column(sa.Text)
    merged_to: UUID | None = _column(sa.Uuid, null=True)
    updated_at: datetime = _column(Instant)
    has_version: bool = _column(sa.Boolean, "true")
    fetched_at: datetime = _column(Instant)
    changed_at: datetime = _column(Instant)
    is_deleted: bool = _column(sa.Boolean, "false")


# An address that the normalisation rules leave as it is; `store.mirror.addresses` looks for the others.
PLAIN_ADDRESS = r"^[a-z0-9.!#$%&''*+/=?^_{|}~-]+@[a-z0-9-]+([.][a-z0-9-]+)*$"
IS_IRREGULAR = f"as_typed IS NULL AND email !~ '{PLAIN_ADDRESS}'"


class XeroContactEmail(SQLModel, table=True):
    """A normalised address of a contact or of one of its contact persons.

    `as_typed` is the address as it was typed, if that differs.
    """

    __tablename__ = "xero_contact_email"
    __table_args__ = (
        sa.Index("xero_contact_email_email_idx", "account_id", "email"),
        sa.Index("xero_contact_email_domain_idx", "account_id", "domain"),
        sa.Index(
            "xero_contact_email_irregular_idx",
            "account_id",
            "organisation_id",
            "contact_id",
            "email",
            postgresql_where=sa.text(IS_IRREGULAR),
        ),
    )

    account_id: int = _account_key()
    organisation_id: int = _key()
    contact_id: UUID = _key(sa.Uuid)
    email: str = _key(sa.Text)
    domain: str = Field(
        default=None, sa_column=sa.Column(sa.Text, sa.Computed("split_part(email, '@', 2)", persisted=True))
    )
    as_typed: str | None = _column(sa.Text, null=True)


class ContactLink(SQLModel, table=True):
    """A Xero contact that was linked manually to a lead, person or company, because no address matches."""

    __tablename__ = "contact_link"
    __table_args__ = (
        sa.Index("contact_link_record_idx", "account_id", "record_type", "record_id"),
        sa.CheckConstraint("record_type IN ('lead', 'person', 'company')", name="record_type"),
    )

    account_id: int = _account_key()
    organisation_id: int = _key()
    contact_id: UUID = _key(sa.Uuid)
    record_type: RecordType = _key(sa.Text)
    record_id: int = _key()
    linked_by: str = _column(sa.Text)
    linked_at: datetime = _column(Instant, "now()")


class XeroInvoice(SQLModel, table=True):
    """Mirror of a Xero invoice or bill. `created_at` is the best known date, `created_source` its origin.

    `has_version` is as for contacts.
    """

    __tablename__ = "xero_invoice"
    __table_args__ = (
        sa.Index("xero_invoice_contact_idx", "account_id", "organisation_id", "contact_id"),
        sa.CheckConstraint(
            "created_source IN ('webhook', 'history', 'issue_date', 'updated_date')", name="created_source"
        ),
    )

    account_id: int = _account_key()
    organisation_id: int = _key()
    invoice_id: UUID = _key(sa.Uuid)
    contact_id: UUID | None = _column(sa.Uuid, null=True)
    type: str = _column(sa.Text)
    status: str = _column(sa.Text)
    number: str | None = _column(sa.Text, null=True)
    issue_date: date | None = _column(sa.Date, null=True)
    due_date: date | None = _column(sa.Date, null=True)
    total: Decimal = _column(sa.Numeric)
    balance: Decimal = _column(sa.Numeric)
    currency: str | None = _column(sa.Text, null=True)
    created_at: datetime = _column(Instant)
    created_source: str = _column(sa.Text)
    updated_at: datetime = _column(Instant)
    has_version: bool = _column(sa.Boolean, "true")
    fetched_at: datetime = _column(Instant)
    changed_at: datetime = _column(Instant)
    history_fetched_at: datetime | None = _column(Instant, null=True)
    is_deleted: bool = _column(sa.Boolean, "false")


class CopperRecord(SQLModel, table=True):
    """Mirror of a Copper lead, person, company or opportunity; `has_version` is as for Xero contacts.

    `relations_fetched_at` is when its relations were last fetched: an opportunity's `/related`, a company's people.
    """

    __tablename__ = "copper_record"
    __table_args__ = (_record_type_check("record_type"),)

    account_id: int = _account_key()
    record_type: RecordType = _key(sa.Text)
    record_id: int = _key()
    name: str = _column(sa.Text)
    updated_at: datetime = _column(Instant)
    has_version: bool = _column(sa.Boolean, "true")
    fetched_at: datetime = _column(Instant)
    changed_at: datetime = _column(Instant)
    relations_fetched_at: datetime | None = _column(Instant, null=True)
    is_deleted: bool = _column(sa.Boolean, "false")


class CopperRecordEmail(SQLModel, table=True):
    """A normalised address of a lead or a person; `as_typed` is as for contacts."""

    __tablename__ = "copper_record_email"
    __table_args__ = (
        sa.Index("copper_record_email_email_idx", "account_id", "email"),
        sa.Index(
            "copper_record_email_irregular_idx",
            "account_id",
            "record_type",
            "record_id",
            "email",
            postgresql_where=sa.text(IS_IRREGULAR),
        ),
        _record_type_check("record_type"),
    )

    account_id: int = _account_key()
    record_type: RecordType = _key(sa.Text)
    record_id: int = _key()
    email: str = _key(sa.Text)
    as_typed: str | None = _column(sa.Text, null=True)


class CopperRelation(SQLModel, table=True):
    """A relation, stored with the record that contains it: a person's company, an opportunity's people.

    `origin` is `field` (`company_id`, `primary_contact_id`) or `related` (the record's `/related`).
    """

    __tablename__ = "copper_relation"
    __table_args__ = (
        sa.Index("copper_relation_related_idx", "account_id", "related_type", "related_id", "record_type", "record_id"),
        _record_type_check("record_type"),
        _record_type_check("related_type"),
    )

    account_id: int = _account_key()
    record_type: RecordType = _key(sa.Text)
    record_id: int = _key()
    related_type: RecordType = _key(sa.Text)
    related_id: int = _key()
    origin: str = _key(sa.Text)


class ProjectionQueue(SQLModel, table=True):
    """A change of the mirror that is not projected yet. The projection computes which records it affects."""

    __tablename__ = "projection_queue"

    account_id: int = _account_key()
    id: int = _serial()
    entity_type: str = _column(sa.Text)
    organisation_id: int | None = _column(sa.BigInteger, null=True)
    xero_id: UUID | None = _column(sa.Uuid, null=True)
    record_id: int | None = _column(sa.BigInteger, null=True)
    email: str | None = _column(sa.Text, null=True)
    queued_at: datetime = _column(Instant, "now()")


class RecordInvoice(SQLModel, table=True):
    """The read model: one row for each record and invoice. Its primary key covers every displayed column."""

    __tablename__ = "record_invoice"
    __table_args__ = (
        sa.PrimaryKeyConstraint(
            "account_id",
            "record_type",
            "record_id",
            "created_at",
            "invoice_id",
            postgresql_include=[
                "organisation_id",
                "type",
                "status",
                "number",
                "issuer",
                "issue_date",
                "due_date",
                "total",
                "balance",
                "currency",
                "created_source",
                "short_code",
            ],
        ),
        sa.Index("record_invoice_invoice_idx", "account_id", "invoice_id"),
        {
            "postgresql_with": {
                "fillfactor": "85",
                "autovacuum_vacuum_scale_factor": "0.02",
                "autovacuum_vacuum_insert_scale_factor": "0.05",
            }
        },
    )

    account_id: int = _key()
    record_type: str = _key(sa.Text)
    record_id: int = _key()
    created_at: datetime = _key(Instant)
    invoice_id: UUID = _key(sa.Uuid)
    organisation_id: int = _column(sa.BigInteger)
    type: str = _column(sa.Text)
    status: str = _column(sa.Text)
    number: str | None = _column(sa.Text, null=True)
    issuer: str = _column(sa.Text)
    issue_date: date | None = _column(sa.Date, null=True)
    due_date: date | None = _column(sa.Date, null=True)
    total: Decimal = _column(sa.Numeric)
    balance: Decimal = _column(sa.Numeric)
    currency: str | None = _column(sa.Text, null=True)
    created_source: str = _column(sa.Text)
    short_code: str | None = _column(sa.Text, null=True)


class RecordBalance(SQLModel, table=True):
    """A record's open balance by type and currency ('': none given): the sum of its rows that await payment.

    `overdue` is the part that was due before its organisation's `balances_as_of`. A record without a balance has no
    row.
    """

    __tablename__ = "record_balance"
    __table_args__ = (
        sa.Index("record_balance_open_idx", "account_id", "record_type", "type", "currency", "open", "record_id"),
        sa.Index("record_balance_overdue_idx", "account_id", "record_type", "type", "currency", "overdue", "record_id"),
    )

    account_id: int = _key()
    record_type: str = _key(sa.Text)
    record_id: int = _key()
    type: str = _key(sa.Text)
    currency: str = _key(sa.Text)
    open: Decimal = _column(sa.Numeric)
    overdue: Decimal = _column(sa.Numeric)
    invoices: int = _column(sa.Integer)
    overdue_invoices: int = _column(sa.Integer)


class EventLatency(SQLModel, table=True):
    """The time from an event's receipt to its rows, as an hourly histogram (`EVENT_LATENCY_BUCKETS`)."""

    __tablename__ = "event_latency"

    account_id: int = _account_key()
    hour: datetime = _key(Instant)
    bucket: int = _key(sa.SmallInteger)
    events: int = _column(sa.BigInteger, "0")


class SyncRun(SQLModel, table=True):
    """One backfill, catch-up or reconciliation of one source: a chain of short jobs with a committed cursor.

    It is `paused` while its connection needs a new authorisation, and continues where it stopped. `drift` counts, by
    resource type, the rows that a reconciliation found missing, stale and extra.
    """

    __tablename__ = "sync_run"
    __table_args__ = (
        sa.Index(
            "sync_run_running_idx",
            "account_id",
            "organisation_id",
            "kind",
            unique=True,
            postgresql_where=sa.text("state = 'running'"),
        ),
        sa.Index("sync_run_latest_idx", "account_id", "organisation_id", "kind", "id"),
        sa.CheckConstraint("state IN ('running', 'paused', 'done', 'failed')", name="state"),
    )

    account_id: int = _account_key()
    id: int = _serial()
    organisation_id: int = _column(sa.BigInteger, "0")
    kind: str = _column(sa.Text)
    state: RunState = _column(sa.Text, "'running'")
    stage: str = _column(sa.Text)
    cursor: dict[str, Any] = _column(pg.JSONB, "'{}'::jsonb")
    counts: dict[str, Any] = _column(pg.JSONB, "'{}'::jsonb")
    drift: dict[str, Any] | None = _column(pg.JSONB, null=True)
    lease_id: UUID | None = _column(sa.Uuid, null=True)
    leased_until: datetime | None = _column(Instant, null=True)
    not_before: datetime = _column(Instant, "now()")
    attempts: int = _column(sa.SmallInteger, "0")
    error: str | None = _column(sa.Text, null=True)
    started_at: datetime = _column(Instant, "now()")
    finished_at: datetime | None = _column(Instant, null=True)


class RunSeenId(SQLModel, table=True):
    """An id that a dry run has seen at the vendor. A dry run does not write to the mirror, so it is kept here."""

    __tablename__ = "run_seen_id"

    account_id: int = _account_key()
    run_id: int = _key()
    resource_type: str = _key(sa.Text)
    resource_id: str = _key(sa.Text)


class ApiUsage(SQLModel, table=True):
    """Calls to a vendor and downloaded bytes, by organisation (0: Copper), day (UTC) and priority."""

    __tablename__ = "api_usage"

    account_id: int = _account_key()
    organisation_id: int = _key()
    day: date = _key(sa.Date)
    priority: str = _key(sa.Text)
    calls: int = _column(sa.BigInteger, "0")
    failed: int = _column(sa.BigInteger, "0")
    rate_limited: int = _column(sa.BigInteger, "0")
    bytes_compressed: int = _column(sa.BigInteger, "0")
    bytes_uncompressed: int = _column(sa.BigInteger, "0")
    last_call_at: datetime = _column(Instant, "now()")


class UnreadableField(SQLModel, table=True):
    """A field of a vendor's responses that could not be parsed, and in how many rows; '' stands for whole rows."""

    __tablename__ = "unreadable_field"

    account_id: int = _account_key()
    organisation_id: int = _key()
    resource: str = _key(sa.Text)
    field: str = _key(sa.Text)
    rows: int = _column(sa.BigInteger, "0")
    last_row_id: str = _column(sa.Text)
    first_seen_at: datetime = _column(Instant, "now()")
    last_seen_at: datetime = _column(Instant, "now()")


class ScheduledTask(SQLModel, table=True):
    """When a recurring task of an account (0: of the installation) last started."""

    __tablename__ = "scheduled_task"

    account_id: int = _key()
    name: str = _key(sa.Text)
    last_started_at: datetime = _column(Instant, "now()")


class Heartbeat(SQLModel, table=True):
    """When a kind of process was last known to be running."""

    process: str = Field(sa_type=sa.Text, primary_key=True)
    last_seen_at: datetime = _column(Instant, "now()")


class XeroDelivery(SQLModel, table=True):
    """The sequence numbers of one webhook delivery, kept until there is no gap below them."""

    __tablename__ = "xero_delivery"

    first_sequence: int = _key()
    last_sequence: int = _key()
    received_at: datetime = _column(Instant, "now()")


class XeroSequence(SQLModel, table=True):
    """The number (`contiguous_through`) up to which all Xero deliveries to this app were received; one row."""

    __tablename__ = "xero_sequence"

    id: int = _key()
    contiguous_through: int = _column(sa.BigInteger)
