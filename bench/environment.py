"""The environment of the measurements: a database of its own, an account with millions of rows, and processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import psycopg
from sqlalchemy import text

from runtime.settings import override_settings
from sandbox import server as sandbox_server
from store.db.crypto import digest, encrypt
from store.db.database import dispose_engine, transaction
from tests.chaos import free_port
from tests.support import databases
from tests.support.serving import responds, wait_until

ROOT = Path(__file__).resolve().parent.parent
KEY = "pat_bench_key_of_this_run_alone"
TENANT = UUID("b6fd0b1a-9c5e-4b61-b1a5-2a7b3f1c0d11")
ROWS_PER_RECORD = 25
BATCH = 500_000

INSERT_ROWS = text("""
    INSERT INTO record_invoice (account_id, record_type, record_id, created_at, invoice_id, organisation_id, type,
        status, number, issuer, issue_date, due_date, total, balance, currency, created_source, short_code,
        reference, amount_paid, amount_credited, is_sent)
    SELECT 1, CASE WHEN n % 2 = 0 THEN 'person' ELSE 'company' END, n / :each,
           timestamptz '2024-01-01' + n * interval '7 seconds', md5('invoice' || n)::uuid, 1, 'ACCREC',
           CASE WHEN n % 3 = 0 THEN 'PAID' ELSE 'AUTHORISED' END, 'INV-' || n, 'Bench Company (NZ)', date '2024-01-01',
           date '2024-02-01', 115.00 + n % 1000, CASE WHEN n % 3 = 0 THEN 0 ELSE 115.00 + n % 1000 END, 'NZD',
           'webhook', '!BENCH', 'PO ' || n, CASE WHEN n % 3 = 0 THEN 115.00 + n % 1000 ELSE 0 END, 0, true
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
""")
# Contacts, people and companies: person n has address n and works at company n / 10.
INSERT_MIRROR = (
    """INSERT INTO xero_contact (account_id, organisation_id, contact_id, name, status, updated_at, fetched_at,
           changed_at)
       SELECT 1, 1, md5('contact' || n)::uuid, 'Contact ' || n, 'ACTIVE', 'epoch', 'epoch', 'epoch'
       FROM generate_series(1, :contacts) AS n""",
    """INSERT INTO xero_contact_email (account_id, organisation_id, contact_id, email)
       SELECT 1, 1, md5('contact' || n)::uuid, 'p' || n || '@acme.test' FROM generate_series(1, :contacts) AS n""",
    """INSERT INTO copper_record (account_id, record_type, record_id, name, updated_at, fetched_at, changed_at)
       SELECT 1, kind, n, kind || ' ' || n, 'epoch', 'epoch', 'epoch'
       FROM generate_series(1, :contacts) AS n, unnest(ARRAY['person', 'company']) AS kind
       WHERE kind = 'person' OR n <= :contacts / 10""",
    """INSERT INTO copper_record_email (account_id, record_type, record_id, email)
       SELECT 1, 'person', n, 'p' || n || '@acme.test' FROM generate_series(1, :contacts) AS n""",
    """INSERT INTO copper_relation (account_id, record_type, record_id, related_type, related_id, origin)
       SELECT 1, 'person', n, 'company', greatest(n / 10, 1), 'field' FROM generate_series(1, :contacts) AS n""",
    """INSERT INTO xero_invoice (account_id, organisation_id, invoice_id, contact_id, type, status, number, issue_date,
           due_date, total, balance, currency, created_at, created_source, updated_at, fetched_at, changed_at)
       SELECT 1, 1, md5('invoice' || n)::uuid, md5('contact' || 1 + n % :contacts)::uuid, 'ACCREC', 'AUTHORISED',
           'INV-' || n, '2024-01-01', '2024-02-01', 115, 115, 'NZD',
           timestamptz '2024-01-01' + n * interval '7 seconds', 'webhook', 'epoch', 'epoch', 'epoch'
       FROM generate_series(1, :invoices) AS n""",
)


@contextmanager
def empty_database() -> Iterator[str]:
    """A new, migrated database; yields its name."""
    with databases.temporary() as name:
        databases.clear_budgets()
        databases.clear_budgets("dedup")
        yield name


@contextmanager
def populated_database() -> Iterator[str]:
    """A new database with an account, an organisation and an API key; yields its name."""
    with empty_database() as name:
        with transaction() as session:
            session.execute(
                text(
                    "INSERT INTO account (id, copper_account_id, name, time_zones)"
                    """ VALUES (1, 1, 'Bench', '{"1": "Pacific/Auckland"}')"""
                )
            )
            session.execute(
                text(
                    "INSERT INTO api_key (account_id, key_hash, prefix, name) VALUES (1, :hash, 'pat_bench', 'bench')"
                ),
                {"hash": digest(KEY)},
            )
            session.execute(
                text(
                    "INSERT INTO xero_grant (account_id, id, encrypted_payload, expires_at)"
                    " VALUES (1, 1, :encrypted_payload, now())"
                ),
                {"encrypted_payload": encrypt({"refresh_token": "none"})},
            )
            session.execute(
                text(
                    "INSERT INTO xero_organisation (account_id, id, grant_id, tenant_id, connection_id, name,"
                    " short_code, time_zone) VALUES (1, 1, 1, :tenant, :tenant, 'Bench Company (NZ)', '!BENCH',"
                    " 'Pacific/Auckland')"
                ),
                {"tenant": TENANT},
            )
        yield name


def execute(statement: str, **params: int) -> None:
    """Execute one statement in its own transaction."""
    with transaction() as session:
        session.execute(text(statement), params)


def vacuum(*tables: str) -> None:
    """Vacuum and analyse."""
    from store.db.database import conninfo

    with psycopg.connect(conninfo(), autocommit=True) as connection:
        for table in tables:
            connection.execute(psycopg.sql.SQL("VACUUM (ANALYZE) {}").format(psycopg.sql.Identifier(table)))


def fill_rows(count: int, *, existing: int = 0) -> None:
    """Fill the read model up to `count` rows, 25 per record."""
    for first in range(existing, count, BATCH):
        with transaction() as session:
            params = {"first": first, "last": min(first + BATCH, count) - 1, "each": ROWS_PER_RECORD * 2}
            session.execute(INSERT_ROWS, params)
    vacuum("record_invoice")


def fill_mirror(contacts: int, invoices: int) -> None:
    """Fill the mirror with contacts, people with the same addresses, their companies, and invoices."""
    for statement in INSERT_MIRROR:
        execute(statement, contacts=contacts, invoices=invoices)
    vacuum(
        "xero_contact", "xero_contact_email", "copper_record", "copper_record_email", "copper_relation", "xero_invoice"
    )


@contextmanager
def start_process(
    *arguments: str, ready_url: str = "", variables: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m` with these arguments until the block ends; `ready_url` responds once the process is ready."""
    process_environment = {"LOG_LEVEL": "error", **os.environ, **(variables or {})}
    command = " ".join(arguments)
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=process_environment, stdout=subprocess.DEVNULL
    )
    try:
        if ready_url:
            wait_until(
                lambda: process.poll() is not None or responds(ready_url), seconds=60, description=f"start of {command}"
            )
        if process.poll() is not None:
            raise SystemExit(f"{command} did not start")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def start_web(*arguments: str) -> Iterator[str]:
    """Run a web process, by default the one with the baseline endpoints; yields its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with start_process(
        *(arguments or ("bench.server", str(port))),
        ready_url=f"{url}/healthz",
        variables={"PORT": str(port), "PUBLIC_URL": url},
    ):
        yield url


def apply_settings() -> None:
    """Apply the settings of all measurements, with limits that are too high to have an effect.

    Processes that are measured use compiled code, as after any first start.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    override_settings(
        {
            **sandbox_server.environment("http://127.0.0.1:1"),
            "PUBLIC_URL": "http://127.0.0.1:1",
            "REDIS_URL": databases.redis_url(),
            "REDIS_NAMESPACE": f"bench-{os.getpid()}",
            "API_REQUESTS_PER_MINUTE": "10000000",
            "XERO_CALLS_PER_MINUTE": "1000",
            "XERO_MAX_CONCURRENT_CALLS": "100",
            "XERO_CALLS_PER_DAY": "1000000",
            "XERO_APP_CALLS_PER_MINUTE": "100000",
            "COPPER_CALLS_PER_MINUTE": "10000",
            "COPPER_WEBHOOK_RECORDS_PER_MINUTE": "1000000",
            "COPPER_WEBHOOK_RECORDS_PER_DAY": "100000000",
            "RATE_LIMIT_WINDOW_SECONDS": "1",
            "LOG_LEVEL": "error",
        }
    )
    dispose_engine()
