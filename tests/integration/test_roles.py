"""Database roles: each database has its own, and each role has only the privileges that it uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import exc, text

from cli.checks import CheckResult, run_checks
from store.db import roles
from store.db.database import Role, account_transaction, transaction
from store.db.migrations import migrate
from store.db.roles import MAX_NAME_BYTES, role_name
from tests.support import databases
from tests.support.commands import patina


@dataclass(frozen=True)
class Installation:
    """A database in the tests' cluster whose owner is not a superuser."""

    name: str
    owner: str

    @property
    def address(self) -> str:
        parts = urlsplit(databases.database_url(self.name))
        return urlunsplit(parts._replace(netloc=f"{self.owner}:{self.owner}@"))

    def use(self) -> None:
        databases.use_url(self.address)


@contextmanager
def installation(name: str, rights: str = "CREATEROLE") -> Iterator[Installation]:
    created = Installation(f"{name}_{os.getpid()}", f"{name}_owner_{os.getpid()}")
    before = os.environ["DATABASE_URL"]
    databases.execute_as_superuser(f"CREATE ROLE {created.owner} LOGIN PASSWORD '{created.owner}' {rights}")
    databases.execute_as_superuser(f"CREATE DATABASE {created.name} OWNER {created.owner}")
    try:
        created.use()
        yield created
    finally:
        databases.use_url(before)
        databases.execute_as_superuser(f"DROP DATABASE {created.name} WITH (FORCE)")
        for role in Role:
            databases.execute_as_superuser(f"DROP ROLE IF EXISTS {role_name(role, created.name)}")
        databases.execute_as_superuser(f"DROP ROLE {created.owner}")


def test_the_owner_of_another_database_has_no_access_to_this_one(database: str) -> None:
    with installation("prod") as production, installation("staging") as staging:
        for created in (production, staging):
            created.use()
            migrate()
        foreign_url = urlunsplit(urlsplit(staging.address)._replace(path=f"/{production.name}"))
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(foreign_url)
        databases.execute_as_superuser(f"GRANT CONNECT ON DATABASE {production.name} TO {staging.owner}")
        with psycopg.connect(foreign_url, autocommit=True) as intruder:
            for role in Role:
                with pytest.raises(errors.InsufficientPrivilege):
                    intruder.execute(f"SET ROLE {role_name(role, production.name)}")
                with pytest.raises(errors.InsufficientPrivilege):
                    intruder.execute(f"GRANT {role_name(role, production.name)} TO {staging.owner}")
            intruder.execute("SELECT set_config('patina.account', '1', false)")
            for statement in ("SELECT * FROM api_key", "SELECT account_of_key('x')", "CREATE TABLE planted (id int)"):
                with pytest.raises(errors.InsufficientPrivilege):
                    intruder.execute(statement)
        databases.execute_as_superuser(f"REVOKE CONNECT ON DATABASE {production.name} FROM {staging.owner}")


def test_a_user_who_may_not_create_roles_is_told_which_statements_to_run(database: str) -> None:
    with installation("plain", "") as created:
        completed = patina("migrate")
        assert completed.returncode == 1
        statements = [line for line in completed.stderr.splitlines() if line.startswith("CREATE ROLE")]
        assert [created.owner in line for line in statements] == [True, True], completed.stderr
        for line in statements:
            for statement in line.split(";")[:-1]:
                databases.execute_as_superuser(statement)
        assert patina("migrate").returncode == 0
        with account_transaction(1) as session:
            assert session.execute(text("SELECT current_user")).scalar_one() == role_name(Role.PAGES, created.name)


def test_a_repeated_migration_changes_nothing_and_restores_lost_privileges(database: str) -> None:
    rights = text("""
        SELECT relname, relacl::text, NULL FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        UNION ALL SELECT proname, proacl::text, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT tablename || policyname, roles::text, qual FROM pg_policies ORDER BY 1, 2
    """)
    with transaction() as session:
        before = session.execute(rights).all()
    migrate()
    with transaction() as session:
        assert session.execute(rights).all() == before
        # As after a restore into a cluster without these roles.
        for role in Role:
            name = session.execute(text(f"SELECT {role}()")).scalar_one()
            session.execute(text(f"DROP OWNED BY {name}"))
        assert session.execute(rights).all() != before
    migrate()
    with transaction() as session:
        assert sorted(map(str, session.execute(rights).all())) == sorted(map(str, before))


ACCOUNT_TABLES = text("""
    SELECT table_name FROM information_schema.columns
    WHERE table_schema = 'public' AND column_name = 'account_id'
""")
UNUSED_BY_PAGES = {"scheduled_task", "cleanup_task", "webhook_quota", "run_seen_id"}


def test_the_privileges_of_every_table_are_documented(database: str) -> None:
    with transaction() as session:
        tables = set(session.execute(ACCOUNT_TABLES).scalars())
    assert tables - roles.PAGES.keys() == UNUSED_BY_PAGES, "give each table a line in store.db.roles.PAGES"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET detail = 'nothing'",
        "DELETE FROM audit_log",
        "UPDATE api_key SET scopes = '{admin}'",
        "DELETE FROM api_key",
        "INSERT INTO browser_session (account_id, token_hash, role, user_id, user_name, expires_at)"
        " VALUES (1, 'x', 'admin', 1, 'x', now())",
        "UPDATE browser_session SET role = 'admin'",
        "UPDATE browser_session SET confirmed_at = now()",
        "SELECT token_hash FROM browser_session",
        "SELECT encrypted_payload FROM xero_grant",
        "SELECT * FROM cleanup_task",
        "DELETE FROM xero_invoice",
        "UPDATE record_invoice SET balance = 0",
        "SELECT account_of_key('x')",
        "CREATE TABLE planted (id int)",
        "SELECT count(*) FROM alembic_version",
    ],
)
def test_the_pages_role_may_not(database: str, statement: str) -> None:
    with pytest.raises(exc.ProgrammingError, match="permission denied"), account_transaction(1) as session:
        session.execute(text(statement))


@pytest.mark.parametrize(
    "table", ["api_key", "audit_log", "copper_credential", "inbox", "oauth_state", "browser_session"]
)
def test_the_reads_role_sees_no_secret_and_changes_nothing(database: str, table: str) -> None:
    for statement in (f"SELECT * FROM {table}", f"DELETE FROM {table}", "UPDATE account SET invoice_limit = 1"):
        with (
            pytest.raises(exc.ProgrammingError, match="permission denied"),
            account_transaction(1, Role.READS) as session,
        ):
            session.execute(text(statement))


def test_only_the_owner_can_connect_create_or_execute_functions(database: str) -> None:
    public = text("""
        SELECT has_database_privilege('public', current_database(), 'CONNECT'),
               has_database_privilege('public', current_database(), 'TEMPORARY'),
               has_schema_privilege('public', 'public', 'CREATE'),
               bool_or(has_function_privilege('public', oid, 'EXECUTE'))
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    """)
    paths = text("""
        SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef
          AND coalesce(array_to_string(proconfig, ' '), '') <> 'search_path=pg_catalog, public, pg_temp'
    """)
    with transaction() as session:
        assert tuple(session.execute(public).one()) == (False, False, False, False)
        assert session.execute(paths).scalars().all() == []
        assert roles.find_weaknesses(session) == []


def role_check() -> CheckResult:
    return next(result for result in run_checks() if result.name == "database roles")


def test_the_doctor_detects_ways_around_the_roles(database: str) -> None:
    name = database
    databases.execute(f"GRANT CONNECT ON DATABASE {name} TO PUBLIC")
    with transaction() as session:
        session.execute(text("GRANT CREATE ON SCHEMA public TO PUBLIC"))
    check = role_check()
    assert not check.ok
    assert check.detail.startswith("every user of the cluster may connect to this database; every user of the database")
    assert f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC' in check.hint
    databases.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    with transaction() as session:
        session.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
    assert role_check().ok
    databases.use_url(databases.database_url(name).replace("patina@", "postgres@", 1))
    assert role_check().detail == "the database's user is a superuser"


@pytest.mark.parametrize("database_name", ["patina", "p" * 63, "ü" * 31, "a b", 'say "x"'])
def test_role_names_of_every_database_are_valid_in_postgresql(database_name: str) -> None:
    names = {role_name(role, database_) for role in Role for database_ in (database_name, f"{database_name[:-1]}z")}
    assert len(names) == 4
    assert max(len(name.encode()) for name in names) <= MAX_NAME_BYTES
