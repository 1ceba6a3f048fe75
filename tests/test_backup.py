"""The restore drill of docs/deploy.md: a dump, changes after it, and everything as it should be in a new database."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sqlalchemy import text

from runtime.servers import Postgres
from store import roles
from store.database import bound, let_go, migrate, transaction
from tests import databases
from tests.world import World


def tool(name: str, *words: str) -> None:
    program = Postgres(databases.HOME / "postgres").bin / name
    subprocess.run([str(program), *words], check=True, capture_output=True, timeout=120)


def counts() -> dict[str, int]:
    """Rows of every table."""
    with transaction() as session:
        names = session.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars().all()
        return {name: session.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one() for name in names}


def test_a_dump_is_restored_and_what_changed_since_is_repaired(world: World, database: str, tmp_path: Path) -> None:
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    first, second = world.invoice("ann@acme.test"), world.invoice("ann@acme.test")
    world.settle()
    before = counts()
    tool("pg_dump", "--format=custom", f"--file={tmp_path / 'patina.dump'}", databases.address(database))

    world.sandbox.act("pay_invoice", invoice=first.id)
    third = world.invoice("ann@acme.test")
    moved = world.person("bob@acme.test")
    world.settle()
    let_go()

    databases.run("CREATE DATABASE patina_restored")
    try:
        restored = databases.address("patina_restored")
        tool("pg_restore", "--no-owner", "--no-privileges", f"--dbname={restored}", str(tmp_path / "patina.dump"))
        databases.use("patina_restored")
        migrate()
        assert counts() == before
        with transaction() as session:
            assert roles.weaknesses(session) == []
        with bound(world.account) as session:
            assert session.execute(text("SELECT count(*) FROM account")).scalar_one() == 1
        assert world.compare().clean
        world.reconcile()
        world.check()
        with transaction() as session:
            shown = session.execute(
                text("SELECT number, status FROM record_invoice WHERE record_type = 'person' AND record_id = :id"),
                {"id": person},
            )
            assert {row.number: row.status for row in shown} == {
                first.number: "PAID",
                second.number: "AUTHORISED",
                third.number: "AUTHORISED",
            }
            records = text("SELECT count(*) FROM crm_record WHERE record_id = :id")
            assert session.execute(records, {"id": moved}).scalar_one() == 1
    finally:
        databases.use(database)
        databases.run("DROP DATABASE IF EXISTS patina_restored WITH (FORCE)")
