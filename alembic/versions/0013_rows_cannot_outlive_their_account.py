"""Rows cannot outlive their account: foreign keys, and a mark for accounts that are being erased.

Tables that also keep rows of no account (0), or that are rewritten as a whole, have no foreign key: whoever writes to
them holds the account's row. And names that outlived their record or contact go.
"""

import sqlalchemy as sa

from alembic import op

revision = "0013"
down_revision = "0016"
branch_labels = None
depends_on = None

REFERRING = (
    "api_key",
    "call_meter",
    "contact_link",
    "copper_credential",
    "crm_record",
    "crm_record_email",
    "crm_relation",
    "dirty",
    "freshness",
    "invoice",
    "named_admin",
    "refused_endpoint",
    "run_seen",
    "sync_run",
    "unreadable_field",
    "web_session",
    "xero_contact",
    "xero_contact_email",
    "xero_grant",
    "xero_organisation",
)
OTHERS = (
    *("audit", "chore", "dropped_events", "inbox", "notification_window", "oauth_state", "record_balance"),
    "record_invoice",
)
DELETE_ORPHANS = """
    DELETE FROM {table} t
    WHERE account_id <> 0 AND NOT EXISTS (SELECT FROM account a WHERE a.id = t.account_id)
"""
# Records that are gone have no name either. What shows one (a bill's issuer) is projected anew.
FORGET_GONE_CONTACTS = """
    WITH forgotten AS (
        UPDATE xero_contact SET name = '' WHERE gone AND name <> ''
        RETURNING account_id, organisation_id, contact_id)
    INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
    SELECT account_id, 'contact', organisation_id, contact_id FROM forgotten
"""
# The audit log keeps whom an entry is about by type and id.
FORGET_LINKED_NAMES = r"""
    UPDATE audit SET detail = substring(detail FROM '\(((lead|person|company) \d+)\)$')
    WHERE action IN ('contact.linked', 'contact.unlinked') AND detail ~ '\((lead|person|company) \d+\)$'
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.add_column("account", sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True))
    for table in REFERRING:
        # From here on nobody adds an orphan, so that those of before can be deleted and the rest be checked. Code
        # that is older deletes an account before its rows: they go with it.
        op.execute(f"""
            ALTER TABLE {table} ADD CONSTRAINT {table}_account_id_fkey
            FOREIGN KEY (account_id) REFERENCES account (id) ON DELETE CASCADE NOT VALID
        """)
    for table in (*REFERRING, *OTHERS):
        op.execute(DELETE_ORPHANS.format(table=table))
    for table in REFERRING:
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {table}_account_id_fkey")
    op.execute(FORGET_GONE_CONTACTS)
    op.execute(FORGET_LINKED_NAMES)


def downgrade() -> None:
    # Code that is older knows no closed accounts. What was left to be erased still is, by `leftover`.
    op.execute("DELETE FROM account WHERE closed_at IS NOT NULL")
    for table in REFERRING:
        op.drop_constraint(op.f(f"{table}_account_id_fkey"), table, type_="foreignkey")
    op.drop_column("account", "closed_at")
