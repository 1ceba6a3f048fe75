"""Tables of accounts, their credentials, connections, users and audit log.

Every key starts with the account, so that the schema can be sharded by account.
"""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlmodel import Field, SQLModel

from store.db.enums import (
    GrantStatus,
    OrganisationStatus,
    SetupStep,
)
from store.models.columns import Instant, account_key_column, column, key_column, serial_column


class Account(SQLModel, table=True):
    """One Copper account and its settings. `synced_at` is when its read model was last known to be up to date.

    `balances_as_of` is the day (UTC) on which all balances of its records were last computed. `time_zones` and
    `organisation_names` copy from its organisations (by organisation id), so that a read is one statement. `setup_step`
    is where signing in leads until the set-up is complete. `closed_at` is set when the account is disconnected: from
    then on it is invisible and no work starts for it, and its row is deleted when no data is left
    (`store.accounts.deprovisioning`).
    """

    __table_args__ = (
        sa.Index(None, "balances_as_of", postgresql_where=sa.text("closed_at IS NULL")),
        sa.CheckConstraint(f"setup_step IN ({', '.join(repr(step.value) for step in SetupStep)})", name="setup_step"),
    )

    id: int = serial_column()
    copper_account_id: int = Field(sa_type=sa.BigInteger, unique=True)
    name: str = column(sa.Text)
    record_types: list[str] = column(pg.ARRAY(sa.Text), "'{lead,person,company,opportunity}'")
    invoice_limit: int = column(sa.SmallInteger, "5")
    bill_record_types: list[str] = column(pg.ARRAY(sa.Text), "'{}'")
    shown_credits: list[str] = column(pg.ARRAY(sa.Text), "'{credit_notes}'")
    credit_record_types: list[str] = column(pg.ARRAY(sa.Text), "'{lead,person,company,opportunity}'")
    hidden_statuses: list[str] = column(pg.ARRAY(sa.Text), "'{}'")
    shown_columns: list[str] = column(pg.ARRAY(sa.Text), "'{number,status,issuer,due_date,total,balance}'")
    match_email_domain: bool = column(sa.Boolean, "false")
    visible_to_teams: list[int] | None = column(pg.ARRAY(sa.BigInteger), null=True)
    opportunities_show_pinned_only: bool = column(sa.Boolean, "false")
    created_at: datetime = column(Instant, "now()")
    synced_at: datetime | None = column(Instant, null=True)
    balances_as_of: date = column(sa.Date, "CURRENT_DATE")
    time_zones: dict[str, str] = column(pg.JSONB, "'{}'::jsonb")
    organisation_names: dict[str, str] = column(pg.JSONB, "'{}'::jsonb")
    setup_step: SetupStep = column(sa.Text, "'settings'")
    closed_at: datetime | None = column(Instant, null=True)


class CopperCredential(SQLModel, table=True):
    """An account's Copper credentials, and the token that identifies Copper's notifications."""

    __tablename__ = "copper_credential"

    account_id: int = account_key_column()
    encrypted_payload: bytes = column(sa.LargeBinary)
    webhook_token_hash: bytes = Field(sa_type=sa.LargeBinary, unique=True)
    status: GrantStatus = column(sa.Text, "'active'")
    changed_at: datetime = column(Instant, "now()")
    records_synced_through: datetime | None = column(Instant, null=True)


class XeroGrant(SQLModel, table=True):
    """One authorisation by a Xero user: an encrypted token set, which may cover several organisations.

    `scopes`, `xero_user_id` and `auth_event_id` come from the token response; None if it lacks them.
    """

    __tablename__ = "xero_grant"

    account_id: int = account_key_column()
    id: int = serial_column()
    encrypted_payload: bytes = column(sa.LargeBinary)
    status: GrantStatus = column(sa.Text, "'active'")
    expires_at: datetime = column(Instant)
    refreshed_at: datetime = column(Instant, "now()")
    scopes: list[str] | None = column(pg.ARRAY(sa.Text), null=True)
    xero_user_id: str | None = column(sa.Text, null=True)
    auth_event_id: str | None = column(sa.Text, null=True)


class RefusedEndpoint(SQLModel, table=True):
    """An endpoint (or one `parameter` of it) that a vendor refuses to an account; organisation 0 is Copper."""

    __tablename__ = "refused_endpoint"

    account_id: int = account_key_column()
    organisation_id: int = key_column()
    endpoint: str = key_column(sa.Text)
    parameter: str = key_column(sa.Text)
    refused_at: datetime = column(Instant, "now()")


class XeroOrganisation(SQLModel, table=True):
    """One Xero organisation of one account. If two accounts have the same organisation, each has its own row.

    `time_zone` is its IANA zone as PostgreSQL knows it: UTC before Xero was asked, or if the zone is unknown here.
    `xero_time_zone` is Xero's name of it: NULL before Xero was asked, '' if Xero gave none. `balances_as_of` is the
    local day for which the overdue part of its records' balances was computed.
    """

    __tablename__ = "xero_organisation"
    __table_args__ = (
        sa.UniqueConstraint("account_id", "tenant_id"),
        sa.Index(None, "time_zone", "balances_as_of"),
    )

    account_id: int = account_key_column()
    id: int = serial_column()
    grant_id: int = column(sa.BigInteger)
    tenant_id: UUID = Field(sa_type=sa.Uuid, index=True)
    connection_id: UUID = column(sa.Uuid)
    name: str = column(sa.Text)
    short_code: str | None = column(sa.Text, null=True)
    base_currency: str | None = column(sa.Text, null=True)
    status: OrganisationStatus = column(sa.Text, "'active'")
    connected_at: datetime = column(Instant, "now()")
    invoices_synced_through: datetime | None = column(Instant, null=True)
    contacts_synced_through: datetime | None = column(Instant, null=True)
    credit_notes_synced_through: datetime | None = column(Instant, null=True)
    prepayments_synced_through: datetime | None = column(Instant, null=True)
    overpayments_synced_through: datetime | None = column(Instant, null=True)
    xero_time_zone: str | None = column(sa.Text, null=True)
    time_zone: str = column(sa.Text, "'UTC'")
    balances_as_of: date = column(sa.Date, "CURRENT_DATE")


class ApiKey(SQLModel, table=True):
    """A bearer key of an account, stored as its SHA-256 and a prefix to recognise it by.

    `scopes` say what it opens: `read` the records' invoices, `admin` all of the API, `panel` the panel in Copper.
    """

    __tablename__ = "api_key"

    account_id: int = account_key_column()
    id: int = serial_column()
    key_hash: bytes = Field(sa_type=sa.LargeBinary, unique=True)
    prefix: str = column(sa.Text)
    name: str = column(sa.Text)
    scopes: list[str] = column(pg.ARRAY(sa.Text), "'{read}'")
    created_at: datetime = column(Instant, "now()")
    last_used_at: datetime | None = column(Instant, null=True)
    revoked_at: datetime | None = column(Instant, null=True)


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

    account_id: int = account_key_column()
    id: int = serial_column()
    token_hash: bytes = Field(sa_type=sa.LargeBinary, unique=True)
    role: str = column(sa.Text)
    user_id: int = column(sa.BigInteger)
    user_name: str = column(sa.Text)
    created_at: datetime = column(Instant, "now()")
    expires_at: datetime = column(Instant)
    teams: list[int] | None = column(pg.ARRAY(sa.BigInteger), null=True)
    teams_fetched_at: datetime | None = column(Instant, null=True)
    last_used_at: datetime = column(Instant, "now()")
    confirmed_at: datetime | None = column(Instant, null=True)
    method: str = column(sa.Text, "'key'")
    surface: str = column(sa.Text, "'pages'")
    client: str = column(sa.Text, "''")


class OAuthState(SQLModel, table=True):
    """A pending OAuth request to a vendor, valid once and for a few minutes.

    `browser_hash` is the hash of the cookie of the browser that was sent there; account 0 is a sign-in.
    """

    __tablename__ = "oauth_state"

    account_id: int = key_column()
    state_hash: bytes = key_column(sa.LargeBinary)
    purpose: str = column(sa.Text)
    browser_hash: bytes = column(sa.LargeBinary)
    encrypted_payload: bytes = column(sa.LargeBinary)
    expires_at: datetime = column(Instant)


class Invitation(SQLModel, table=True):
    """A set-up code for a new account, stored as a hash, of the installation. `note` says whom it is for."""

    __table_args__ = (sa.UniqueConstraint("code_hash"),)

    id: int = serial_column()
    code_hash: bytes = column(sa.LargeBinary)
    note: str = column(sa.Text)
    created_at: datetime = column(Instant, "now()")
    expires_at: datetime = column(Instant)
    used_at: datetime | None = column(Instant, null=True)
    revoked_at: datetime | None = column(Instant, null=True)


class NamedAdmin(SQLModel, table=True):
    """A Copper user whom an admin has made an admin: signing in with Copper does not prove that they are one."""

    __tablename__ = "named_admin"

    account_id: int = account_key_column()
    user_id: int = key_column()
    name: str = column(sa.Text)
    named_at: datetime = column(Instant, "now()")


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

    account_id: int = key_column()
    id: int = serial_column()
    created_at: datetime = column(Instant, "now()")
    actor: str = column(sa.Text)
    action: str = column(sa.Text)
    detail: str = column(sa.Text, "''")


class CleanupTask(SQLModel, table=True):
    """A task that remains after an account was closed or an organisation was removed; deleted when it is done."""

    __tablename__ = "cleanup_task"

    account_id: int = key_column()
    id: int = serial_column()
    task_type: str = column(sa.Text)
    encrypted_payload: bytes = column(sa.LargeBinary)
    attempts: int = column(sa.SmallInteger, "0")
    not_before: datetime = column(Instant, "now()")
    error: str | None = column(sa.Text, null=True)
