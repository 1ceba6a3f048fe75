"""Set-up codes for new accounts; how much of what webhooks bring is kept, and how much was not."""

import sqlalchemy as sa

from alembic import op

revision = "0014"
down_revision = "0015"
branch_labels = None
depends_on = None

NOW = sa.text("now()")
NOTHING = sa.text("0")


def upgrade() -> None:
    op.create_table(
        "invitation",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("invitation_pkey")),
        sa.UniqueConstraint("code_hash", name=op.f("invitation_code_hash_key")),
    )
    op.create_table(
        "dropped_events",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "day", "source", "reason", name=op.f("dropped_events_pkey")),
    )
    op.create_table(
        "notification_window",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("in_minute", sa.BigInteger(), server_default=NOTHING, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("in_day", sa.BigInteger(), server_default=NOTHING, nullable=False),
        sa.Column("granted", sa.BigInteger(), server_default=NOTHING, nullable=False),
        sa.PrimaryKeyConstraint("account_id", name=op.f("notification_window_pkey")),
    )


def downgrade() -> None:
    for table in ("notification_window", "dropped_events", "invitation"):
        op.drop_table(table)
