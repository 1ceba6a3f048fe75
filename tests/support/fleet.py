"""Many connected accounts with the same number of records each, loaded by a few statements.

Account n has organisation n and grant n. Of its records four in five are people, the others companies; person m has an
address, works at a company, and has one invoice if m is at most half the number of records.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from psycopg import sql

from store.db.crypto import encrypt
from tests.support import databases

GRANT_SECONDS = 30 * 86_400
TENANT = "md5('tenant' || n)::uuid"
ACCOUNTS = (
    """INSERT INTO account (id, copper_account_id, name, synced_at, time_zones, organisation_names, setup_step)
       SELECT n, n, 'Account ' || n, now(), jsonb_build_object(n::text, 'Pacific/Auckland'),
              jsonb_build_object(n::text, 'Organisation ' || n), 'done'
       FROM generate_series(1, %(accounts)s) AS n""",
    """INSERT INTO xero_grant (account_id, id, encrypted_payload, expires_at)
       SELECT n, n, %(grant)s, now() + interval '30 days' FROM generate_series(1, %(accounts)s) AS n""",
    f"""INSERT INTO xero_organisation (account_id, id, grant_id, tenant_id, connection_id, name, short_code,
           base_currency, xero_time_zone, time_zone, balances_as_of, contacts_synced_through, invoices_synced_through,
           credit_notes_synced_through)
        SELECT n, n, n, {TENANT}, {TENANT}, 'Organisation ' || n, '!O' || n, 'NZD', 'NEWZEALANDSTANDARDTIME',
               'Pacific/Auckland', local_date('Pacific/Auckland', now()), now(), now(), now()
        FROM generate_series(1, %(accounts)s) AS n""",
    """INSERT INTO copper_credential (account_id, encrypted_payload, webhook_token_hash, records_synced_through)
       SELECT n, %(credentials)s, sha256(('webhook' || n)::bytea), now() FROM generate_series(1, %(accounts)s) AS n""",
    """INSERT INTO copper_user (account_id, user_id, name, fetched_at)
       SELECT n, 1, 'Sam', now() + interval '1 day' FROM generate_series(1, %(accounts)s) AS n""",
    """INSERT INTO api_key (account_id, key_hash, prefix, name)
       SELECT n, sha256(('key' || n)::bytea), 'pat_fleet', 'fleet' FROM generate_series(1, %(accounts)s) AS n""",
    """INSERT INTO scheduled_task (account_id, name, last_started_at)
       SELECT n, name, now() FROM generate_series(1, %(accounts)s) AS n,
              unnest(ARRAY['catch_up', 'reconciliation', 'relations', 'created_dates']) AS name""",
    """INSERT INTO heartbeat (process) VALUES ('web'), ('worker'), ('scheduler') ON CONFLICT DO NOTHING""",
)
SEQUENCES = ("account", "xero_grant", "xero_organisation")
# The largest first, so that two connections end at about the same time.
ROWS = (
    """INSERT INTO record_invoice (account_id, record_type, record_id, created_at, invoice_id, organisation_id, type,
           status, number, issuer, issue_date, due_date, total, balance, currency, created_source, short_code,
           amount_paid, amount_credited)
       SELECT a, type, CASE type WHEN 'person' THEN m ELSE 1 + m %% greatest(%(records)s / 5, 1) END,
              timestamptz '2026-01-01' + m * interval '7 minutes', md5(a || 'invoice' || m)::uuid, a, 'ACCREC',
              'AUTHORISED', 'INV-' || m, 'Organisation ' || a, date '2026-01-01', date '2030-02-01', 115, 115, 'NZD',
              'webhook', '!O' || a, 0, 0
       FROM generate_series(1, %(accounts)s) AS a, generate_series(1, %(records)s / 2) AS m,
            unnest(ARRAY['person', 'company']) AS type
       ORDER BY a, 3, 2""",
    """INSERT INTO copper_record (account_id, record_type, record_id, name, updated_at, fetched_at, changed_at,
           relations_fetched_at)
       SELECT a, CASE WHEN m <= %(records)s * 4 / 5 THEN 'person' ELSE 'company' END,
              CASE WHEN m <= %(records)s * 4 / 5 THEN m ELSE m - %(records)s * 4 / 5 END, 'Record ' || m,
              'epoch', now(), 'epoch', now()
       FROM generate_series(1, %(accounts)s) AS a, generate_series(1, %(records)s) AS m""",
    """INSERT INTO xero_invoice (account_id, organisation_id, invoice_id, contact_id, type, status, number, issue_date,
           due_date, total, balance, amount_paid, amount_credited, currency, created_at, created_source, updated_at,
           fetched_at, changed_at)
       SELECT a, a, md5(a || 'invoice' || m)::uuid, md5(a || 'contact' || m)::uuid, 'ACCREC', 'AUTHORISED',
              'INV-' || m, '2026-01-01', '2030-02-01', 115, 115, 0, 0, 'NZD',
              timestamptz '2026-01-01' + m * interval '7 minutes', 'webhook', 'epoch', now(), 'epoch'
       FROM generate_series(1, %(accounts)s) AS a, generate_series(1, %(records)s / 2) AS m""",
    """INSERT INTO copper_record_email (account_id, record_type, record_id, email)
       SELECT a, 'person', m, 'p' || m || '@a' || a || '.test'
       FROM generate_series(1, %(accounts)s) AS a, generate_series(1, %(records)s * 4 / 5) AS m""",
    """INSERT INTO copper_relation (account_id, record_type, record_id, related_type, related_id, origin)
       SELECT a, 'person', m, 'company', 1 + m %% greatest(%(records)s / 5, 1), 'field'
       FROM generate_series(1, %(accounts)s) AS a, generate_series(1, %(records)s * 4 / 5) AS m""",
    """INSERT INTO xero_contact_email (account_id, organisation_id, contact_id, email)
       SELECT a, a, md5(a || 'contact' || m)::uuid, 'p' || m || '@a' || a || '.test'
       FROM generate_series(1, %(accounts)s) AS a, generate_series(1, %(records)s / 2) AS m""",
    """INSERT INTO xero_contact (account_id, organisation_id, contact_id, name, status, updated_at, fetched_at,
           changed_at)
       SELECT a, a, md5(a || 'contact' || m)::uuid, 'Contact ' || m, 'ACTIVE', 'epoch', now(), 'epoch'
       FROM generate_series(1, %(accounts)s) AS a, generate_series(1, %(records)s / 2) AS m""",
    """INSERT INTO record_balance (account_id, record_type, record_id, type, currency, invoices, overdue_invoices, open,
           overdue, overdue_1_to_30, overdue_31_to_60, overdue_61_to_90, overdue_over_90)
       SELECT account_id, record_type, record_id, 'ACCREC', 'NZD', count(*), 0, sum(balance), 0, 0, 0, 0, 0
       FROM (SELECT a AS account_id, type AS record_type,
                    CASE type WHEN 'person' THEN m ELSE 1 + m %% greatest(%(records)s / 5, 1) END AS record_id,
                    115 AS balance
             FROM generate_series(1, %(accounts)s) AS a, generate_series(1, %(records)s / 2) AS m,
                  unnest(ARRAY['person', 'company']) AS type) rows
       GROUP BY 1, 2, 3""",
    """INSERT INTO api_usage (account_id, organisation_id, day, priority, calls, bytes_compressed, bytes_uncompressed,
           last_call_at)
       SELECT a, source * a, CAST(now() AS date) - day, priority, 96, 20000, 40000, now() - interval '1 hour'
       FROM generate_series(1, %(accounts)s) AS a, generate_series(0, %(days)s) AS day, generate_series(0, 1) AS source,
            unnest(ARRAY['catch_up', 'events']) AS priority""",
    """INSERT INTO sync_run (account_id, organisation_id, kind, state, stage, drift, started_at, finished_at)
       SELECT a, source * a, CASE run WHEN 1 THEN 'reconciliation' ELSE 'catch_up' END, 'done', 'project',
              CASE run WHEN 1 THEN '{"people": {"missing": 0, "stale": 0, "extra": 0}}'::jsonb END,
              now() - run * interval '10 minutes', now() - run * interval '10 minutes'
       FROM generate_series(1, %(accounts)s) AS a, generate_series(0, 1) AS source,
            generate_series(1, %(runs)s) AS run""",
    """INSERT INTO inbox (account_id, vendor, organisation_id, tenant, category, event_type, resource_id, dedupe_key,
           correlation_id, state, received_at, finished_at)
       SELECT a, 'xero', a, '', 'INVOICE', 'UPDATE', md5(a || 'invoice' || m), sha256((a || 'event' || m)::bytea),
              'c', 'done', now() - interval '1 day', now() - interval '1 day'
       FROM generate_series(1, %(accounts)s) AS a, generate_series(1, %(events)s) AS m""",
)


@dataclass(frozen=True)
class FleetSize:
    """How many accounts, and how many records, finished events, runs a source and days of usage each has."""

    accounts: int
    records: int = 4
    events: int = 2
    runs: int = 2
    days: int = 1


def webhook_tenant(account: int) -> str:
    """The SQL expression's tenant id of an account's organisation, as text."""
    with databases.connect_as_superuser(databases.current_name()) as connection:
        row = connection.execute(f"SELECT {TENANT} FROM (SELECT %s::bigint AS n) a", (account,)).fetchone()
    assert row is not None
    return str(row[0])


def load(size: FleetSize) -> None:
    """Fill the empty database of this process. Foreign keys are not checked."""
    params = {
        **vars(size),
        "grant": encrypt({"access_token": "none", "refresh_token": "none", "expires_at": time.time() + GRANT_SECONDS}),
        "credentials": encrypt(
            {"api_key": "none", "email": "sam@fleet.test", "webhook_token": "none", "webhook_secret": "none"}
        ),
    }

    def execute(statement: str) -> None:
        with databases.connect_as_superuser(name) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(statement, params)

    name = databases.current_name()
    for statement in ACCOUNTS:
        execute(statement)
    with databases.connect_as_superuser(name) as connection:
        for table in SEQUENCES:
            set_sequence = "SELECT setval(pg_get_serial_sequence({}, 'id'), {})"
            connection.execute(sql.SQL(set_sequence).format(sql.Literal(table), sql.Literal(size.accounts)))
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(execute, ROWS))
    with databases.connect_as_superuser(name) as connection:
        connection.execute("VACUUM (ANALYZE)")
