"""A separate database for each test, created from a migrated template on the embedded PostgreSQL."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import text

from runtime import embedded
from runtime.servers import APPLICATION_ROLE, SUPERUSER
from runtime.settings import override_settings, settings
from store.db import database, migrations
from store.db.roles import Role

HOME = Path(__file__).resolve().parents[2] / ".patina" / "tests"
TEMPLATE = "patina_template"
# What Redis keeps of accounts, whose ids start at 1 in each database.
ACCOUNT_PREFIXES = ("budget", "known")


def database_url(name: str) -> str:
    """The URL of a database on the test server, for the application's role."""
    scheme, location = embedded.use("postgres", HOME).split("://", 1)
    return f"{scheme}://{APPLICATION_ROLE}@/{name}?{location.split('?', 1)[1]}"


def redis_url() -> str:
    """The URL of the test Redis."""
    return embedded.use("redis", HOME)


def clear_budgets(prefix: str = "budget") -> None:
    """Clear the budgets, or other counters in Redis, because account ids start at 1 in each database."""
    from runtime.redis_client import shared_client

    # From the environment, because the settings would be read again, which takes longer than the rest.
    namespace = os.environ["REDIS_NAMESPACE"]
    keys = list(shared_client().scan_iter(f"*{namespace}:{prefix}*", count=1_000))
    if keys:
        shared_client().delete(*keys)


def execute(*statements: str) -> None:
    """Execute statements outside any test database, each in its own transaction."""
    with psycopg.connect(database_url("postgres"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def connect_as_superuser(name: str) -> psycopg.Connection:
    """A connection to a database that may do anything; every statement is a transaction of its own."""
    url = database_url(name).replace(f"{APPLICATION_ROLE}@", f"{SUPERUSER}@", 1)
    return psycopg.connect(url, autocommit=True)


def execute_as_superuser(statement: str) -> None:
    """Execute a statement that the application's role may not execute."""
    with connect_as_superuser("postgres") as connection:
        connection.execute(statement)


def role_name(role: Role) -> str:
    """The name of a role in this process's database."""
    with database.transaction() as session:
        name: str = session.execute(text(f"SELECT {role}()")).scalar_one()
    return name


def use(name: str) -> None:
    """Switch this process to the database `name`."""
    use_url(database_url(name))


def use_url(url: str, **others: str) -> None:
    """Switch this process to the database at `url`, with other settings if needed."""
    override_settings({"DATABASE_URL": url, **others})
    # After the settings, because another thread may create an engine at any time.
    database.dispose_engine()


@contextmanager
def using_url(url: str) -> Iterator[None]:
    """Use the database at `url` in this process until the block ends."""
    before = settings().database_url or ""
    use_url(url)
    try:
        yield
    finally:
        use_url(before)


def current_name() -> str:
    """The name of the database in use."""
    return str(conninfo_to_dict(database.conninfo())["dbname"])


def terminate_connections() -> None:
    """Terminate all clients' connections, as a restart of PostgreSQL does."""
    with psycopg.connect(database_url("postgres"), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
            (current_name(),),
        )


@contextmanager
def unavailable() -> Iterator[None]:
    """The database accepts no connection, and has terminated those there were, until the block ends."""
    name = current_name()
    with psycopg.connect(database_url("postgres"), autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            terminate_connections()
            yield
        finally:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def make_template() -> None:
    """Migrate the template once for all test processes, and again when a migration changed."""
    root = Path(__file__).resolve().parents[2]
    sources = [*(root / "alembic").rglob("*.py"), root / "store" / "db" / "roles.py"]
    stamp = str(sorted((path.name, path.stat().st_mtime_ns) for path in sources))
    HOME.mkdir(parents=True, exist_ok=True)
    database_url("postgres")
    with (HOME / "template.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if lock.read() != stamp or not _exists(TEMPLATE):
            execute_as_superuser(f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")
            # A crash only costs a test run, so the data need not be written to disk.
            for setting in ("fsync", "full_page_writes"):
                execute_as_superuser(f"ALTER SYSTEM SET {setting} = off")
            execute_as_superuser("SELECT pg_reload_conf()")
            execute(f"CREATE DATABASE {TEMPLATE}")
            use(TEMPLATE)
            migrations.migrate()
            database.engine().dispose()
            lock.truncate(0)
            lock.write(stamp)


def _exists(name: str) -> bool:
    with psycopg.connect(database_url("postgres")) as connection:
        row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
    return row is not None


def create(template: str = TEMPLATE) -> str:
    """Create a database; returns its name."""
    name = f"t_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    # It has the roles of its template, but not its CONNECT privileges.
    statement = f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
    execute(statement, f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    return name


def drop(name: str) -> None:
    """Drop a database with all its connections."""
    # The application's role may not terminate autovacuum workers.
    execute_as_superuser(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def temporary(*, template: str = TEMPLATE) -> Iterator[str]:
    """Create a database, and use it in this process until the block ends."""
    name = create(template)
    use(name)
    try:
        yield name
    finally:
        database.dispose_engine()
        drop(name)
