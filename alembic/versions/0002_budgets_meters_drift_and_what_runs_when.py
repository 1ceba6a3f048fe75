"""Budgets, meters, drift, and what runs when"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "call_meter",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("day", sa.Date(), autoincrement=False, nullable=False),
        sa.Column("purpose", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("calls", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("refused", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("bytes_wire", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("bytes_plain", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "organisation_id", "day", "purpose", name=op.f("call_meter_pkey")),
    )
    op.create_table(
        "chore",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "name", name=op.f("chore_pkey")),
    )
    op.create_table(
        "heartbeat",
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("process", name=op.f("heartbeat_pkey")),
    )
    op.create_table(
        "run_seen",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "run_id", "kind", "key", name=op.f("run_seen_pkey")),
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
        sa.Column("settled_to", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("xero_sequence_pkey")),
    )
    op.add_column("copper_credential", sa.Column("records_seen_to", sa.DateTime(timezone=True), nullable=True))
    op.create_index("inbox_received_idx", "inbox", ["received_at"], unique=False, postgresql_using="brin")
    op.add_column("invoice", sa.Column("history_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("sync_run", sa.Column("drift", postgresql.JSONB(astext_type=sa.Text()), nullable=True))


def downgrade() -> None:
    op.drop_column("sync_run", "drift")
    op.drop_column("invoice", "history_at")
    op.drop_index("inbox_received_idx", table_name="inbox", postgresql_using="brin")
    op.drop_column("copper_credential", "records_seen_to")
    op.drop_table("xero_sequence")
    op.drop_table("xero_delivery")
    op.drop_table("run_seen")
    op.drop_table("heartbeat")
    op.drop_table("chore")
    op.drop_table("call_meter")
