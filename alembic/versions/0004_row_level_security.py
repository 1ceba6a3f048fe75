"""Row-level security: the second wall behind statements that are bound to their account anyway"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ROLE = "patina_bound"
ACCOUNT = "NULLIF(current_setting('patina.account', true), '')::bigint"
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
    op.execute(f"""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
                CREATE ROLE {ROLE} NOLOGIN;
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION 'this user may not create roles: have somebody who may run'
                    ' CREATE ROLE {ROLE} NOLOGIN; GRANT {ROLE} TO %;', current_user;
        END $$
    """)
    # Whoever made a role may grant it to others, and need not be able to take it up (PostgreSQL 16 and later).
    op.execute(f"""
        DO $$ BEGIN
            SET LOCAL ROLE {ROLE};
            RESET ROLE;
        EXCEPTION WHEN insufficient_privilege THEN
            EXECUTE format('GRANT {ROLE} TO %I', current_user);
        END $$
    """)
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON account, {', '.join(TABLES)} TO {ROLE}")
    op.execute("ALTER TABLE account ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_account ON account TO {ROLE} USING (id = {ACCOUNT})")
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_account ON {table} TO {ROLE} USING (account_id = {ACCOUNT})")
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
        op.execute(f"DROP POLICY own_account ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        op.execute(f"REVOKE ALL ON {table} FROM {ROLE}")
    op.execute("ALTER TABLE record_invoice ALTER COLUMN record_type TYPE record_type USING record_type::record_type")
