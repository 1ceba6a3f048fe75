"""What measurements happen on: a fresh database on a real server, an account with rows by the million, processes."""

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

from runtime.settings import override
from sandbox import server as sandbox_server
from store.database import let_go, transaction
from store.secrets import digest, seal
from tests import databases
from tests.chaos import free_port
from tests.serving import answers, wait_until

ROOT = Path(__file__).resolve().parent.parent
KEY = "pat_bench_key_of_this_run_alone"
TENANT = UUID("b6fd0b1a-9c5e-4b61-b1a5-2a7b3f1c0d11")
ROWS_A_RECORD = 25
BATCH = 500_000

ROWS = text("""
    INSERT INTO record_invoice (account_id, record_type, record_id, created_at, invoice_id, organisation_id, type,
        status, number, issuer, issue_date, due_date, total, balance, currency, created_source, short_code)
    SELECT 1, CASE WHEN n % 2 = 0 THEN 'person' ELSE 'company' END, n / :each,
           timestamptz '2024-01-01' + n * interval '7 seconds', md5('invoice' || n)::uuid, 1, 'ACCREC',
           CASE WHEN n % 3 = 0 THEN 'PAID' ELSE 'AUTHORISED' END, 'INV-' || n, 'Bench Company (NZ)', date '2024-01-01',
           date '2024-02-01', 115.00 + n % 1000, CASE WHEN n % 3 = 0 THEN 0 ELSE 115.00 + n % 1000 END, 'NZD',
           'webhook', '!BENCH'
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
""")
# A mirror of contacts, people and companies: person n has address n and works at company n / 10.
MIRROR = (
    """INSERT INTO xero_contact (account_id, organisation_id, contact_id, name, status, updated_at, fetched_at,
           changed_at)
       SELECT 1, 1, md5('contact' || n)::uuid, 'Contact ' || n, 'ACTIVE', 'epoch', 'epoch', 'epoch'
       FROM generate_series(1, :contacts) AS n""",
    """INSERT INTO xero_contact_email (account_id, organisation_id, contact_id, email)
       SELECT 1, 1, md5('contact' || n)::uuid, 'p' || n || '@acme.test' FROM generate_series(1, :contacts) AS n""",
    """INSERT INTO crm_record (account_id, record_type, record_id, name, updated_at, fetched_at, changed_at)
       SELECT 1, kind, n, kind || ' ' || n, 'epoch', 'epoch', 'epoch'
       FROM generate_series(1, :contacts) AS n, unnest(ARRAY['person', 'company']) AS kind
       WHERE kind = 'person' OR n <= :contacts / 10""",
    """INSERT INTO crm_record_email (account_id, record_type, record_id, email)
       SELECT 1, 'person', n, 'p' || n || '@acme.test' FROM generate_series(1, :contacts) AS n""",
    """INSERT INTO crm_relation (account_id, record_type, record_id, related_type, related_id, source)
       SELECT 1, 'person', n, 'company', greatest(n / 10, 1), 'field' FROM generate_series(1, :contacts) AS n""",
    """INSERT INTO invoice (account_id, organisation_id, invoice_id, contact_id, type, status, number, issue_date,
           due_date, total, balance, currency, created_at, created_source, updated_at, fetched_at, changed_at)
       SELECT 1, 1, md5('invoice' || n)::uuid, md5('contact' || 1 + n % :contacts)::uuid, 'ACCREC', 'AUTHORISED',
           'INV-' || n, '2024-01-01', '2024-02-01', 115, 115, 'NZD',
           timestamptz '2024-01-01' + n * interval '7 seconds', 'webhook', 'epoch', 'epoch', 'epoch'
       FROM generate_series(1, :invoices) AS n""",
)


@contextmanager
def empty() -> Iterator[str]:
    """A migrated database of its own with nothing in it; its name."""
    with databases.fresh() as name:
        databases.forget_budgets()
        databases.forget_budgets("wake")
        yield name


@contextmanager
def database() -> Iterator[str]:
    """The same with an account, an organisation and a key in it."""
    with empty() as name:
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
                text("INSERT INTO xero_grant (account_id, id, sealed, expires_at) VALUES (1, 1, :sealed, now())"),
                {"sealed": seal({"refresh_token": "none"})},
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


def run(statement: str, **chosen: int) -> None:
    """Run one statement in a transaction of its own."""
    with transaction() as session:
        session.execute(text(statement), chosen)


def vacuum(*tables: str) -> None:
    """Vacuum and analyse."""
    from store.database import conninfo

    with psycopg.connect(conninfo(), autocommit=True) as connection:
        for table in tables:
            connection.execute(psycopg.sql.SQL("VACUUM (ANALYZE) {}").format(psycopg.sql.Identifier(table)))


def fill_rows(wanted: int, *, there: int = 0) -> None:
    """Have the read model hold `wanted` rows, 25 a record."""
    for first in range(there, wanted, BATCH):
        with transaction() as session:
            chosen = {"first": first, "last": min(first + BATCH, wanted) - 1, "each": ROWS_A_RECORD * 2}
            session.execute(ROWS, chosen)
    vacuum("record_invoice")


def fill_mirror(contacts: int, invoices: int) -> None:
    """Have the mirror hold contacts with an address, the people who carry it, their companies, and invoices."""
    for statement in MIRROR:
        run(statement, contacts=contacts, invoices=invoices)
    vacuum("xero_contact", "xero_contact_email", "crm_record", "crm_record_email", "crm_relation", "invoice")


@contextmanager
def process(
    *words: str, ready: str = "", environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of this project, until the block ends; `ready` is an address that answers when it is."""
    quiet = {"LOG_LEVEL": "error", **os.environ, **(environment or {})}
    started = subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, env=quiet, stdout=subprocess.DEVNULL)
    try:
        if ready:
            wait_until(lambda: started.poll() is not None or answers(ready), seconds=60, what=" ".join(words))
        if started.poll() is not None:
            raise SystemExit(f"{' '.join(words)} did not start")
        yield started
    finally:
        started.terminate()
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            started.kill()


@contextmanager
def web(*words: str) -> Iterator[str]:
    """The web process; its address. Without words of its own, the one with the yardsticks in it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with process(
        *(words or ("bench.server", str(port))),
        ready=f"{url}/healthz",
        environment={"PORT": str(port), "PUBLIC_URL": url},
    ):
        yield url


def settle_settings() -> None:
    """The settings of all measurements: no limit of ours may be what is measured."""
    override(
        {
            **sandbox_server.environment("http://127.0.0.1:1"),
            "PUBLIC_URL": "http://127.0.0.1:1",
            "REDIS_URL": databases.redis_address(),
            "REDIS_NAMESPACE": f"bench-{os.getpid()}",
            "API_MINUTE_LIMIT": "10000000",
            "XERO_MINUTE_LIMIT": "1000",
            "XERO_CONCURRENT_LIMIT": "100",
            "XERO_DAY_LIMIT": "1000000",
            "XERO_APP_MINUTE_LIMIT": "100000",
            "COPPER_MINUTE_LIMIT": "10000",
            "COPPER_NOTIFICATIONS_MINUTE_LIMIT": "1000000",
            "COPPER_NOTIFICATIONS_DAY_LIMIT": "100000000",
            "LIMIT_WINDOW_SECONDS": "1",
            "LOG_LEVEL": "error",
        }
    )
    let_go()
