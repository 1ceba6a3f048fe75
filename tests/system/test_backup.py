"""The restore drill of docs/deploy.md: a dump, later changes, and a consistent state in a new database."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sqlalchemy import text

from runtime.servers import Postgres
from store.db import roles
from store.db.database import account_transaction, dispose_engine, transaction
from store.db.migrations import migrate
from tests.support import databases
from tests.support.world import World


def tool(name: str, *arguments: str) -> None:
    program = Postgres(databases.HOME / "postgres").bin / name
    subprocess.run([str(program), *arguments], check=True, capture_output=True, timeout=120)


def counts() -> dict[str, int]:
    """The number of rows of every table."""
    with transaction() as session:
        names = session.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars().all()
        return {name: session.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one() for name in names}


@pytest.mark.new_database
def test_a_dump_is_restored_and_later_changes_are_repaired(world: World, database: str, tmp_path: Path) -> None:
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    first, second = world.invoice("ann@acme.test"), world.invoice("ann@acme.test")
    world.settle()
    before = counts()
    tool("pg_dump", "--format=custom", f"--file={tmp_path / 'patina.dump'}", databases.database_url(database))

    world.sandbox.simulate("pay_invoice", invoice=first.id)
    third = world.invoice("ann@acme.test")
    moved = world.person("bob@acme.test")
    world.settle()
    dispose_engine()

    databases.execute("CREATE DATABASE patina_restored")
    try:
        restored = databases.database_url("patina_restored")
        tool("pg_restore", "--no-owner", "--no-privileges", f"--dbname={restored}", str(tmp_path / "patina.dump"))
        databases.use("patina_restored")
        migrate()
        assert counts() == before
        with transaction() as session:
            assert roles.find_weaknesses(session) == []
        with account_transaction(world.account) as session:
            assert session.execute(text("SELECT count(*) FROM account")).scalar_one() == 1
        assert world.compare().is_clean
        world.reconcile()
        world.check()
        with transaction() as session:
            rows = session.execute(
                text("SELECT number, status FROM record_invoice WHERE record_type = 'person' AND record_id = :id"),
                {"id": person},
            )
            assert {row.number: row.status for row in rows} == {
                first.number: "PAID",
                second.number: "AUTHORISED",
                third.number: "AUTHORISED",
            }
            records = text("SELECT count(*) FROM copper_record WHERE record_id = :id")
            assert session.execute(records, {"id": moved}).scalar_one() == 1
    finally:
        databases.use(database)
        databases.execute("DROP DATABASE IF EXISTS patina_restored WITH (FORCE)")
