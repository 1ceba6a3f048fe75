"""Addresses as they were typed, rows without a version, and fields that could not be read"""

import sqlalchemy as sa

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

VERSIONED = ("invoice", "xero_contact", "crm_record")
EMAILS = {
    "xero_contact_email": ["account_id", "organisation_id", "contact_id", "email"],
    "crm_record_email": ["account_id", "record_type", "record_id", "email"],
}
PLAIN_ADDRESS = r"^[a-z0-9.!#$%&''*+/=?^_{|}~-]+@[a-z0-9-]+([.][a-z0-9-]+)*$"


def upgrade() -> None:
    # Each table is locked for a moment only, and not behind somebody else's lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    for table in VERSIONED:
        op.add_column(table, sa.Column("has_version", sa.Boolean(), server_default=sa.text("true"), nullable=False))
    for table, key in EMAILS.items():
        op.add_column(table, sa.Column("as_typed", sa.Text(), nullable=True))
        # Addresses kept by an earlier version that may have to be normalised anew: hardly any.
        where = sa.text(f"as_typed IS NULL AND email !~ '{PLAIN_ADDRESS}'".replace(":", r"\:"))
        op.create_index(f"{table}_odd_idx", table, key, postgresql_where=where)
    op.create_table(
        "unreadable_field",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_row_id", sa.Text(), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint(
            "account_id", "organisation_id", "resource", "field", name=op.f("unreadable_field_pkey")
        ),
    )


def downgrade() -> None:
    op.drop_table("unreadable_field")
    for table in EMAILS:
        op.drop_index(f"{table}_odd_idx", table)
        op.drop_column(table, "as_typed")
    for table in VERSIONED:
        op.drop_column(table, "has_version")
