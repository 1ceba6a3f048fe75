"""The baseline schema: tables, indexes and functions. Policies and rights follow every migration (`store.db.roles`)."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "account",
    "browser_session",
    "api_key",
    "oauth_state",
    "invitation",
    "named_admin",
    "copper_credential",
    "xero_grant",
    "xero_organisation",
    "refused_endpoint",
    "audit_log",
    "cleanup_task",
    "inbox",
    "dropped_events",
    "webhook_quota",
    "xero_delivery",
    "xero_sequence",
    "xero_contact",
    "xero_contact_email",
    "xero_contact_phone",
    "xero_invoice",
    "copper_record",
    "copper_record_email",
    "copper_record_phone",
    "copper_relation",
    "copper_user",
    "contact_link",
    "invoice_pin",
    "projection_queue",
    "record_invoice",
    "record_balance",
    "copper_field_settings",
    "copper_field",
    "copper_field_value",
    "event_latency",
    "sync_run",
    "run_seen_id",
    "api_usage",
    "unreadable_field",
    "scheduled_task",
    "heartbeat",
)
# The amounts of a balance by which records can be ranked.
RANKING_COLUMNS = (
    *("open", "overdue", "not_due"),
    *("overdue_1_to_30", "overdue_31_to_60", "overdue_61_to_90", "overdue_over_90"),
)
# An address that the normalisation rules leave as it is; `store.mirror.addresses` looks for the others.
PLAIN_ADDRESS = r"^[a-z0-9.!#$%&''*+/=?^_{|}~-]+@[a-z0-9-]+([.][a-z0-9-]+)*$"
IS_IRREGULAR = f"as_typed IS NULL AND email !~ '{PLAIN_ADDRESS}'"

# One page of a record's invoices in one direction: an index-only scan of the primary key.
PAGE = """
    SELECT a.synced_at, a.invoice_limit, a.id, page.created_at, page.invoice_id, page.type, page.status, page.number,
           page.issuer, page.issue_date, page.due_date, page.total, page.balance, page.currency, page.created_source,
           page.short_code,
           overdue_days(page.status, page.balance, page.due_date,
                        organisation_today(a.time_zones, page.organisation_id, now())),
           CASE WHEN with_details AND page.invoice_id IS NOT NULL THEN json_build_object(
               'reference', page.reference, 'paid_on', page.paid_on,
               'expected_payment_date', page.expected_payment_date, 'amount_paid', page.amount_paid::text,
               'amount_credited', page.amount_credited::text, 'sent_to_contact', page.is_sent,
               'organisation', a.organisation_names ->> page.organisation_id::text)::text END
    FROM account a LEFT JOIN LATERAL (
        SELECT r.created_at, r.invoice_id, r.type, r.status, r.number, r.issuer, r.issue_date, r.due_date,
               r.total, r.balance, r.currency, r.created_source, r.short_code, r.organisation_id, r.reference,
               r.paid_on, r.expected_payment_date, r.amount_paid, r.amount_credited, r.is_sent
        FROM record_invoice r
        WHERE r.account_id = a.id AND r.record_type = for_record_type AND r.record_id = for_record_id
          AND a.record_types @> ARRAY[for_record_type]
          AND is_shown(a, r.record_type, r.type, r.status)
          AND (r.created_at, r.invoice_id) {comparison} (after_created_at, after_invoice_id)
        ORDER BY r.created_at {direction}, r.invoice_id {direction}
        LIMIT coalesce(max_rows, a.invoice_limit) + 1
    ) page ON true
    WHERE a.id = key_account_id
    ORDER BY page.created_at {direction}, page.invoice_id {direction}
"""
INVOICES_BY_KEY_ARGUMENTS = ("bytea", "text", "bigint", "int", "timestamptz", "uuid", "boolean", "boolean")
# One call a page: find the key's account, bind the transaction to it (so that the policies apply), and read its rows.
INVOICES_BY_KEY = f"""
    CREATE FUNCTION invoices_by_key(api_key_hash bytea, for_record_type text, for_record_id bigint, max_rows int,
                                    after_created_at timestamptz, after_invoice_id uuid, newest_first boolean,
                                    with_details boolean)
    RETURNS TABLE (synced_at timestamptz, invoice_limit smallint, account_id bigint, created_at timestamptz,
                   invoice_id uuid, type text, status text, number text, issuer text, issue_date date,
                   due_date date, total numeric, balance numeric, currency text, created_source text,
                   short_code text, overdue_days int, details text)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, public, pg_temp AS $$
    #variable_conflict use_column
    DECLARE key_account_id bigint := account_of_key(api_key_hash);
    BEGIN
        PERFORM set_config('patina.account', key_account_id::text, true);
        IF newest_first THEN
            RETURN QUERY {PAGE.format(comparison="<", direction="DESC")};
        ELSE
            RETURN QUERY {PAGE.format(comparison=">", direction="ASC")};
        END IF;
    END $$
"""


def upgrade() -> None:
    _create_accounts()
    _create_events()
    _create_mirror()
    _create_read_model()
    _create_sync()
    _create_functions()


def _create_accounts() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("copper_account_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "record_types",
            postgresql.ARRAY(sa.Text()),
            server_default=sa.text("'{lead,person,company,opportunity}'"),
            nullable=False,
        ),
        sa.Column("invoice_limit", sa.SmallInteger(), server_default=sa.text("5"), nullable=False),
        sa.Column("bill_record_types", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column(
            "shown_credits",
            postgresql.ARRAY(sa.Text()),
            server_default=sa.text("'{credit_notes}'"),
            nullable=False,
        ),
        sa.Column(
            "credit_record_types",
            postgresql.ARRAY(sa.Text()),
            server_default=sa.text("'{lead,person,company,opportunity}'"),
            nullable=False,
        ),
        sa.Column("hidden_statuses", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column(
            "shown_columns",
            postgresql.ARRAY(sa.Text()),
            server_default=sa.text("'{number,status,issuer,due_date,total,balance}'"),
            nullable=False,
        ),
        sa.Column("match_email_domain", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("visible_to_teams", postgresql.ARRAY(sa.BigInteger()), nullable=True),
        sa.Column("opportunities_show_pinned_only", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("balances_as_of", sa.Date(), server_default=sa.text("CURRENT_DATE"), nullable=False),
        sa.Column(
            "time_zones", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "organisation_names",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("setup_step", sa.Text(), server_default=sa.text("'settings'"), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("setup_step IN ('settings', 'panel', 'done')", name=op.f("account_setup_step_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("account_pkey")),
        sa.UniqueConstraint("copper_account_id", name=op.f("account_copper_account_id_key")),
    )
    op.create_index(
        op.f("account_balances_as_of_idx"),
        "account",
        ["balances_as_of"],
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_table(
        "browser_session",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("teams", postgresql.ARRAY(sa.BigInteger()), nullable=True),
        sa.Column("teams_fetched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("method", sa.Text(), server_default=sa.text("'key'"), nullable=False),
        sa.Column("surface", sa.Text(), server_default=sa.text("'pages'"), nullable=False),
        sa.Column("client", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.CheckConstraint("method IN ('key', 'copper')", name=op.f("browser_session_method_check")),
        sa.CheckConstraint("role IN ('admin', 'viewer')", name=op.f("browser_session_role_check")),
        sa.CheckConstraint("surface IN ('pages', 'panel')", name=op.f("browser_session_surface_check")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("browser_session_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("browser_session_pkey")),
        sa.UniqueConstraint("token_hash", name=op.f("browser_session_token_hash_key")),
    )
    op.create_table(
        "api_key",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{read}'"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("api_key_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("api_key_pkey")),
        sa.UniqueConstraint("key_hash", name=op.f("api_key_key_hash_key")),
    )
    op.create_table(
        "oauth_state",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state_hash", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("browser_hash", sa.LargeBinary(), nullable=False),
        sa.Column("encrypted_payload", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "state_hash", name=op.f("oauth_state_pkey")),
    )
    op.create_table(
        "invitation",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("invitation_pkey")),
        sa.UniqueConstraint("code_hash", name=op.f("invitation_code_hash_key")),
    )
    op.create_table(
        "named_admin",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("named_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("named_admin_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "user_id", name=op.f("named_admin_pkey")),
    )
    op.create_table(
        "copper_credential",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("encrypted_payload", sa.LargeBinary(), nullable=False),
        sa.Column("webhook_token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'active'"), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("records_synced_through", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("copper_credential_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("copper_credential_pkey")),
        sa.UniqueConstraint("webhook_token_hash", name=op.f("copper_credential_webhook_token_hash_key")),
    )
    op.create_table(
        "xero_grant",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("encrypted_payload", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'active'"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("refreshed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("xero_user_id", sa.Text(), nullable=True),
        sa.Column("auth_event_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("xero_grant_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("xero_grant_pkey")),
    )
    op.create_table(
        "xero_organisation",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("grant_id", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("connection_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("short_code", sa.Text(), nullable=True),
        sa.Column("base_currency", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default=sa.text("'active'"), nullable=False),
        sa.Column("connected_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("invoices_synced_through", sa.DateTime(timezone=True), nullable=True),
        sa.Column("contacts_synced_through", sa.DateTime(timezone=True), nullable=True),
        sa.Column("credit_notes_synced_through", sa.DateTime(timezone=True), nullable=True),
        sa.Column("prepayments_synced_through", sa.DateTime(timezone=True), nullable=True),
        sa.Column("overpayments_synced_through", sa.DateTime(timezone=True), nullable=True),
        sa.Column("xero_time_zone", sa.Text(), nullable=True),
        sa.Column("time_zone", sa.Text(), server_default=sa.text("'UTC'"), nullable=False),
        sa.Column("balances_as_of", sa.Date(), server_default=sa.text("CURRENT_DATE"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("xero_organisation_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("xero_organisation_pkey")),
        sa.UniqueConstraint("account_id", "tenant_id", name=op.f("xero_organisation_account_id_tenant_id_key")),
    )
    op.create_index(op.f("xero_organisation_tenant_id_idx"), "xero_organisation", ["tenant_id"])
    op.create_index(
        op.f("xero_organisation_time_zone_balances_as_of_idx"), "xero_organisation", ["time_zone", "balances_as_of"]
    )
    op.create_table(
        "refused_endpoint",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("endpoint", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("parameter", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("refused_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("refused_endpoint_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "account_id", "organisation_id", "endpoint", "parameter", name=op.f("refused_endpoint_pkey")
        ),
    )
    op.create_table(
        "audit_log",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("audit_log_pkey")),
    )
    op.create_index(
        "audit_log_admin_sign_in_idx",
        "audit_log",
        ["account_id", "id"],
        postgresql_where=sa.text("action = 'admin.signed_in'"),
    )
    op.create_table(
        "cleanup_task",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("task_type", sa.Text(), nullable=False),
        sa.Column("encrypted_payload", sa.LargeBinary(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("cleanup_task_pkey")),
    )


def _create_events() -> None:
    op.create_table(
        "inbox",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("vendor", sa.Text(), nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("dedupe_key", sa.LargeBinary(), nullable=False),
        sa.Column("correlation_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'leased', 'done', 'failed', 'ignored', 'dismissed')", name=op.f("inbox_state_check")
        ),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("inbox_pkey")),
        sa.UniqueConstraint("account_id", "dedupe_key", name=op.f("inbox_account_id_dedupe_key_key")),
    )
    op.create_index("inbox_failed_idx", "inbox", ["account_id", "id"], postgresql_where=sa.text("state = 'failed'"))
    op.create_index(
        "inbox_pending_idx",
        "inbox",
        ["account_id", "vendor", "organisation_id", "id"],
        postgresql_where=sa.text("state IN ('pending', 'leased')"),
    )
    op.create_index("inbox_received_idx", "inbox", ["received_at"], postgresql_using="brin")
    op.create_table(
        "dropped_events",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("day", sa.Date(), autoincrement=False, nullable=False),
        sa.Column("vendor", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("reason", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "day", "vendor", "reason", name=op.f("dropped_events_pkey")),
    )
    op.create_table(
        "webhook_quota",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("minute_rows", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("day_rows", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("granted_rows", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("account_id", name=op.f("webhook_quota_pkey")),
    )
    op.create_table(
        "xero_delivery",
        sa.Column("first_sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("first_sequence", "last_sequence", name=op.f("xero_delivery_pkey")),
    )
    op.create_table(
        "xero_sequence",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("contiguous_through", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("xero_sequence_pkey")),
    )


def _create_mirror() -> None:
    op.create_table(
        "xero_contact",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("contact_id", sa.Uuid(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("merged_to", sa.Uuid(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("has_version", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("xero_contact_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "organisation_id", "contact_id", name=op.f("xero_contact_pkey")),
    )
    op.create_table(
        "xero_contact_email",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("contact_id", sa.Uuid(), autoincrement=False, nullable=False),
        sa.Column("email", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("domain", sa.Text(), sa.Computed("split_part(email, '@', 2)", persisted=True), nullable=True),
        sa.Column("as_typed", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("xero_contact_email_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "account_id", "organisation_id", "contact_id", "email", name=op.f("xero_contact_email_pkey")
        ),
    )
    op.create_index("xero_contact_email_domain_idx", "xero_contact_email", ["account_id", "domain"])
    op.create_index("xero_contact_email_email_idx", "xero_contact_email", ["account_id", "email"])
    op.create_index(
        "xero_contact_email_irregular_idx",
        "xero_contact_email",
        ["account_id", "organisation_id", "contact_id", "email"],
        postgresql_where=sa.text(IS_IRREGULAR),
    )
    op.create_table(
        "xero_contact_phone",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("contact_id", sa.Uuid(), autoincrement=False, nullable=False),
        sa.Column("phone", sa.Text(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("xero_contact_phone_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "account_id", "organisation_id", "contact_id", "phone", name=op.f("xero_contact_phone_pkey")
        ),
    )
    op.create_table(
        "xero_invoice",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("invoice_id", sa.Uuid(), autoincrement=False, nullable=False),
        sa.Column("contact_id", sa.Uuid(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("issue_date", sa.Date(), nullable=True),
        sa.Column("due_date", sa.Date(), nullable=True),
        sa.Column("paid_on", sa.Date(), nullable=True),
        sa.Column("expected_payment_date", sa.Date(), nullable=True),
        sa.Column("total", sa.Numeric(), nullable=True),
        sa.Column("balance", sa.Numeric(), nullable=True),
        sa.Column("amount_paid", sa.Numeric(), nullable=True),
        sa.Column("amount_credited", sa.Numeric(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("currency_rate", sa.Numeric(), nullable=True),
        sa.Column("is_sent", sa.Boolean(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_source", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("has_version", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("history_fetched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("online_url", sa.Text(), nullable=True),
        sa.Column("is_deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint(
            "created_source IN ('webhook', 'history', 'issue_date', 'updated_date')",
            name=op.f("xero_invoice_created_source_check"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("xero_invoice_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "organisation_id", "invoice_id", name=op.f("xero_invoice_pkey")),
    )
    op.create_index("xero_invoice_contact_idx", "xero_invoice", ["account_id", "organisation_id", "contact_id"])
    op.create_index(
        "xero_invoice_open_idx",
        "xero_invoice",
        ["account_id", "currency", "type"],
        postgresql_include=["organisation_id", "status", "balance", "due_date"],
        postgresql_where=sa.text("status = 'AUTHORISED' AND balance > 0 AND NOT is_deleted"),
    )
    op.create_index("xero_invoice_created_idx", "xero_invoice", ["account_id", "created_at", "invoice_id"])
    op.create_table(
        "copper_record",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record_type", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("name_key", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("email_domain", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("has_version", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("assignee_id", sa.BigInteger(), nullable=True),
        sa.Column("relations_fetched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint(
            "record_type IN ('lead', 'person', 'company', 'opportunity')", name=op.f("copper_record_record_type_check")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("copper_record_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "record_type", "record_id", name=op.f("copper_record_pkey")),
    )
    op.create_index(
        "copper_record_domain_idx",
        "copper_record",
        ["account_id", "email_domain"],
        postgresql_where=sa.text("email_domain IS NOT NULL"),
    )
    op.create_index(
        "copper_record_name_key_idx",
        "copper_record",
        ["account_id", "name_key"],
        postgresql_where=sa.text("name_key <> ''"),
    )
    op.create_table(
        "copper_user",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("copper_user_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "user_id", name=op.f("copper_user_pkey")),
    )
    op.create_table(
        "copper_record_email",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record_type", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("email", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("domain", sa.Text(), sa.Computed("split_part(email, '@', 2)", persisted=True), nullable=True),
        sa.Column("as_typed", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "record_type IN ('lead', 'person', 'company', 'opportunity')",
            name=op.f("copper_record_email_record_type_check"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("copper_record_email_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "account_id", "record_type", "record_id", "email", name=op.f("copper_record_email_pkey")
        ),
    )
    op.create_index("copper_record_email_domain_idx", "copper_record_email", ["account_id", "domain"])
    op.create_index("copper_record_email_email_idx", "copper_record_email", ["account_id", "email"])
    op.create_index(
        "copper_record_email_irregular_idx",
        "copper_record_email",
        ["account_id", "record_type", "record_id", "email"],
        postgresql_where=sa.text(IS_IRREGULAR),
    )
    op.create_table(
        "copper_record_phone",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record_type", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("phone", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("last_digits", sa.Text(), sa.Computed('"right"(phone, 8)', persisted=True), nullable=True),
        sa.CheckConstraint(
            "record_type IN ('lead', 'person', 'company', 'opportunity')",
            name=op.f("copper_record_phone_record_type_check"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("copper_record_phone_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "account_id", "record_type", "record_id", "phone", name=op.f("copper_record_phone_pkey")
        ),
    )
    op.create_index("copper_record_phone_digits_idx", "copper_record_phone", ["account_id", "last_digits"])
    op.create_table(
        "copper_relation",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record_type", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("related_type", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("related_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.Text(), autoincrement=False, nullable=False),
        sa.CheckConstraint(
            "record_type IN ('lead', 'person', 'company', 'opportunity')",
            name=op.f("copper_relation_record_type_check"),
        ),
        sa.CheckConstraint(
            "related_type IN ('lead', 'person', 'company', 'opportunity')",
            name=op.f("copper_relation_related_type_check"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("copper_relation_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "account_id",
            "record_type",
            "record_id",
            "related_type",
            "related_id",
            "origin",
            name=op.f("copper_relation_pkey"),
        ),
    )
    op.create_index(
        "copper_relation_related_idx",
        "copper_relation",
        ["account_id", "related_type", "related_id", "record_type", "record_id"],
    )
    op.create_table(
        "contact_link",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("contact_id", sa.Uuid(), autoincrement=False, nullable=False),
        sa.Column("record_type", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("linked_by", sa.Text(), nullable=False),
        sa.Column("linked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(
            "record_type IN ('lead', 'person', 'company', 'opportunity')", name=op.f("contact_link_record_type_check")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("contact_link_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "account_id", "organisation_id", "contact_id", "record_type", "record_id", name=op.f("contact_link_pkey")
        ),
    )
    op.create_index(
        "contact_link_batch_idx",
        "contact_link",
        ["account_id", "batch_id"],
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index("contact_link_record_idx", "contact_link", ["account_id", "record_type", "record_id"])
    op.create_table(
        "invoice_pin",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("invoice_id", sa.Uuid(), autoincrement=False, nullable=False),
        sa.Column("opportunity_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("pinned_by", sa.Text(), nullable=False),
        sa.Column("pinned_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("invoice_pin_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "account_id", "organisation_id", "invoice_id", "opportunity_id", name=op.f("invoice_pin_pkey")
        ),
    )
    op.create_index("invoice_pin_opportunity_idx", "invoice_pin", ["account_id", "opportunity_id"])


def _create_read_model() -> None:
    op.create_table(
        "projection_queue",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("entity_type", sa.Text(), nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), nullable=True),
        sa.Column("xero_id", sa.Uuid(), nullable=True),
        sa.Column("record_id", sa.BigInteger(), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("queued_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("projection_queue_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("projection_queue_pkey")),
    )
    op.create_table(
        "record_invoice",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record_type", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), autoincrement=False, nullable=False),
        sa.Column("invoice_id", sa.Uuid(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=True),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("issue_date", sa.Date(), nullable=True),
        sa.Column("due_date", sa.Date(), nullable=True),
        sa.Column("total", sa.Numeric(), nullable=True),
        sa.Column("balance", sa.Numeric(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("created_source", sa.Text(), nullable=False),
        sa.Column("short_code", sa.Text(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("paid_on", sa.Date(), nullable=True),
        sa.Column("expected_payment_date", sa.Date(), nullable=True),
        sa.Column("amount_paid", sa.Numeric(), nullable=True),
        sa.Column("amount_credited", sa.Numeric(), nullable=True),
        sa.Column("is_sent", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint(
            "account_id",
            "record_type",
            "record_id",
            "created_at",
            "invoice_id",
            name=op.f("record_invoice_pkey"),
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
                "reference",
                "paid_on",
                "expected_payment_date",
                "amount_paid",
                "amount_credited",
                "is_sent",
            ],
        ),
        postgresql_with={
            "fillfactor": "85",
            "autovacuum_vacuum_scale_factor": "0.02",
            "autovacuum_vacuum_insert_scale_factor": "0.05",
        },
    )
    op.create_index("record_invoice_invoice_idx", "record_invoice", ["account_id", "invoice_id"])
    op.create_table(
        "record_balance",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record_type", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("type", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("currency", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("open", sa.Numeric(), nullable=False),
        sa.Column("overdue", sa.Numeric(), nullable=False),
        sa.Column("overdue_1_to_30", sa.Numeric(), nullable=False),
        sa.Column("overdue_31_to_60", sa.Numeric(), nullable=False),
        sa.Column("overdue_61_to_90", sa.Numeric(), nullable=False),
        sa.Column("overdue_over_90", sa.Numeric(), nullable=False),
        sa.Column("invoices", sa.Integer(), nullable=False),
        sa.Column("overdue_invoices", sa.Integer(), nullable=False),
        sa.Column("not_due", sa.Numeric(), sa.Computed("open - overdue", persisted=True), nullable=True),
        sa.PrimaryKeyConstraint(
            "account_id", "record_type", "record_id", "type", "currency", name=op.f("record_balance_pkey")
        ),
    )
    for amount in RANKING_COLUMNS:
        op.create_index(
            f"record_balance_{amount}_idx",
            "record_balance",
            ["account_id", "record_type", "type", "currency", amount, "record_id"],
        )
    op.create_table(
        "copper_field_settings",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'off'"), nullable=False),
        sa.Column("record_types", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('off', 'on', 'clearing')", name=op.f("copper_field_settings_state_check")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("copper_field_settings_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("copper_field_settings_pkey")),
    )
    op.create_table(
        "copper_field",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("field_key", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("measure", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("is_selected", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("definition_id", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.Text(), server_default=sa.text("'new'"), nullable=False),
        sa.CheckConstraint("state IN ('new', 'ready', 'missing', 'retyped')", name=op.f("copper_field_state_check")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("copper_field_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "field_key", name=op.f("copper_field_pkey")),
    )
    op.create_table(
        "copper_field_value",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record_type", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("is_stale", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("expected_values", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("written_values", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column(
            "is_pending", sa.Boolean(), sa.Computed("expected_values <> written_values", persisted=True), nullable=True
        ),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "record_type IN ('lead', 'person', 'company', 'opportunity')",
            name=op.f("copper_field_value_record_type_check"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("copper_field_value_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "record_type", "record_id", name=op.f("copper_field_value_pkey")),
    )
    op.create_index(
        "copper_field_value_stale_idx", "copper_field_value", ["account_id"], postgresql_where=sa.text("is_stale")
    )
    op.create_index(
        "copper_field_value_pending_idx",
        "copper_field_value",
        ["account_id", "not_before"],
        postgresql_where=sa.text("is_pending"),
    )
    op.create_table(
        "event_latency",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), autoincrement=False, nullable=False),
        sa.Column("bucket", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("event_latency_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "hour", "bucket", name=op.f("event_latency_pkey")),
    )


def _create_sync() -> None:
    op.create_table(
        "sync_run",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'running'"), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column(
            "cursor", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "counts", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("drift", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('running', 'paused', 'done', 'failed')", name=op.f("sync_run_state_check")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("sync_run_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("sync_run_pkey")),
    )
    op.create_index("sync_run_latest_idx", "sync_run", ["account_id", "organisation_id", "kind", "id"])
    op.create_index("sync_run_failed_idx", "sync_run", ["account_id"], postgresql_where=sa.text("state = 'failed'"))
    op.create_index("sync_run_due_idx", "sync_run", ["not_before"], postgresql_where=sa.text("state = 'running'"))
    op.create_index(
        "sync_run_drift_idx",
        "sync_run",
        ["account_id", "organisation_id", "id"],
        postgresql_where=sa.text(
            "kind = 'reconciliation' AND state = 'done' AND jsonb_path_exists(drift, '$.*.* ? (@ > 0)')"
        ),
    )
    op.create_index(
        "sync_run_running_idx",
        "sync_run",
        ["account_id", "organisation_id", "kind"],
        unique=True,
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "run_seen_id",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("resource_type", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("resource_id", sa.Text(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("run_seen_id_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "run_id", "resource_type", "resource_id", name=op.f("run_seen_id_pkey")),
    )
    op.create_table(
        "api_usage",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("day", sa.Date(), autoincrement=False, nullable=False),
        sa.Column("priority", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("calls", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("rate_limited", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("bytes_compressed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("bytes_uncompressed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_call_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("api_usage_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_id", "organisation_id", "day", "priority", name=op.f("api_usage_pkey")),
    )
    op.create_index(op.f("api_usage_day_idx"), "api_usage", ["day"])
    op.create_table(
        "unreadable_field",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("resource", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("field", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("rows", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_row_id", sa.Text(), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("unreadable_field_account_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "account_id", "organisation_id", "resource", "field", name=op.f("unreadable_field_pkey")
        ),
    )
    op.create_table(
        "scheduled_task",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("last_started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "name", name=op.f("scheduled_task_pkey")),
    )
    op.create_index(op.f("scheduled_task_name_last_started_at_idx"), "scheduled_task", ["name", "last_started_at"])
    op.create_table(
        "heartbeat",
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("process", name=op.f("heartbeat_pkey")),
    )


def _create_functions() -> None:
    op.execute("""
        CREATE FUNCTION account_of_key(api_key_hash bytea) RETURNS bigint
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
            SELECT account_id FROM api_key
            WHERE key_hash = api_key_hash AND revoked_at IS NULL AND scopes && '{read,admin}'
        $$
    """)
    # Each parameter appears once, so that PostgreSQL can inline the expression.
    op.execute("""
        CREATE FUNCTION local_date(time_zone text, at timestamptz) RETURNS date
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN (at AT TIME ZONE time_zone)::date
    """)
    op.execute("""
        CREATE FUNCTION organisation_today(time_zones jsonb, organisation_id bigint, at timestamptz) RETURNS date
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN local_date(coalesce(time_zones ->> organisation_id::text, 'UTC'), at)
    """)
    op.execute("""
        CREATE FUNCTION overdue_days(status text, balance numeric, due_date date, today date) RETURNS int
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN CASE WHEN status = 'AUTHORISED' AND balance > 0 THEN greatest(today - due_date, 0) ELSE 0 END
    """)
    op.execute("""
        CREATE FUNCTION credit_resource(type text) RETURNS text
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN CASE
            WHEN type IN ('ACCRECCREDIT', 'ACCPAYCREDIT', 'CREDITNOTE') THEN 'credit_notes'
            WHEN type IN ('RECEIVE-PREPAYMENT', 'SPEND-PREPAYMENT', 'PREPAYMENT') THEN 'prepayments'
            WHEN type IN ('RECEIVE-OVERPAYMENT', 'SPEND-OVERPAYMENT', 'OVERPAYMENT') THEN 'overpayments'
        END
    """)
    op.execute("""
        CREATE FUNCTION is_purchase(type text) RETURNS boolean
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN type IN ('ACCPAY', 'ACCPAYCREDIT', 'SPEND-PREPAYMENT', 'SPEND-OVERPAYMENT')
    """)
    # Without a record type: whether records of any type show it. What awaits payment is never hidden by its status.
    op.execute("""
        CREATE FUNCTION is_shown(settings account, record_type text, type text, status text) RETURNS boolean
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN (NOT is_purchase(type) OR record_type = ANY((settings).bill_record_types)
                OR (record_type IS NULL AND (settings).bill_record_types <> '{}'))
               AND (credit_resource(type) IS NULL OR credit_resource(type) = ANY((settings).shown_credits)
                    AND (record_type = ANY((settings).credit_record_types)
                         OR (record_type IS NULL AND (settings).credit_record_types <> '{}')))
               AND (status = 'AUTHORISED' OR status <> ALL((settings).hidden_statuses))
    """)
    op.execute(INVOICES_BY_KEY)


def downgrade() -> None:
    op.execute(f"DROP FUNCTION invoices_by_key({', '.join(INVOICES_BY_KEY_ARGUMENTS)})")
    op.execute("DROP FUNCTION is_shown(account, text, text, text)")
    op.execute("DROP FUNCTION is_purchase(text)")
    op.execute("DROP FUNCTION credit_resource(text)")
    op.execute("DROP FUNCTION overdue_days(text, numeric, date, date)")
    op.execute("DROP FUNCTION organisation_today(jsonb, bigint, timestamptz)")
    op.execute("DROP FUNCTION local_date(text, timestamptz)")
    op.execute("DROP FUNCTION account_of_key(bytea)")
    for table in reversed(TABLES):
        op.drop_table(table)
