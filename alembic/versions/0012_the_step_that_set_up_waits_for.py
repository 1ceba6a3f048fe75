"""The step of set-up that an account waits for, so that signing in again leads to it."""

import sqlalchemy as sa

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.add_column("account", sa.Column("setup_step", sa.Text(), nullable=False, server_default=sa.text("'settings'")))
    # Whoever has imported anything has been through the settings: nobody is sent back to them.
    op.execute("""
        UPDATE account a SET setup_step = 'done'
        WHERE EXISTS (SELECT FROM sync_run r WHERE r.account_id = a.id)
           OR EXISTS (SELECT FROM xero_organisation o WHERE o.account_id = a.id AND o.invoices_seen_to IS NOT NULL)
    """)
    op.create_check_constraint(
        op.f("account_setup_step_check"), "account", "setup_step IN ('settings', 'panel', 'done')"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("account_setup_step_check"), "account", type_="check")
    op.drop_column("account", "setup_step")
