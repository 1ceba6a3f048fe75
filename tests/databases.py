"""A database of its own for each test, made from a migrated template on the embedded PostgreSQL."""

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
from runtime.settings import override, settings
from store import database
from store.roles import Role

HOME = Path(__file__).resolve().parent.parent / ".patina" / "tests"
TEMPLATE = "patina_template"


def address(name: str) -> str:
    """The address of a database on the test server, as the application's role."""
    scheme, rest = embedded.use("postgres", HOME).split("://", 1)
    return f"{scheme}://{APPLICATION_ROLE}@/{name}?{rest.split('?', 1)[1]}"


def redis_address() -> str:
    """The test Redis."""
    return embedded.use("redis", HOME)


def forget_budgets(space: str = "budget") -> None:
    """Account ids start anew in each database: so must their budgets (and other counts kept in Redis)."""
    from worker.broker import client

    keys = list(client().scan_iter(f"*{settings().redis_namespace}:{space}*", count=1_000))
    if keys:
        client().delete(*keys)


def run(*statements: str) -> None:
    """Run statements outside any test database, each by itself."""
    with psycopg.connect(address("postgres"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def run_as_superuser(statement: str) -> None:
    """Run one statement that the application's role may not run."""
    url = address("postgres").replace(f"{APPLICATION_ROLE}@", f"{SUPERUSER}@", 1)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def role(role: Role) -> str:
    """The name of a role of this process's database."""
    with database.transaction() as session:
        name: str = session.execute(text(f"SELECT {role}()")).scalar_one()
    return name


def use(name: str) -> None:
    """Make `name` this process's database."""
    database.let_go()
    override({"DATABASE_URL": address(name)})


def current() -> str:
    """The name of the database in use."""
    return str(conninfo_to_dict(database.conninfo())["dbname"])


def cut_connections() -> None:
    """What a restart of PostgreSQL does to everybody's connections."""
    with psycopg.connect(address("postgres"), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            (current(),),
        )


def make_template() -> None:
    """Migrate the template once for all test processes, anew when a migration changed."""
    root = Path(__file__).resolve().parent.parent
    sources = [*(root / "alembic").rglob("*.py"), root / "store" / "roles.py"]
    stamp = str(sorted((path.name, path.stat().st_mtime_ns) for path in sources))
    HOME.mkdir(parents=True, exist_ok=True)
    address("postgres")
    with (HOME / "template.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if lock.read() != stamp or not _exists(TEMPLATE):
            run_as_superuser(f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")
            # A crash of the machine may cost a test run, and nothing else: its data need not reach the disk.
            for setting in ("fsync", "full_page_writes"):
                run_as_superuser(f"ALTER SYSTEM SET {setting} = off")
            run_as_superuser("SELECT pg_reload_conf()")
            run(f"CREATE DATABASE {TEMPLATE}")
            use(TEMPLATE)
            database.migrate()
            database.engine().dispose()
            lock.truncate(0)
            lock.write(stamp)


def _exists(name: str) -> bool:
    with psycopg.connect(address("postgres")) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
    return found is not None


@contextmanager
def fresh(*, template: str = TEMPLATE) -> Iterator[str]:
    """A new database, this process's until the block ends."""
    name = f"t_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    # It has the roles of its template, but not what was said there of who may connect.
    made = f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
    run(made, f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    use(name)
    try:
        yield name
    finally:
        database.let_go()
        # Autovacuum's workers are nobody's whom the application's role may end.
        run_as_superuser(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
