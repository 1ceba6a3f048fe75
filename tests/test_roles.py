"""Each database has roles of its own, and each role the rights that it uses: no more, and nobody else any."""

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

from runtime.settings import override
from store import roles
from store.database import Role, bound, let_go, migrate, transaction
from store.roles import MAX_NAME_BYTES, role_name
from terminal.doctor import Check, examine
from tests import databases
from tests.test_project import patina


@dataclass(frozen=True)
class Installation:
    """A database in the tests' cluster with an owner of its own, who is no superuser."""

    name: str
    owner: str

    @property
    def address(self) -> str:
        parts = urlsplit(databases.address(self.name))
        return urlunsplit(parts._replace(netloc=f"{self.owner}:{self.owner}@"))

    def use(self) -> None:
        let_go()
        override({"DATABASE_URL": self.address})


@contextmanager
def installation(name: str, rights: str = "CREATEROLE") -> Iterator[Installation]:
    made = Installation(f"{name}_{os.getpid()}", f"{name}_owner_{os.getpid()}")
    before = os.environ["DATABASE_URL"]
    databases.run_as_superuser(f"CREATE ROLE {made.owner} LOGIN PASSWORD '{made.owner}' {rights}")
    databases.run_as_superuser(f"CREATE DATABASE {made.name} OWNER {made.owner}")
    try:
        made.use()
        yield made
    finally:
        let_go()
        override({"DATABASE_URL": before})
        databases.run_as_superuser(f"DROP DATABASE {made.name} WITH (FORCE)")
        for role in Role:
            databases.run_as_superuser(f"DROP ROLE IF EXISTS {role_name(role, made.name)}")
        databases.run_as_superuser(f"DROP ROLE {made.owner}")


def test_the_owner_of_another_database_has_no_part_in_this_one(database: str) -> None:
    with installation("prod") as production, installation("staging") as staging:
        for made in (production, staging):
            made.use()
            migrate()
        theirs = urlunsplit(urlsplit(staging.address)._replace(path=f"/{production.name}"))
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(theirs)
        databases.run_as_superuser(f"GRANT CONNECT ON DATABASE {production.name} TO {staging.owner}")
        with psycopg.connect(theirs, autocommit=True) as intruder:
            for role in Role:
                with pytest.raises(errors.InsufficientPrivilege):
                    intruder.execute(f"SET ROLE {role_name(role, production.name)}")
                with pytest.raises(errors.InsufficientPrivilege):
                    intruder.execute(f"GRANT {role_name(role, production.name)} TO {staging.owner}")
            intruder.execute("SELECT set_config('patina.account', '1', false)")
            for statement in ("SELECT * FROM api_key", "SELECT account_of_key('x')", "CREATE TABLE planted (id int)"):
                with pytest.raises(errors.InsufficientPrivilege):
                    intruder.execute(statement)
        databases.run_as_superuser(f"REVOKE CONNECT ON DATABASE {production.name} FROM {staging.owner}")


def test_a_user_who_may_make_no_roles_is_told_what_to_have_run(database: str) -> None:
    with installation("plain", "") as made:
        done = patina("migrate")
        assert done.returncode == 1
        statements = [line for line in done.stderr.splitlines() if line.startswith("CREATE ROLE")]
        assert [made.owner in line for line in statements] == [True, True], done.stderr
        for line in statements:
            for statement in line.split(";")[:-1]:
                databases.run_as_superuser(statement)
        assert patina("migrate").returncode == 0
        with bound(1) as session:
            assert session.execute(text("SELECT current_user")).scalar_one() == role_name(Role.PAGES, made.name)


def test_a_migration_that_runs_twice_changes_nothing_and_gives_back_what_was_lost(database: str) -> None:
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
        # As after a restore in a cluster that had no such roles.
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
UNUSED_BY_PAGES = {"chore", "leftover", "notification_window", "run_seen"}


def test_every_table_of_an_account_has_its_rights_written_down(database: str) -> None:
    with transaction() as session:
        tables = set(session.execute(ACCOUNT_TABLES).scalars())
    assert tables - roles.PAGES.keys() == UNUSED_BY_PAGES, "give each table a line in store.roles.PAGES"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET detail = 'nothing'",
        "DELETE FROM audit",
        "UPDATE api_key SET scopes = '{admin}'",
        "DELETE FROM api_key",
        "INSERT INTO web_session (account_id, token_hash, role, user_id, user_name, expires_at)"
        " VALUES (1, 'x', 'admin', 1, 'x', now())",
        "UPDATE web_session SET role = 'admin'",
        "UPDATE web_session SET confirmed_at = now()",
        "SELECT token_hash FROM web_session",
        "SELECT sealed FROM xero_grant",
        "SELECT * FROM leftover",
        "DELETE FROM invoice",
        "UPDATE record_invoice SET balance = 0",
        "SELECT account_of_key('x')",
        "CREATE TABLE planted (id int)",
        "SELECT count(*) FROM alembic_version",
    ],
)
def test_pages_may_not(database: str, statement: str) -> None:
    with pytest.raises(exc.ProgrammingError, match="permission denied"), bound(1) as session:
        session.execute(text(statement))


@pytest.mark.parametrize("table", ["api_key", "audit", "copper_credential", "inbox", "oauth_state", "web_session"])
def test_reads_see_no_secret_and_change_nothing(database: str, table: str) -> None:
    for statement in (f"SELECT * FROM {table}", f"DELETE FROM {table}", "UPDATE account SET shown = 1"):
        with pytest.raises(exc.ProgrammingError, match="permission denied"), bound(1, Role.READS) as session:
            session.execute(text(statement))


def test_nobody_but_the_owner_connects_creates_or_runs_a_function(database: str) -> None:
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
        assert roles.weaknesses(session) == []


def role_check() -> Check:
    return next(check for check in examine() if check.what == "database roles")


def test_the_doctor_tells_of_ways_around_the_roles(database: str) -> None:
    name = database
    databases.run(f"GRANT CONNECT ON DATABASE {name} TO PUBLIC")
    with transaction() as session:
        session.execute(text("GRANT CREATE ON SCHEMA public TO PUBLIC"))
    check = role_check()
    assert not check.well
    assert check.said.startswith("every user of the cluster may connect to this database; every user of the database")
    assert f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC' in check.todo
    databases.run(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    with transaction() as session:
        session.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
    assert role_check().well
    let_go()
    override({"DATABASE_URL": databases.address(name).replace("patina@", "postgres@", 1)})
    assert role_check().said == "the database's user is a superuser"


@pytest.mark.parametrize("database_name", ["patina", "p" * 63, "ü" * 31, "a b", 'say "x"'])
def test_every_databases_roles_have_names_that_postgresql_takes(database_name: str) -> None:
    names = {role_name(role, other) for role in Role for other in (database_name, f"{database_name[:-1]}z")}
    assert len(names) == 4
    assert max(len(name.encode()) for name in names) <= MAX_NAME_BYTES


def test_an_older_versions_role_keeps_its_rights_until_they_are_dropped(database: str) -> None:
    shared = roles.SHARED_ROLE
    databases.run_as_superuser(
        f"DO $$ BEGIN CREATE ROLE {shared} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    databases.run_as_superuser(f"GRANT {shared} TO patina WITH SET TRUE, INHERIT TRUE")
    with transaction() as session:
        session.execute(text(f"GRANT SELECT ON invoice TO {shared}"))
        session.execute(text(f"ALTER POLICY own_account ON invoice TO {shared}"))
    migrate()
    with transaction() as session:
        assert [weakness.what for weakness in roles.weaknesses(session)] == [
            f"the role {shared} of an older version still has rights"
        ]
        session.execute(text(f"SET LOCAL ROLE {shared}"))
        assert session.execute(text("SELECT count(*) FROM invoice")).scalar_one() == 0
    with bound(1) as session:
        assert session.execute(text("SELECT count(*) FROM invoice")).scalar_one() == 0
    with transaction() as session:
        session.execute(text(f"DROP OWNED BY {shared}"))
        assert roles.weaknesses(session) == []
