"""An index of quarantined events: they are counted at every scrape, among a month of events."""

import sqlalchemy as sa

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # It reads the table once, and receivers wait meanwhile: not for long, and not behind somebody else's lock.
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_index("inbox_failed_idx", "inbox", ["account_id", "id"], postgresql_where=sa.text("state = 'failed'"))


def downgrade() -> None:
    op.drop_index("inbox_failed_idx", table_name="inbox")
