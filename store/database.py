"""Engines, pools and sessions: one of each a process, made when first used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow, tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests
from sqlalchemy import Connection, Engine, ExceptionContext, TextClause, create_engine, event, exc, text
from sqlmodel import Session
from typing_extensions import override

from alembic import command
from runtime import embedded
from runtime.settings import settings
from store.roles import Role

__all__ = [
    "POOL_FULL",
    "UNAVAILABLE",
    "UNSTORABLE",
    "AccountClosedError",
    "Pool",
    "PoolFullError",
    "Role",
    "Session",
    "answers",
    "async_pool",
    "at_head",
    "bound",
    "describe_failure",
    "engine",
    "let_go",
    "limited_statements",
    "migrate",
    "now",
    "reading_pool",
    "server_version",
    "touched",
    "transaction",
    "using",
]
POOL = 10
# Whoever waits longer for a connection of the engine is better told so: a person or a caller waits behind it.
ENGINE_POOL_SECONDS = 5
T = TypeVar("T")


class PoolFullError(PoolTimeout):
    """Every connection of a pool is at work, and none came back in time: the database answers, to others."""


# A pool doubles its waits between tries to connect, up to this; then the next that wants a connection has it try at
# once. With longer ones it would not notice for a while that the database is back.
RECONNECT_SECONDS = 2
# What a standby answers to a change: the address leads to it since another server is the primary.
STANDBY = psycopg.errors.ReadOnlySqlTransaction
# What a database that is away, full, too slow or a standby raises, on the web process's pools and on the engine.
UNAVAILABLE = (
    STANDBY,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolTimeout,
    exc.OperationalError,
    exc.InterfaceError,
    exc.TimeoutError,
)
# Those of them that say nothing of the database: whoever asked came when too many others had.
POOL_FULL = (PoolFullError, TooManyRequests, exc.TimeoutError)
# What a text or a number raises that the driver or the database cannot hold: it came with a request.
UNSTORABLE = (psycopg.DataError, exc.DataError, UnicodeEncodeError)
MISSING_SCHEMA = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedObject)
STATEMENT_SECONDS = 300
# The role has the rights of the tables' policies only; both settings end with the transaction.
BIND = {
    role: text(f"SELECT set_config('role', public.{role}(), true), set_config('patina.account', :account, true)")
    for role in Role
}
# What somebody waits for may keep one core busy, for so long; it does not share its work out to the others.
LIMIT_STATEMENTS = text("""
    SELECT set_config('statement_timeout', :milliseconds, true),
           set_config('max_parallel_workers_per_gather', '0', true)
""")
_statement_seconds: ContextVar[float | None] = ContextVar("statement_seconds", default=None)
# A host that is gone answers nothing, not even that: without these, whoever waits for it waits for hours.
BOUNDED: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
}

# Nor does PostgreSQL soon notice by itself that a host is gone, and the locks of its last transaction stay until then.
NOTICED = "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 -c tcp_user_timeout=5000"


def conninfo() -> str:
    """The database's address as libpq (and psycopg) reads it, in any form that libpq knows."""
    scheme, rest = embedded.database_url().split("://", 1)
    return f"{scheme.partition('+')[0]}://{rest}"


def _connect_args(statement_seconds: int) -> dict[str, Any]:
    """How connections are made: what the address itself says takes precedence over our bounds.

    Through a pooler a connection is somebody else's at the next transaction, so it keeps no options.
    """
    address = conninfo_to_dict(conninfo())
    args = {name: value for name, value in BOUNDED.items() if name not in address}
    if settings().database_pooler:
        return {**args, "prepare_threshold": None}
    options = f"-c timezone=UTC -c statement_timeout={statement_seconds}s {NOTICED}"
    return {**args, "options": f"{address['options']} {options}" if "options" in address else options}


def _opening(statement_seconds: int, role: Role | None = None) -> str | None:
    """What each transaction begins with through a pooler, in place of what a connection of our own keeps."""
    if not settings().database_pooler:
        return None
    chosen = [("timezone", "'UTC'"), ("statement_timeout", f"'{statement_seconds}s'")]
    chosen += [("role", f"public.{role}()")] if role else []
    return "SELECT " + ", ".join(f"set_config('{name}', {to}, true)" for name, to in chosen)


@lru_cache(maxsize=1)
def engine() -> Engine:
    """The process's engine for jobs and commands; statements end after five minutes."""
    address, args = conninfo(), _connect_args(STATEMENT_SECONDS)
    made = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(address, **args),
        pool_size=POOL,
        max_overflow=POOL,
        pool_timeout=ENGINE_POOL_SECONDS,
        pool_pre_ping=True,
        hide_parameters=True,
    )
    event.listen(made, "handle_error", _leave_standby, retval=True)
    opening = _opening(STATEMENT_SECONDS)
    if opening is not None:

        @event.listens_for(made, "begin")
        def _open(connection: Connection) -> None:
            connection.exec_driver_sql(opening)

    return made


def _leave_standby(context: ExceptionContext) -> exc.OperationalError | None:
    """Drop the connections to a server that is no primary any more: the next ones may find the new one."""
    if not isinstance(context.original_exception, STANDBY):
        return None
    context.is_disconnect = True
    return exc.OperationalError(context.statement, None, context.original_exception, hide_parameters=True)


@contextmanager
def limited_statements(seconds: float) -> Iterator[None]:
    """End every statement of the transactions begun in this context, its threads and tasks after so many seconds.

    Whoever waits for a page waits for no lock and no slow statement longer than that.
    """
    before = _statement_seconds.set(seconds)
    try:
        yield
    finally:
        _statement_seconds.reset(before)


class AccountClosedError(LookupError):
    """The account was closed meanwhile: nothing of it is kept any more, and whoever works for it may stop."""


@contextmanager
def transaction() -> Iterator[Session]:
    """A session whose work is committed at the end, or rolled back on any error.

    Raises `AccountClosedError` for a row whose account is gone.
    """
    try:
        with Session(engine(), expire_on_commit=False) as session, session.begin():
            if (seconds := _statement_seconds.get()) is not None:
                session.execute(LIMIT_STATEMENTS, {"milliseconds": str(int(seconds * 1000))})
            yield session
    except exc.IntegrityError as error:
        # Every foreign key of the schema is one to the account.
        if isinstance(error.orig, psycopg.errors.ForeignKeyViolation):
            raise AccountClosedError("the account of a row is gone") from None
        raise


@contextmanager
def bound(account_id: int, role: Role = Role.PAGES) -> Iterator[Session]:
    """A transaction that PostgreSQL itself keeps within one account, whatever its statements say.

    It may change what pages change; as `Role.READS` it changes nothing, and sees no secret.
    """
    with transaction() as session:
        session.execute(BIND[role], {"account": str(account_id)})
        yield session


def now(session: Session) -> datetime:
    """The database's clock, by which everything that is stored goes."""
    at: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    return at


def server_version(session: Session) -> str:
    """PostgreSQL's version, such as 18.1."""
    version: str = session.execute(text("SHOW server_version")).scalar_one()
    return version.split()[0]


def touched(session: Session, statement: TextClause, chosen: dict[str, Any]) -> int:
    """Run a statement that changes rows; returns how many it changed."""
    result = session.connection().execute(statement, chosen)
    return result.rowcount


class _Lent(AbstractAsyncContextManager[AsyncConnection[TupleRow]]):
    """A connection until the block ends. Each of its statements is committed by itself: there is nothing to end.

    One that turns out to lead to a standby is closed, so that the pool makes another.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @override
    async def __aenter__(self) -> AsyncConnection[TupleRow]:
        self._connection = await self._pool.take()
        return self._connection

    @override
    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, STANDBY):
            await self._connection.close()
        await self._pool.give_back(self._connection)


class Pool(AsyncConnectionPool[AsyncConnection[TupleRow]]):
    """Connections of the web process's hot paths; whoever wants one waits 3 s at most. Not yet opened.

    `is_checked` for who does not go by `using`: each connection is seen to be alive before it is lent, a way more.
    """

    def __init__(self, *, size: int, statement_seconds: int, role: Role | None, is_checked: bool = False) -> None:
        self._role = role
        self._opening = _opening(statement_seconds, role)
        self._lent = 0
        super().__init__(
            conninfo(),
            configure=self._set_role if role and self._opening is None else None,
            check=AsyncConnectionPool.check_connection if is_checked else None,
            min_size=min(2, size),
            max_size=size,
            timeout=3,
            reconnect_timeout=RECONNECT_SECONDS,
            open=False,
            kwargs={"autocommit": True, "row_factory": tuple_row, **_connect_args(statement_seconds)},
        )

    async def _set_role(self, connection: AsyncConnection[TupleRow]) -> None:
        await connection.execute(f"SELECT set_config('role', public.{self._role}(), false)")

    async def take(self) -> AsyncConnection[TupleRow]:
        """A connection, for `give_back`; raises `PoolFullError` when all are at work, or `PoolTimeout`."""
        try:
            connection = await self.getconn()
        except PoolTimeout as error:
            if self._lent >= self.max_size:
                raise PoolFullError(str(error)) from None
            raise
        self._lent += 1
        return connection

    async def give_back(self, connection: AsyncConnection[TupleRow]) -> None:
        """Return what `take` gave."""
        self._lent -= 1
        await self.putconn(connection)

    def lend(self) -> AbstractAsyncContextManager[AsyncConnection[TupleRow]]:
        """A connection with this pool's role and bounds: through a pooler they last for one transaction, this one."""
        return _Lent(self) if self._opening is None else self._lend_through_pooler(self._opening)

    @asynccontextmanager
    async def _lend_through_pooler(self, opening: str) -> AsyncIterator[AsyncConnection[TupleRow]]:
        async with _Lent(self) as connection, connection.transaction():
            await connection.execute(opening)
            yield connection


def reading_pool(*, size: int = POOL, statement_seconds: int = 4, is_checked: bool = False) -> Pool:
    """A pool for reads by key: its connections see nothing until a key has bound them to its account."""
    return Pool(size=size, statement_seconds=statement_seconds, role=Role.READS, is_checked=is_checked)


def async_pool(*, size: int = POOL, statement_seconds: int = 4) -> Pool:
    """A pool with the rights of the installation's own role."""
    return Pool(size=size, statement_seconds=statement_seconds, role=None)


def describe_failure(error: BaseException) -> str | None:
    """What a database error means and what to do, in a sentence; None when `error` is not one of these.

    An error of the driver stays out of it as far as it may hold the address with its password.
    """
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    if isinstance(cause, MISSING_SCHEMA):
        return "The database has no tables of this version: run `patina migrate` first."
    if isinstance(cause, STANDBY):
        return "PostgreSQL takes no changes: this is a standby, or set to read-only. See where DATABASE_URL leads."
    if isinstance(cause, psycopg.errors.QueryCanceled):
        return "PostgreSQL took too long to answer. Try again in a moment."
    if isinstance(error, (PoolTimeout, exc.TimeoutError)):
        return "No connection to PostgreSQL became free in time. Try again in a moment."
    if isinstance(error, UNAVAILABLE):
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        return f"Can't reach PostgreSQL ({lines[0] if lines else type(cause).__name__}). Check DATABASE_URL."
    return None


async def answers(connection: AsyncConnection[TupleRow]) -> bool:
    """Whether the database answers; raises one of `UNAVAILABLE` otherwise."""
    await connection.execute("SELECT 1")
    return True


async def using(pool: Pool, work: Callable[[AsyncConnection[TupleRow]], Awaitable[T]]) -> T:
    """What `work` answers with a connection of the pool; once more with a new one when that one turns out to be dead.

    A database that was restarted leaves its pools full of dead connections: without the second try, each would
    cost a request, and a notification that Copper sends once. One that leads to a standby by now is left as well.
    `work` must bear to be done twice.
    """
    lent: AsyncConnection[TupleRow] | None = None
    try:
        async with pool.lend() as lent:
            return await work(lent)
    except (STANDBY, psycopg.OperationalError, psycopg.InterfaceError):
        if lent is None or not lent.closed:
            raise
    await pool.check()
    async with pool.lend() as lent:
        return await work(lent)


def migrate(revision: str = "head") -> None:
    """Bring the schema to `revision` (Alembic's words: `head`, `base`, `-1`, an id)."""
    config = alembic_config()
    if revision in {"base"} or revision.startswith("-"):
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)


def at_head() -> bool:
    """Whether the database has every migration that this code knows; one that a newer version has migrated does."""
    with engine().connect() as connection:
        now = set(MigrationContext.configure(connection).get_current_heads())
    known, heads = _revisions()
    return now == heads or bool(now - known)


@lru_cache(maxsize=1)
def _revisions() -> tuple[frozenset[str], frozenset[str]]:
    """Every revision of this code, and those that no other follows: its files do not change while it runs."""
    scripts = ScriptDirectory.from_config(alembic_config())
    return frozenset(script.revision for script in scripts.walk_revisions()), frozenset(scripts.get_heads())


def let_go() -> None:
    """Close the process's connections: before it forks, so that no two processes talk on one of them."""
    if engine.cache_info().currsize:
        engine().dispose()
        engine.cache_clear()


def alembic_config() -> Config:
    """Alembic's configuration for this project, from wherever the process runs."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).resolve().parent.parent / "alembic"))
    config.set_main_option("path_separator", "os")
    return config
