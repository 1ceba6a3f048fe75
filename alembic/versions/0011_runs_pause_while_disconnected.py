"""Runs pause while their connection is lost; an index finds the latest run of each source and kind."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
STATES = "state IN ('running', {}'done', 'failed')"


def upgrade() -> None:
    # Both lock the table for as long as it takes to read it, but do not queue behind somebody else's lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.drop_constraint(op.f("sync_run_state_check"), "sync_run")
    op.create_check_constraint(op.f("sync_run_state_check"), "sync_run", STATES.format("'paused', "))
    op.create_index("sync_run_latest_idx", "sync_run", ["account_id", "organisation_id", "kind", "id"])


def downgrade() -> None:
    op.drop_index("sync_run_latest_idx", table_name="sync_run")
    op.execute("UPDATE sync_run SET state = 'failed', finished_at = now() WHERE state = 'paused'")
    op.drop_constraint(op.f("sync_run_state_check"), "sync_run")
    op.create_check_constraint(op.f("sync_run_state_check"), "sync_run", STATES.format(""))
