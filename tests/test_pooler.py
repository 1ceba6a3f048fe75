"""Patina through the real PgBouncer in transaction mode, its few server connections shared by everybody."""

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
from runtime.settings import override
from store.database import Role, bound, let_go, migrate, transaction
from tests import databases
from tests.chaos import free_port
from tests.processes import Processes, end, patina
from tests.serving import wait_until
from tests.world import Sandbox, World
from worker import connect

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="needs PgBouncer (Debian: pgbouncer)")


@pytest.fixture
def pooler(database: str, tmp_path: Path) -> Iterator[str]:
    """PgBouncer before this test's database, three server connections in all; the address is in the settings."""
    server = urlsplit(databases.address(database))
    port, here = free_port(), tmp_path / "pgbouncer.ini"
    # The kernel vouches for whoever runs the tests, not for the pooler: its role has a password, and acts as the owner.
    role = f"pooler_{os.getpid()}"
    databases.run_as_superuser(f"CREATE ROLE {role} LOGIN PASSWORD '{role}' IN ROLE {APPLICATION_ROLE}")
    databases.run_as_superuser(f"ALTER ROLE {role} SET role = {APPLICATION_ROLE}")
    here.write_text(f"""
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
logfile = {tmp_path / "pgbouncer.log"}
""")
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)
    (tmp_path / "pgbouncer.log").touch(0o666)
    (tmp_path / "pgbouncer.log").chmod(0o666)
    words = Postgres(databases.HOME / "postgres").as_user([str(PGBOUNCER), str(here)])
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"postgresql://{role}@127.0.0.1:{port}/{database}"

    def answers() -> bool:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    wait_until(answers, what="PgBouncer")
    let_go()
    override({"DATABASE_URL": url, "DATABASE_POOLER": "true"})
    yield url
    let_go()
    end([process])
    # What migrations through it were granted, the right to connect among it, keeps a role from being dropped.
    databases.run_as_superuser(f"DROP OWNED BY {role}")
    databases.run_as_superuser(f"DROP ROLE {role}")


def test_migrations_run_through_it(pooler: str) -> None:
    migrate("base")
    migrate()
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM account")).scalar_one() == 0


def test_a_binding_ends_with_its_transaction(pooler: str) -> None:
    for _ in range(8):
        with bound(7) as session:
            told = session.execute(text("SELECT current_user, current_setting('patina.account')")).one()
            assert tuple(told) == (databases.role(Role.PAGES), "7")
        with transaction() as session:
            shown = "SELECT current_user, current_setting('patina.account', true), current_setting('TimeZone')"
            told = session.execute(text(shown)).one()
            assert tuple(told) == (APPLICATION_ROLE, "", "UTC")


def test_events_reads_runs_and_exports_of_two_accounts_go_through_it(
    pooler: str, sandbox: Sandbox, web: httpx.Client, processes: Processes
) -> None:
    override({"METRICS_TOKEN": "a-token-of-the-scraper"})
    one = World(sandbox, web)
    one.listen()
    one.open(name="One")
    two = World(sandbox, web).open(name="Two")
    processes += [patina("worker"), patina("scheduler")]
    one.workers = two.workers = True
    ann, bob = one.person("ann@acme.test"), two.person("bob@acme.test")
    mine, theirs = one.invoice("ann@acme.test"), two.invoice("bob@acme.test")
    wait_until(lambda: one.shown("people", ann) == [mine.number] and two.shown("people", bob) == [theirs.number])
    for _ in range(20):
        assert one.shown("people", ann) == [mine.number]
        assert two.shown("people", bob) == [theirs.number]
        assert one.read("people", bob).json()["invoices"] == []
    one.sandbox.act("pay_invoice", invoice=mine.id)
    wait_until(lambda: one.rows("people", ann)[0]["status"] == "PAID")
    for world, number in ((one, mine.number), (two, theirs.number)):
        told = web.get(
            "/v1/invoices.jsonl",
            headers={"Authorization": f"Bearer {connect.make_key(world.account, 'all', ['admin'])}"},
        )
        assert told.status_code == 200
        assert [number in line for line in told.text.splitlines()] == [True]
        world.reconcile()
        world.check()
    assert (
        "patina_inbox_waiting" in web.get("/metrics", headers={"Authorization": "Bearer a-token-of-the-scraper"}).text
    )
