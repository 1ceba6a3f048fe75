"""Whose authorisation a Xero grant is and what it permits; the endpoints that a vendor refuses."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("xero_grant", sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=True))
    op.add_column("xero_grant", sa.Column("xero_user_id", sa.Text(), nullable=True))
    op.add_column("xero_grant", sa.Column("auth_event_id", sa.Text(), nullable=True))
    op.create_table(
        "refused_endpoint",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("parameter", sa.Text(), nullable=False),
        sa.Column("refused_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint(
            "account_id", "organisation_id", "endpoint", "parameter", name=op.f("refused_endpoint_pkey")
        ),
    )


def downgrade() -> None:
    op.drop_table("refused_endpoint")
    for column in ("auth_event_id", "xero_user_id", "scopes"):
        op.drop_column("xero_grant", column)
