"""Row-level security: the functions; policies and rights follow all migrations (`store.roles`)"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = (
    "api_key",
    "audit",
    "call_meter",
    "chore",
    "copper_credential",
    "crm_record",
    "crm_record_email",
    "crm_relation",
    "dirty",
    "inbox",
    "invoice",
    "leftover",
    "named_admin",
    "oauth_state",
    "record_invoice",
    "run_seen",
    "sync_run",
    "web_session",
    "xero_contact",
    "xero_contact_email",
    "xero_grant",
    "xero_organisation",
)

PAGE = """
    SELECT a.synced_at, a.shown, a.id, rows.*
    FROM account a LEFT JOIN LATERAL (
        SELECT r.created_at, r.invoice_id, r.type, r.status, r.number, r.issuer, r.issue_date, r.due_date,
               r.total, r.balance, r.currency, r.created_source, r.short_code
        FROM record_invoice r
        WHERE r.account_id = a.id AND r.record_type = of_type AND r.record_id = of_record
          AND a.record_types @> ARRAY[of_type::record_type]
          AND (a.show_bills OR r.type <> 'ACCPAY')
          AND (r.created_at, r.invoice_id) {beyond} (after_at, after_invoice)
        ORDER BY r.created_at {way}, r.invoice_id {way}
        LIMIT coalesce(most, a.shown) + 1
    ) rows ON true
    WHERE a.id = mine
    ORDER BY rows.created_at {way}, rows.invoice_id {way}
"""
# One call for one page: whose key it is, then, bound to that account by statement and by policy, its rows.
READ = f"""
    CREATE FUNCTION invoices_by_key(hash bytea, of_type text, of_record bigint, most int, after_at timestamptz,
                                    after_invoice uuid, newest_first boolean)
    RETURNS TABLE (synced_at timestamptz, shown smallint, account_id bigint, created_at timestamptz,
                   invoice_id uuid, type text, status text, number text, issuer text, issue_date date,
                   due_date date, total numeric, balance numeric, currency text, created_source text,
                   short_code text)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = public, pg_temp AS $$
    #variable_conflict use_column
    DECLARE mine bigint := account_of_key(hash);
    BEGIN
        PERFORM set_config('patina.account', mine::text, true);
        IF newest_first THEN
            RETURN QUERY {PAGE.format(beyond="<", way="DESC")};
        ELSE
            RETURN QUERY {PAGE.format(beyond=">", way="ASC")};
        END IF;
    END $$
"""


def upgrade() -> None:
    # An enum's comparison is not leakproof, so behind a policy it could not use the index.
    op.execute("ALTER TABLE record_invoice ALTER COLUMN record_type TYPE text USING record_type::text")
    op.execute("""
        CREATE FUNCTION account_of_key(hash bytea) RETURNS bigint
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
            SELECT account_id FROM api_key
            WHERE key_hash = hash AND revoked_at IS NULL AND scopes && '{read,admin}'
        $$
    """)
    op.execute(READ)


def downgrade() -> None:
    op.execute("DROP FUNCTION invoices_by_key(bytea, text, bigint, int, timestamptz, uuid, boolean)")
    op.execute("DROP FUNCTION account_of_key(bytea)")
    for table in ("account", *TABLES):
        op.execute(f"DROP POLICY IF EXISTS own_account ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE record_invoice ALTER COLUMN record_type TYPE record_type USING record_type::record_type")
