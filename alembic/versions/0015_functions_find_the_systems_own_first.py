"""Functions look for the system's own names before the schema's, wherever somebody else may have put one"""

from alembic import op

revision = "0015"
down_revision = "0012"
branch_labels = None
depends_on = None

FUNCTIONS = ("account_of_key(bytea)", "invoices_by_key(bytea, text, bigint, int, timestamptz, uuid, boolean)")


def upgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"ALTER FUNCTION {function} SET search_path = pg_catalog, public, pg_temp")


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"ALTER FUNCTION {function} SET search_path = public, pg_temp")
