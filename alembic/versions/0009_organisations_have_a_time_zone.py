"""Organisations have a time zone: today, overdue and the day of balances go by it"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None

PAGE = """
    SELECT a.synced_at, a.shown, a.id, rows.created_at, rows.invoice_id, rows.type, rows.status, rows.number,
           rows.issuer, rows.issue_date, rows.due_date, rows.total, rows.balance, rows.currency, rows.created_source,
           rows.short_code{overdue_days}
    FROM account a LEFT JOIN LATERAL (
        SELECT r.created_at, r.invoice_id, r.type, r.status, r.number, r.issuer, r.issue_date, r.due_date,
               r.total, r.balance, r.currency, r.created_source, r.short_code, r.organisation_id
        FROM record_invoice r
        WHERE r.account_id = a.id AND r.record_type = of_type AND r.record_id = of_record
          AND a.record_types @> ARRAY[of_type]
          AND (a.show_bills OR r.type <> 'ACCPAY')
          AND (r.created_at, r.invoice_id) {beyond} (after_at, after_invoice)
        ORDER BY r.created_at {way}, r.invoice_id {way}
        LIMIT coalesce(most, a.shown) + 1
    ) rows ON true
    WHERE a.id = mine
    ORDER BY rows.created_at {way}, rows.invoice_id {way}
"""
OVERDUE_DAYS = """,
           overdue_days(rows.status, rows.balance, rows.due_date,
                        organisation_today(a.time_zones, rows.organisation_id, now()))"""
ARGUMENTS = "bytea, text, bigint, int, timestamptz, uuid, boolean"


def read_function(column: str, value: str) -> str:
    return f"""
        CREATE FUNCTION invoices_by_key(hash bytea, of_type text, of_record bigint, most int,
                                        after_at timestamptz, after_invoice uuid, newest_first boolean)
        RETURNS TABLE (synced_at timestamptz, shown smallint, account_id bigint, created_at timestamptz,
                       invoice_id uuid, type text, status text, number text, issuer text, issue_date date,
                       due_date date, total numeric, balance numeric, currency text, created_source text,
                       short_code text{column})
        LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = public, pg_temp AS $$
        #variable_conflict use_column
        DECLARE mine bigint := account_of_key(hash);
        BEGIN
            PERFORM set_config('patina.account', mine::text, true);
            IF newest_first THEN
                RETURN QUERY {PAGE.format(beyond="<", way="DESC", overdue_days=value)};
            ELSE
                RETURN QUERY {PAGE.format(beyond=">", way="ASC", overdue_days=value)};
            END IF;
        END $$
    """


def upgrade() -> None:
    op.add_column("xero_organisation", sa.Column("xero_time_zone", sa.Text(), nullable=True))
    op.add_column(
        "xero_organisation", sa.Column("time_zone", sa.Text(), server_default=sa.text("'UTC'"), nullable=False)
    )
    # The sums of organisations that are there already are added up again, each by its own day.
    op.add_column(
        "xero_organisation",
        sa.Column("balances_on", sa.Date(), server_default=sa.text("'2000-01-01'"), nullable=False),
    )
    op.alter_column("xero_organisation", "balances_on", server_default=sa.text("CURRENT_DATE"))
    op.add_column(
        "account",
        sa.Column("time_zones", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
    )
    # Each parameter stands once, so that PostgreSQL puts the expression in the place of the call.
    op.execute("""
        CREATE FUNCTION local_date(time_zone text, at timestamptz) RETURNS date
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN (at AT TIME ZONE time_zone)::date
    """)
    op.execute("""
        CREATE FUNCTION organisation_today(time_zones jsonb, organisation_id bigint, at timestamptz) RETURNS date
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN local_date(coalesce(time_zones ->> organisation_id::text, 'UTC'), at)
    """)
    op.execute("""
        CREATE FUNCTION overdue_days(status text, balance numeric, due_date date, today date) RETURNS int
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN CASE WHEN status = 'AUTHORISED' AND balance > 0 THEN greatest(today - due_date, 0) ELSE 0 END
    """)
    op.execute(f"DROP FUNCTION invoices_by_key({ARGUMENTS})")
    op.execute(read_function(", overdue_days int", OVERDUE_DAYS))


def downgrade() -> None:
    op.execute(f"DROP FUNCTION invoices_by_key({ARGUMENTS})")
    op.execute(read_function("", ""))
    op.execute("DROP FUNCTION overdue_days(text, numeric, date, date)")
    op.execute("DROP FUNCTION organisation_today(jsonb, bigint, timestamptz)")
    op.execute("DROP FUNCTION local_date(text, timestamptz)")
    op.drop_column("account", "time_zones")
    op.drop_column("xero_organisation", "balances_on")
    op.drop_column("xero_organisation", "time_zone")
    op.drop_column("xero_organisation", "xero_time_zone")
