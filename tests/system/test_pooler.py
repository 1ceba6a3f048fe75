"""Patina through a real PgBouncer in transaction mode, with few shared server connections."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
import pytest
from sqlalchemy import text

from runtime.servers import APPLICATION_ROLE, Postgres
from runtime.settings import override_settings
from services import access
from store.db.database import Role, account_transaction, dispose_engine, transaction
from store.db.migrations import migrate
from tests.chaos import free_port
from tests.support import databases
from tests.support.processes import Processes, patina, terminate
from tests.support.serving import wait_until
from tests.support.world import Sandbox, World

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="needs PgBouncer (Debian: pgbouncer)")


@pytest.fixture
def pooler(database: str, open_folder: Path) -> Iterator[str]:
    """PgBouncer in front of this test's database, with three server connections; its URL is in the settings."""
    server = urlsplit(databases.database_url(database))
    port, config = free_port(), open_folder / "pgbouncer.ini"
    # Peer authentication does not work through the pooler: its role has a password, and acts as the owner.
    role = f"pooler_{os.getpid()}"
    databases.execute_as_superuser(f"CREATE ROLE {role} LOGIN PASSWORD '{role}' IN ROLE {APPLICATION_ROLE}")
    databases.execute_as_superuser(f"ALTER ROLE {role} SET role = {APPLICATION_ROLE}")
    config.write_text(f"""
[databases]
* = host={parse_qs(server.query)["host"][0]} user={role} password={role}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
logfile = {open_folder / "pgbouncer.log"}
""")
    (open_folder / "pgbouncer.log").touch(0o666)
    (open_folder / "pgbouncer.log").chmod(0o666)
    command = Postgres(databases.HOME / "postgres").as_user([str(PGBOUNCER), str(config)])
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"postgresql://{role}@127.0.0.1:{port}/{database}"

    def is_up() -> bool:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    wait_until(is_up, description="PgBouncer")
    databases.use_url(url, DATABASE_POOLER="true")
    yield url
    dispose_engine()
    terminate([process])
    # Privileges granted by migrations, such as CONNECT, prevent a role from being dropped.
    databases.execute_as_superuser(f"DROP OWNED BY {role}")
    databases.execute_as_superuser(f"DROP ROLE {role}")


def test_migrations_run_through_the_pooler(pooler: str) -> None:
    migrate("base")
    migrate()
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM account")).scalar_one() == 0


def test_the_bound_account_ends_with_its_transaction(pooler: str) -> None:
    for _ in range(8):
        with account_transaction(7) as session:
            row = session.execute(text("SELECT current_user, current_setting('patina.account')")).one()
            assert tuple(row) == (databases.role_name(Role.PAGES), "7")
        with transaction() as session:
            statement = "SELECT current_user, current_setting('patina.account', true), current_setting('TimeZone')"
            row = session.execute(text(statement)).one()
            assert tuple(row) == (APPLICATION_ROLE, "", "UTC")


def test_events_reads_runs_and_exports_of_two_accounts_work_through_the_pooler(
    pooler: str, sandbox: Sandbox, web: httpx.Client, processes: Processes
) -> None:
    override_settings({"METRICS_TOKEN": "a-token-of-the-scraper"})
    first = World(sandbox, web)
    first.enable_xero_webhook()
    first.open(name="One")
    two = World(sandbox, web).open(name="Two")
    processes += [patina("worker"), patina("scheduler")]
    first.workers = two.workers = True
    ann, bob = first.person("ann@acme.test"), two.person("bob@acme.test")
    first_invoice, second_invoice = first.invoice("ann@acme.test"), two.invoice("bob@acme.test")
    wait_until(
        lambda: (
            first.invoice_numbers("people", ann) == [first_invoice.number]
            and two.invoice_numbers("people", bob) == [second_invoice.number]
        )
    )
    for _ in range(20):
        assert first.invoice_numbers("people", ann) == [first_invoice.number]
        assert two.invoice_numbers("people", bob) == [second_invoice.number]
        assert first.read("people", bob).json()["invoices"] == []
    first.sandbox.simulate("pay_invoice", invoice=first_invoice.id)
    wait_until(lambda: first.rows("people", ann)[0]["status"] == "PAID")
    for world, number in ((first, first_invoice.number), (two, second_invoice.number)):
        response = web.get(
            "/v1/invoices.jsonl",
            headers={"Authorization": f"Bearer {access.create_key(world.account, 'all', ['admin'])}"},
        )
        assert response.status_code == 200
        assert [number in line for line in response.text.splitlines()] == [True]
        world.reconcile()
        world.check()
    assert (
        "patina_inbox_pending_events"
        in web.get("/metrics", headers={"Authorization": "Bearer a-token-of-the-scraper"}).text
    )
