"""The first schema"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

RECORD_TYPE = postgresql.ENUM("lead", "person", "company", "opportunity", name="record_type", create_type=False)


def upgrade() -> None:
    RECORD_TYPE.create(op.get_bind(), checkfirst=False)
    op.create_table(
        "account",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("copper_account_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "record_types",
            postgresql.ARRAY(RECORD_TYPE),
            server_default=sa.text("'{lead,person,company,opportunity}'::record_type[]"),
            nullable=False,
        ),
        sa.Column("shown", sa.SmallInteger(), server_default=sa.text("5"), nullable=False),
        sa.Column("show_bills", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("visible_to_teams", postgresql.ARRAY(sa.BigInteger()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("account_pkey")),
        sa.UniqueConstraint("copper_account_id", name=op.f("account_copper_account_id_key")),
    )
    op.create_table(
        "api_key",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("api_key_pkey")),
        sa.UniqueConstraint("key_hash", name=op.f("api_key_key_hash_key")),
    )
    op.create_table(
        "copper_credential",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("webhook_token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'working'"), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("account_id", name=op.f("copper_credential_pkey")),
        sa.UniqueConstraint("webhook_token_hash", name=op.f("copper_credential_webhook_token_hash_key")),
    )
    op.create_table(
        "crm_record",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record_type", RECORD_TYPE, autoincrement=False, nullable=False),
        sa.Column("record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("related_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("gone", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "record_type", "record_id", name=op.f("crm_record_pkey")),
    )
    op.create_table(
        "crm_record_email",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record_type", RECORD_TYPE, autoincrement=False, nullable=False),
        sa.Column("record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("email", sa.Text(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "record_type", "record_id", "email", name=op.f("crm_record_email_pkey")),
    )
    op.create_index("crm_record_email_email_idx", "crm_record_email", ["account_id", "email"], unique=False)
    op.create_table(
        "crm_relation",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record_type", RECORD_TYPE, autoincrement=False, nullable=False),
        sa.Column("record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("related_type", RECORD_TYPE, autoincrement=False, nullable=False),
        sa.Column("related_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("source", sa.Text(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint(
            "account_id",
            "record_type",
            "record_id",
            "related_type",
            "related_id",
            "source",
            name=op.f("crm_relation_pkey"),
        ),
    )
    op.create_index(
        "crm_relation_related_idx",
        "crm_relation",
        ["account_id", "related_type", "related_id", "record_type", "record_id"],
        unique=False,
    )
    op.create_table(
        "dirty",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), nullable=True),
        sa.Column("xero_id", sa.Uuid(), nullable=True),
        sa.Column("record_id", sa.BigInteger(), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("marked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("dirty_pkey")),
    )
    op.create_table(
        "inbox",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
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
            "state IN ('pending', 'leased', 'done', 'failed', 'ignored', 'dismissed')",
            name=op.f("inbox_state_check"),
        ),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("inbox_pkey")),
        sa.UniqueConstraint("account_id", "dedupe_key", name=op.f("inbox_account_id_dedupe_key_key")),
    )
    op.create_index(
        "inbox_waiting_idx",
        "inbox",
        ["account_id", "source", "organisation_id", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('pending', 'leased')"),
    )
    op.create_table(
        "invoice",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("invoice_id", sa.Uuid(), autoincrement=False, nullable=False),
        sa.Column("contact_id", sa.Uuid(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=True),
        sa.Column("issue_date", sa.Date(), nullable=True),
        sa.Column("due_date", sa.Date(), nullable=True),
        sa.Column("total", sa.Numeric(), nullable=False),
        sa.Column("balance", sa.Numeric(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_source", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("gone", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint(
            "created_source IN ('webhook', 'history', 'issue_date', 'updated_date')",
            name=op.f("invoice_created_source_check"),
        ),
        sa.PrimaryKeyConstraint("account_id", "organisation_id", "invoice_id", name=op.f("invoice_pkey")),
    )
    op.create_index("invoice_contact_idx", "invoice", ["account_id", "organisation_id", "contact_id"], unique=False)
    op.create_table(
        "record_invoice",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record_type", RECORD_TYPE, autoincrement=False, nullable=False),
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
        sa.Column("total", sa.Numeric(), nullable=False),
        sa.Column("balance", sa.Numeric(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("created_source", sa.Text(), nullable=False),
        sa.Column("short_code", sa.Text(), nullable=True),
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
            ],
        ),
        postgresql_with={
            "fillfactor": "85",
            "autovacuum_vacuum_scale_factor": "0.02",
            "autovacuum_vacuum_insert_scale_factor": "0.05",
        },
    )
    op.create_index("record_invoice_invoice_idx", "record_invoice", ["account_id", "invoice_id"], unique=False)
    op.create_table(
        "sync_run",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'running'"), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column(
            "cursor",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "counts",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('running', 'done', 'failed')", name=op.f("sync_run_state_check")),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("sync_run_pkey")),
    )
    op.create_index(
        "sync_run_one_at_work_idx",
        "sync_run",
        ["account_id", "organisation_id", "kind"],
        unique=True,
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "xero_contact",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("contact_id", sa.Uuid(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("merged_to", sa.Uuid(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("gone", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "organisation_id", "contact_id", name=op.f("xero_contact_pkey")),
    )
    op.create_table(
        "xero_contact_email",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("contact_id", sa.Uuid(), autoincrement=False, nullable=False),
        sa.Column("email", sa.Text(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint(
            "account_id", "organisation_id", "contact_id", "email", name=op.f("xero_contact_email_pkey")
        ),
    )
    op.create_index("xero_contact_email_email_idx", "xero_contact_email", ["account_id", "email"], unique=False)
    op.create_table(
        "xero_grant",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'working'"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("refreshed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
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
        sa.Column("status", sa.Text(), server_default=sa.text("'working'"), nullable=False),
        sa.Column("connected_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("invoices_seen_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("contacts_seen_to", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("account_id", "id", name=op.f("xero_organisation_pkey")),
        sa.UniqueConstraint("account_id", "tenant_id", name=op.f("xero_organisation_account_id_tenant_id_key")),
    )
    op.create_index(op.f("xero_organisation_tenant_id_idx"), "xero_organisation", ["tenant_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("xero_organisation_tenant_id_idx"), table_name="xero_organisation")
    op.drop_table("xero_organisation")
    op.drop_table("xero_grant")
    op.drop_index("xero_contact_email_email_idx", table_name="xero_contact_email")
    op.drop_table("xero_contact_email")
    op.drop_table("xero_contact")
    op.drop_index("sync_run_one_at_work_idx", table_name="sync_run", postgresql_where=sa.text("state = 'running'"))
    op.drop_table("sync_run")
    op.drop_index("record_invoice_invoice_idx", table_name="record_invoice")
    op.drop_table("record_invoice")
    op.drop_index("invoice_contact_idx", table_name="invoice")
    op.drop_table("invoice")
    op.drop_index("inbox_waiting_idx", table_name="inbox", postgresql_where=sa.text("state IN ('pending', 'leased')"))
    op.drop_table("inbox")
    op.drop_table("dirty")
    op.drop_index("crm_relation_related_idx", table_name="crm_relation")
    op.drop_table("crm_relation")
    op.drop_index("crm_record_email_email_idx", table_name="crm_record_email")
    op.drop_table("crm_record_email")
    op.drop_table("crm_record")
    op.drop_table("copper_credential")
    op.drop_table("api_key")
    op.drop_table("account")
    RECORD_TYPE.drop(op.get_bind(), checkfirst=False)
