"""Addresses of PostgreSQL in every form that libpq reads, and services of service files."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import database_address
from runtime.database_address import DatabaseAddressError

SERVICES = """\
# The cluster.
[patina]
host=db1,db2
port=5432,5433
dbname=patina
user=app
password=50%#x
target_session_attrs=read-write

[other]
dbname=other
"""
CLUSTER = {
    "host": "db1,db2",
    "port": "5432,5433",
    "dbname": "patina",
    "user": "app",
    "password": "50%#x",
    "target_session_attrs": "read-write",
}


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service file, where libpq looks first."""
    path = tmp_path / "services.conf"
    path.write_text(SERVICES)
    monkeypatch.setenv("PGSERVICEFILE", str(path))
    return path


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://app@db1:5432,db2:5433/patina?target_session_attrs=read-write",
        "postgresql+psycopg://app@db1:5432,db2:5433/patina?target_session_attrs=read-write",
        "postgres:///patina?user=app&host=db1,db2&port=5432,5433&target_session_attrs=read-write",
        "host=db1,db2 port=5432,5433 dbname=patina user=app target_session_attrs=read-write",
        "host = db1,db2 port = '5432,5433' dbname = patina user = app target_session_attrs = 'read-write'",
    ],
)
def test_every_form_gives_the_same_parameters(address: str) -> None:
    assert database_address.parse(address) == {name: value for name, value in CLUSTER.items() if name != "password"}


@pytest.mark.parametrize("address", ["postgresql:///?service=patina", "service=patina"])
def test_a_service_gives_all_that_its_file_says(services: Path, address: str) -> None:
    assert database_address.parse(address) == CLUSTER


def test_parameters_beside_a_service_take_precedence(services: Path) -> None:
    assert database_address.parse("service=patina dbname=mine") == {**CLUSTER, "dbname": "mine"}
    assert database_address.parse("postgresql://db9/?service=patina")["host"] == "db9"


def test_a_service_of_the_system_is_known_too(services: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pg_service.conf").write_text("[theirs]\ndbname=theirs\n")
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    assert database_address.parse("service=theirs") == {"dbname": "theirs"}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("mysql://x/y", "must start with postgresql://"),
        ("patina", "must start with postgresql://, or consist of pairs"),
        ("postgresql://h/db?bogus=1", "not an address that PostgreSQL's libpq can read"),
        ("postgresql://u:secret@h%zz/db", "not an address that PostgreSQL's libpq can read"),
        ("host=h password=secret bogus=1", "not an address that PostgreSQL's libpq can read"),
        ("host=h password='secret", "not an address that PostgreSQL's libpq can read"),
        ("service=nowhere password=secret", "no service file defines the service 'nowhere'"),
    ],
)
def test_an_address_that_is_wrong_is_refused_without_its_password(services: Path, address: str, message: str) -> None:
    with pytest.raises(DatabaseAddressError, match=message) as caught:
        database_address.parse(address)
    assert "secret" not in str(caught.value)


def test_a_service_file_that_is_broken_is_named(services: Path) -> None:
    services.write_text("host=db1\n")
    with pytest.raises(DatabaseAddressError, match=r"services\.conf cannot be read"):
        database_address.parse("service=patina")
