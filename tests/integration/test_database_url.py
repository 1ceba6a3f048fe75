"""DATABASE_URL in every form that libpq accepts, with real servers and unreachable hosts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
import pytest
from sqlalchemy import text

from runtime.settings import SettingsError, override_settings, settings
from store.db import database
from tests.support import databases
from tests.support.commands import patina
from tests.support.databases import database_url


def name_by_engine() -> str:
    with database.transaction() as session:
        return str(session.execute(text("SELECT current_database()")).scalar_one())


def name_by_pool() -> str:
    async def ask() -> str:
        pool = database.create_owner_pool(size=1)
        await pool.open(wait=True, timeout=10)
        async with pool.borrow() as connection:
            row = await (await connection.execute("SELECT current_database()")).fetchone()
        await pool.close()
        assert row is not None
        return str(row[0])

    return asyncio.run(ask())


def socket_folder(name: str) -> str:
    return parse_qs(urlsplit(database_url(name)).query)["host"][0]


def forms(name: str, tmp_path: Path) -> dict[str, str]:
    """URLs of the same database in many forms; port 1 and the folder `/nowhere` are unreachable."""
    folder = quote(socket_folder(name), safe="")
    services = tmp_path / "services.conf"
    services.write_text(f"[patina]\nhost={socket_folder(name)}\nuser=postgres\ndbname={name}\n")
    return {
        "dead host first": f"postgresql://postgres@127.0.0.1:1,{folder}:5432/{name}?target_session_attrs=read-write",
        "hosts in the query": f"postgresql:///{name}?user=postgres&host=127.0.0.1,{folder}&port=1,5432",
        "sockets": f"postgresql://postgres@/{name}?host=/nowhere,{folder}",
        "percent-encoded": f"postgresql://%70ostgres@{folder}/{name}",
        "SQLAlchemy's scheme": f"postgresql+psycopg://postgres@{folder}/{name}",
        "the old scheme": f"postgres://postgres@{folder}/{name}",
        "options of its own": f"postgresql://postgres@{folder}/{name}?options=-c%20application_name%3Dmine",
    }


FORMS = [
    "dead host first",
    "hosts in the query",
    "sockets",
    "percent-encoded",
    "SQLAlchemy's scheme",
    "the old scheme",
    "options of its own",
]


@pytest.mark.parametrize("form", FORMS)
def test_commands_jobs_and_requests_connect_with_every_form_of_url(database: str, form: str, tmp_path: Path) -> None:
    with databases.using_url(forms(database, tmp_path)[form]):
        assert name_by_engine() == name_by_pool() == database
        assert patina("verify").stderr == "No account is connected yet: run `patina connect`.\n"


def test_a_service_file_names_the_database(database: str, tmp_path: Path) -> None:
    forms(database, tmp_path)
    override_settings({"PGSERVICEFILE": str(tmp_path / "services.conf")})
    with databases.using_url("postgresql:///?service=patina"):
        assert name_by_engine() == name_by_pool() == database


def test_parameters_of_the_url_override_our_defaults(database: str) -> None:
    folder = quote(socket_folder(database), safe="")
    own = quote("-c application_name=mine", safe="")
    with databases.using_url(f"postgresql://postgres@{folder}/{database}?options={own}"):
        from store.db.database import transaction

        with transaction() as session:
            row = session.execute(
                text(
                    "SELECT current_setting('application_name'), current_setting('timezone'),"
                    " current_setting('statement_timeout')"
                )
            ).one()
        assert tuple(row) == ("mine", "UTC", "5min")


@pytest.mark.parametrize("url", ["mysql://x/y", "patina", "postgresql://h/db?bogus=1", "postgresql://u:secret@h%zz/db"])
def test_a_url_that_libpq_cannot_parse_is_refused_by_name(url: str) -> None:
    override_settings({"DATABASE_URL": url})
    with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
        settings()
    assert "secret" not in str(caught.value)


def test_unreachable_hosts_are_reported_in_one_line() -> None:
    completed = patina(
        "status", DATABASE_URL="postgresql://u@127.0.0.1:1,127.0.0.1:2/db?target_session_attrs=read-write"
    )
    assert completed.returncode == 1
    assert completed.stderr.startswith("Can't reach PostgreSQL (")
    assert completed.stderr.count("\n") == 1
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect("postgresql://u@127.0.0.1:1/db")
