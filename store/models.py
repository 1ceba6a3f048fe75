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


class RecordType(StrEnum):
    """The record types of Copper that show invoices. Ids are unique within a type only."""

    LEAD = "lead"
    PERSON = "person"
    COMPANY = "company"
    OPPORTUNITY = "opportunity"

    @property
    def plural(self) -> str:
        """The word in Copper's and our own paths."""
        return {"person": "people", "company": "companies", "opportunity": "opportunities"}.get(self.value, "leads")


class SetupStep(StrEnum):
    """The step of set-up that an account waits for, once its Xero organisations are chosen."""

    SETTINGS = "settings"
    PANEL = "panel"
    DONE = "done"


class SignInMethod(StrEnum):
    """What somebody signed in with: a Copper API key, or Copper's own sign-in (OAuth)."""

    KEY = "key"
    COPPER = "copper"


class Surface(StrEnum):
    """What a session opens: Patina's own pages, or the panel in Copper."""

    PAGES = "pages"
    PANEL = "panel"


def _kinds(column: str) -> sa.CheckConstraint:
    """Record types are text: behind row-level security only leakproof comparisons may use an index, not an enum's."""
    return sa.CheckConstraint(f"{column} IN ({', '.join(repr(kind.value) for kind in RecordType)})", name=column)


def _key(kind: Any = sa.BigInteger, **more: Any) -> Any:
    return Field(sa_type=kind, primary_key=True, sa_column_kwargs={"autoincrement": False, **more})


def _account() -> Any:
    """The account whose row it is: it cannot outlive it. Code that is older deletes an account before its rows."""
    return Field(
        sa_type=sa.BigInteger,
        primary_key=True,
        foreign_key="account.id",
        ondelete="CASCADE",
        sa_column_kwargs={"autoincrement": False},
    )


def _serial() -> Any:
    return Field(default=None, sa_column=sa.Column(sa.BigInteger, sa.Identity(), primary_key=True))


def _column(kind: Any, default: str | None = None, *, null: bool = False) -> Any:
    kwargs = {"server_default": sa.text(default)} if default is not None else {}
    if null:
        return Field(default=None, sa_type=kind, nullable=True, sa_column_kwargs=kwargs)
    return Field(sa_type=kind, nullable=False, sa_column_kwargs=kwargs)


class Account(SQLModel, table=True):
    """One Copper account and its settings; `synced_at` is when its rows were last known to be right.

    `balances_on` is the day (UTC) on which all of its records' balances were last added up. `time_zones` copies its
    organisations' zones (organisation id: IANA name), for the one statement that a read is. `setup_step` is where
    signing in leads while set-up is unfinished. `closed_at` is set when it is disconnected: from then on nobody sees it
    and nothing is begun for it, and the row goes when none of its data is left (`store.closing`).
    """

    __table_args__ = (
        sa.CheckConstraint(f"setup_step IN ({', '.join(repr(step.value) for step in SetupStep)})", name="setup_step"),
    )

    id: int = _serial()
    copper_account_id: int = Field(sa_type=sa.BigInteger, unique=True)
    name: str = _column(sa.Text)
    record_types: list[str] = _column(pg.ARRAY(sa.Text), "'{lead,person,company,opportunity}'")
    shown: int = _column(sa.SmallInteger, "5")
    show_bills: bool = _column(sa.Boolean, "false")
    visible_to_teams: list[int] | None = _column(pg.ARRAY(sa.BigInteger), null=True)
    created_at: datetime = _column(Instant, "now()")
    synced_at: datetime | None = _column(Instant, null=True)
    balances_on: date = _column(sa.Date, "CURRENT_DATE")
    time_zones: dict[str, str] = _column(pg.JSONB, "'{}'::jsonb")
    setup_step: SetupStep = _column(sa.Text, "'settings'")
    closed_at: datetime | None = _column(Instant, null=True)


class CopperCredential(SQLModel, table=True):
    """How an account reaches Copper, and how Copper's notifications are recognised."""

    __tablename__ = "copper_credential"

    account_id: int = _account()
    sealed: bytes = _column(sa.LargeBinary)
    webhook_token_hash: bytes = Field(sa_type=sa.LargeBinary, unique=True)
    status: str = _column(sa.Text, "'working'")
    changed_at: datetime = _column(Instant, "now()")
    records_seen_to: datetime | None = _column(Instant, null=True)


class XeroGrant(SQLModel, table=True):
    """One authorisation by a Xero user: an encrypted token set that may cover several organisations.

    `scopes`, `xero_user_id` and `auth_event_id` are what the token answer says of it; None where it does not.
    """

    __tablename__ = "xero_grant"

    account_id: int = _account()
    id: int = _serial()
    sealed: bytes = _column(sa.LargeBinary)
    status: str = _column(sa.Text, "'working'")
    expires_at: datetime = _column(Instant)
    refreshed_at: datetime = _column(Instant, "now()")
    scopes: list[str] | None = _column(pg.ARRAY(sa.Text), null=True)
    xero_user_id: str | None = _column(sa.Text, null=True)
    auth_event_id: str | None = _column(sa.Text, null=True)


class RefusedEndpoint(SQLModel, table=True):
    """An endpoint (or one `parameter` of it) that a vendor refuses to an account; organisation 0 is Copper."""

    __tablename__ = "refused_endpoint"

    account_id: int = _account()
    organisation_id: int = _key()
    endpoint: str = _key(sa.Text)
    parameter: str = _key(sa.Text)
    refused_at: datetime = _column(Instant, "now()")


class XeroOrganisation(SQLModel, table=True):
    """One Xero organisation of one account. Two accounts with the same one have a row each.

    `time_zone` is the IANA name of its zone, one that PostgreSQL knows: UTC until Xero was asked, and for a zone that
    is unknown here. `xero_time_zone` is the name that Xero gave: NULL before it was asked, '' when it gave none.
    `balances_on` is the day there as of which the overdue part of its records' balances is.
    """

    __tablename__ = "xero_organisation"
    __table_args__ = (sa.UniqueConstraint("account_id", "tenant_id"),)

    account_id: int = _account()
    id: int = _serial()
    grant_id: int = _column(sa.BigInteger)
    tenant_id: UUID = Field(sa_type=sa.Uuid, index=True)
    connection_id: UUID = _column(sa.Uuid)
    name: str = _column(sa.Text)
    short_code: str | None = _column(sa.Text, null=True)
    base_currency: str | None = _column(sa.Text, null=True)
    status: str = _column(sa.Text, "'working'")
    connected_at: datetime = _column(Instant, "now()")
    invoices_seen_to: datetime | None = _column(Instant, null=True)
    contacts_seen_to: datetime | None = _column(Instant, null=True)
    xero_time_zone: str | None = _column(sa.Text, null=True)
    time_zone: str = _column(sa.Text, "'UTC'")
    balances_on: date = _column(sa.Date, "CURRENT_DATE")


class ApiKey(SQLModel, table=True):
    """A bearer key of an account: its SHA-256 alone is kept, and a prefix to recognise it by.

    `scopes` say what it opens: `read` the records' invoices, `admin` all of the API, `panel` the panel in Copper.
    """

    __tablename__ = "api_key"

    account_id: int = _account()
    id: int = _serial()
    key_hash: bytes = Field(sa_type=sa.LargeBinary, unique=True)
    prefix: str = _column(sa.Text)
    name: str = _column(sa.Text)
    scopes: list[str] = _column(pg.ARRAY(sa.Text), "'{read}'")
    created_at: datetime = _column(Instant, "now()")
    last_used_at: datetime | None = _column(Instant, null=True)
    revoked_at: datetime | None = _column(Instant, null=True)


class WebSession(SQLModel, table=True):
    """A browser that signed in, known by the hash of its cookie: an admin, or a viewer with their teams.

    `used_at` is exact to some minutes. `confirmed_at` is when the person last proved who they are. `client` names the
    kind of browser. `teams_at` is when Copper was last asked for a viewer's teams.
    """

    __tablename__ = "web_session"
    __table_args__ = (
        sa.CheckConstraint("role IN ('admin', 'viewer')", name="role"),
        sa.CheckConstraint("method IN ('key', 'copper')", name="method"),
        sa.CheckConstraint("surface IN ('pages', 'panel')", name="surface"),
    )

    account_id: int = _account()
    id: int = _serial()
    token_hash: bytes = Field(sa_type=sa.LargeBinary, unique=True)
    role: str = _column(sa.Text)
    user_id: int = _column(sa.BigInteger)
    user_name: str = _column(sa.Text)
    created_at: datetime = _column(Instant, "now()")
    expires_at: datetime = _column(Instant)
    teams: list[int] | None = _column(pg.ARRAY(sa.BigInteger), null=True)
    teams_at: datetime | None = _column(Instant, null=True)
    used_at: datetime = _column(Instant, "now()")
    confirmed_at: datetime | None = _column(Instant, null=True)
    method: str = _column(sa.Text, "'key'")
    surface: str = _column(sa.Text, "'pages'")
    client: str = _column(sa.Text, "''")


class OAuthState(SQLModel, table=True):
    """What was sent along to a vendor's sign-in page, kept here until the browser comes back: once, within minutes.

    `browser_hash` is the cookie of the browser that was sent; account 0 is a sign-in.
    """

    __tablename__ = "oauth_state"

    account_id: int = _key()
    state_hash: bytes = _key(sa.LargeBinary)
    purpose: str = _column(sa.Text)
    browser_hash: bytes = _column(sa.LargeBinary)
    sealed: bytes = _column(sa.LargeBinary)
    expires_at: datetime = _column(Instant)


class Invitation(SQLModel, table=True):
    """A set-up code for a new account, by its hash; it belongs to the installation. `note` says whom it is for."""

    __table_args__ = (sa.UniqueConstraint("code_hash"),)

    id: int = _serial()
    code_hash: bytes = _column(sa.LargeBinary)
    note: str = _column(sa.Text)
    created_at: datetime = _column(Instant, "now()")
    expires_at: datetime = _column(Instant)
    used_at: datetime | None = _column(Instant, null=True)
    revoked_at: datetime | None = _column(Instant, null=True)


class NamedAdmin(SQLModel, table=True):
    """A Copper user whom an admin named an admin: signing in with Copper alone proves no such thing."""

    __tablename__ = "named_admin"

    account_id: int = _account()
    user_id: int = _key()
    name: str = _column(sa.Text)
    named_at: datetime = _column(Instant, "now()")


class Audit(SQLModel, table=True):
    """Who did what, for an account's admins to see; account 0 keeps what was done to accounts that are gone."""

    __table_args__ = (
        sa.Index(
            "audit_admin_sign_in_idx",
            "account_id",
            "id",
            postgresql_where=sa.text("action = 'admin.signed_in'"),
        ),
    )

    account_id: int = _key()
    id: int = _serial()
    at: datetime = _column(Instant, "now()")
    who: str = _column(sa.Text)
    action: str = _column(sa.Text)
    detail: str = _column(sa.Text, "''")


class Leftover(SQLModel, table=True):
    """What is left to do after an account or organisation was closed on our side, until it is done."""

    account_id: int = _key()
    id: int = _serial()
    kind: str = _column(sa.Text)
    sealed: bytes = _column(sa.LargeBinary)
    attempts: int = _column(sa.SmallInteger, "0")
    not_before: datetime = _column(Instant, "now()")
    error: str | None = _column(sa.Text, null=True)


class Inbox(SQLModel, table=True):
    """Events as they came, committed before they are acknowledged.

    Account 0 holds what belongs to nobody: unknown tenants, and malformed bodies for a person to see.
    """

    __table_args__ = (
        sa.UniqueConstraint("account_id", "dedupe_key"),
        sa.Index(
            "inbox_waiting_idx",
            "account_id",
            "source",
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
    source: str = _column(sa.Text)
    organisation_id: int = _column(sa.BigInteger, "0")
    tenant: str = _column(sa.Text)
    kind: str = _column(sa.Text)
    event: str = _column(sa.Text)
    resource_id: str = _column(sa.Text)
    occurred_at: datetime | None = _column(Instant, null=True)
    received_at: datetime = _column(Instant, "now()")
    dedupe_key: bytes = _column(sa.LargeBinary)
    correlation_id: str = _column(sa.Text)
    state: str = _column(sa.Text, "'pending'")
    attempts: int = _column(sa.SmallInteger, "0")
    not_before: datetime = _column(Instant, "now()")
    lease_id: UUID | None = _column(sa.Uuid, null=True)
    leased_until: datetime | None = _column(Instant, null=True)
    error: str | None = _column(sa.Text, null=True)
    body: bytes | None = _column(sa.LargeBinary, null=True)
    finished_at: datetime | None = _column(Instant, null=True)


class DroppedEvents(SQLModel, table=True):
    """How many events of an account were counted and not kept, by day (UTC), vendor and reason."""

    __tablename__ = "dropped_events"

    account_id: int = _key()
    day: date = _key(sa.Date)
    source: str = _key(sa.Text)
    reason: str = _key(sa.Text)
    events: int = _column(sa.BigInteger)


class NotificationWindow(SQLModel, table=True):
    """How many rows the web processes were granted for an account's Copper notifications this minute and this day.

    `granted` is what the latest of them got.
    """

    __tablename__ = "notification_window"

    account_id: int = _key()
    minute: datetime = _column(Instant)
    in_minute: int = _column(sa.BigInteger, "0")
    day: date = _column(sa.Date)
    in_day: int = _column(sa.BigInteger, "0")
    granted: int = _column(sa.BigInteger, "0")


class XeroContact(SQLModel, table=True):
    """Mirror of a Xero contact; its addresses are in `xero_contact_email`.

    Where the vendor gave no version (`has_version` is false), `updated_at` is when the row was fetched; any later
    fetch replaces it.
    """

    __tablename__ = "xero_contact"

    account_id: int = _account()
    organisation_id: int = _key()
    contact_id: UUID = _key(sa.Uuid)
    name: str = _column(sa.Text)
    status: str = _column(sa.Text)
    merged_to: UUID | None = _column(sa.Uuid, null=True)
    updated_at: datetime = _column(Instant)
    has_version: bool = _column(sa.Boolean, "true")
    fetched_at: datetime = _column(Instant)
    changed_at: datetime = _column(Instant)
    gone: bool = _column(sa.Boolean, "false")


# An address that no rule of normalising changes: the others are looked at again (`store.addresses`).
PLAIN_ADDRESS = r"^[a-z0-9.!#$%&''*+/=?^_{|}~-]+@[a-z0-9-]+([.][a-z0-9-]+)*$"
IS_ODD = f"as_typed IS NULL AND email !~ '{PLAIN_ADDRESS}'"


class XeroContactEmail(SQLModel, table=True):
    """An address of a contact or of one of its contact persons, as it is compared.

    `as_typed` is what was typed where that differs.
    """

    __tablename__ = "xero_contact_email"
    __table_args__ = (
        sa.Index("xero_contact_email_email_idx", "account_id", "email"),
        sa.Index("xero_contact_email_domain_idx", "account_id", "domain"),
        sa.Index(
            "xero_contact_email_odd_idx",
            "account_id",
            "organisation_id",
            "contact_id",
            "email",
            postgresql_where=sa.text(IS_ODD),
        ),
    )

    account_id: int = _account()
    organisation_id: int = _key()
    contact_id: UUID = _key(sa.Uuid)
    email: str = _key(sa.Text)
    domain: str = Field(
        default=None, sa_column=sa.Column(sa.Text, sa.Computed("split_part(email, '@', 2)", persisted=True))
    )
    as_typed: str | None = _column(sa.Text, null=True)


class ContactLink(SQLModel, table=True):
    """A Xero contact linked by hand to a lead, person or company, where no address matches."""

    __tablename__ = "contact_link"
    __table_args__ = (
        sa.Index("contact_link_record_idx", "account_id", "record_type", "record_id"),
        sa.CheckConstraint("record_type IN ('lead', 'person', 'company')", name="record_type"),
    )

    account_id: int = _account()
    organisation_id: int = _key()
    contact_id: UUID = _key(sa.Uuid)
    record_type: RecordType = _key(sa.Text)
    record_id: int = _key()
    linked_by: str = _column(sa.Text)
    linked_at: datetime = _column(Instant, "now()")


class Invoice(SQLModel, table=True):
    """Mirror of a Xero invoice or bill. `created_at` is the best known, `created_source` says whence.

    `has_version` as for contacts.
    """

    __table_args__ = (
        sa.Index("invoice_contact_idx", "account_id", "organisation_id", "contact_id"),
        sa.CheckConstraint(
            "created_source IN ('webhook', 'history', 'issue_date', 'updated_date')", name="created_source"
        ),
    )

    account_id: int = _account()
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
    history_at: datetime | None = _column(Instant, null=True)
    gone: bool = _column(sa.Boolean, "false")


class CrmRecord(SQLModel, table=True):
    """Mirror of a Copper lead, person, company or opportunity; `has_version` as for Xero's contacts.

    `related_at` is when its relations were last read: an opportunity's `/related`, a company's people.
    """

    __tablename__ = "crm_record"
    __table_args__ = (_kinds("record_type"),)

    account_id: int = _account()
    record_type: RecordType = _key(sa.Text)
    record_id: int = _key()
    name: str = _column(sa.Text)
    updated_at: datetime = _column(Instant)
    has_version: bool = _column(sa.Boolean, "true")
    fetched_at: datetime = _column(Instant)
    changed_at: datetime = _column(Instant)
    related_at: datetime | None = _column(Instant, null=True)
    gone: bool = _column(sa.Boolean, "false")


class CrmRecordEmail(SQLModel, table=True):
    """An address of a lead or a person, as it is compared; `as_typed` as for contacts."""

    __tablename__ = "crm_record_email"
    __table_args__ = (
        sa.Index("crm_record_email_email_idx", "account_id", "email"),
        sa.Index(
            "crm_record_email_odd_idx",
            "account_id",
            "record_type",
            "record_id",
            "email",
            postgresql_where=sa.text(IS_ODD),
        ),
        _kinds("record_type"),
    )

    account_id: int = _account()
    record_type: RecordType = _key(sa.Text)
    record_id: int = _key()
    email: str = _key(sa.Text)
    as_typed: str | None = _column(sa.Text, null=True)


class CrmRelation(SQLModel, table=True):
    """A relation, kept with the record that tells of it: a person's company, an opportunity's people.

    `source` is `field` (`company_id`, `primary_contact_id`) or `related` (the record's `/related`).
    """

    __tablename__ = "crm_relation"
    __table_args__ = (
        sa.Index("crm_relation_related_idx", "account_id", "related_type", "related_id", "record_type", "record_id"),
        _kinds("record_type"),
        _kinds("related_type"),
    )

    account_id: int = _account()
    record_type: RecordType = _key(sa.Text)
    record_id: int = _key()
    related_type: RecordType = _key(sa.Text)
    related_id: int = _key()
    source: str = _key(sa.Text)


class Dirty(SQLModel, table=True):
    """A mark: what changed and is not projected yet. Whom it affects is worked out at projection."""

    account_id: int = _account()
    id: int = _serial()
    kind: str = _column(sa.Text)
    organisation_id: int | None = _column(sa.BigInteger, null=True)
    xero_id: UUID | None = _column(sa.Uuid, null=True)
    record_id: int | None = _column(sa.BigInteger, null=True)
    email: str | None = _column(sa.Text, null=True)
    marked_at: datetime = _column(Instant, "now()")


class RecordInvoice(SQLModel, table=True):
    """The read model: one row per record and invoice. Its key covers every display column."""

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
    """What is open on a record, by type and currency ('': none given): sums over its rows that await payment.

    `overdue` is the part that was due before its organisation's `balances_on`. A record that owes nothing has no row.
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


class Freshness(SQLModel, table=True):
    """How long events took from their receipt to their rows: a histogram an hour (`store.freshness.BOUNDS`)."""

    account_id: int = _account()
    hour: datetime = _key(Instant)
    bucket: int = _key(sa.SmallInteger)
    events: int = _column(sa.BigInteger, "0")


class SyncRun(SQLModel, table=True):
    """One backfill, catch-up or reconciliation of one source: a chain of short jobs with a committed cursor.

    It is `paused` while its connection is lost, and goes on where it was once that is back.
    `drift` counts, by kind, the rows that a reconciliation found missing, stale and extra.
    """

    __tablename__ = "sync_run"
    __table_args__ = (
        sa.Index(
            "sync_run_one_at_work_idx",
            "account_id",
            "organisation_id",
            "kind",
            unique=True,
            postgresql_where=sa.text("state = 'running'"),
        ),
        sa.Index("sync_run_latest_idx", "account_id", "organisation_id", "kind", "id"),
        sa.CheckConstraint("state IN ('running', 'paused', 'done', 'failed')", name="state"),
    )

    account_id: int = _account()
    id: int = _serial()
    organisation_id: int = _column(sa.BigInteger, "0")
    kind: str = _column(sa.Text)
    state: str = _column(sa.Text, "'running'")
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


class RunSeen(SQLModel, table=True):
    """What a dry run has seen at the vendor: it writes nothing to the mirror, so it remembers it here."""

    __tablename__ = "run_seen"

    account_id: int = _account()
    run_id: int = _key()
    kind: str = _key(sa.Text)
    key: str = _key(sa.Text)


class CallMeter(SQLModel, table=True):
    """Calls to a vendor and the bytes they pulled, by organisation (0: Copper), day (UTC) and purpose."""

    __tablename__ = "call_meter"

    account_id: int = _account()
    organisation_id: int = _key()
    day: date = _key(sa.Date)
    purpose: str = _key(sa.Text)
    calls: int = _column(sa.BigInteger, "0")
    failed: int = _column(sa.BigInteger, "0")
    refused: int = _column(sa.BigInteger, "0")
    bytes_wire: int = _column(sa.BigInteger, "0")
    bytes_plain: int = _column(sa.BigInteger, "0")
    last_at: datetime = _column(Instant, "now()")


class UnreadableField(SQLModel, table=True):
    """A field of a vendor's answers that could not be read, and in how many rows; '' stands for whole rows."""

    __tablename__ = "unreadable_field"

    account_id: int = _account()
    organisation_id: int = _key()
    resource: str = _key(sa.Text)
    field: str = _key(sa.Text)
    rows: int = _column(sa.BigInteger, "0")
    last_row_id: str = _column(sa.Text)
    first_seen_at: datetime = _column(Instant, "now()")
    last_seen_at: datetime = _column(Instant, "now()")


class Chore(SQLModel, table=True):
    """When a recurring chore of an account (0: of the whole installation) was last begun."""

    account_id: int = _key()
    name: str = _key(sa.Text)
    begun_at: datetime = _column(Instant, "now()")


class Heartbeat(SQLModel, table=True):
    """When a kind of process was last known to be up."""

    process: str = Field(sa_type=sa.Text, primary_key=True)
    at: datetime = _column(Instant, "now()")


class XeroDelivery(SQLModel, table=True):
    """The sequence numbers of one webhook delivery, kept until the count has no hole below them."""

    __tablename__ = "xero_delivery"

    first_sequence: int = _key()
    last_sequence: int = _key()
    received_at: datetime = _column(Instant, "now()")


class XeroSequence(SQLModel, table=True):
    """Up to which number (`settled_to`) Xero's deliveries to this app are accounted for; one row."""

    __tablename__ = "xero_sequence"

    id: int = _key()
    settled_to: int = _column(sa.BigInteger)
