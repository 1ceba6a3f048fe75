"""The engine, connection pools and transactions of a process, created on first use."""

from __future__ import annotations

import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow, tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests
from sqlalchemy import Connection, Engine, ExceptionContext, TextClause, create_engine, event, exc, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from typing_extensions import override

from runtime import database_address
from runtime.process_values import once_per_process
from runtime.service_urls import database_url
from runtime.settings import settings
from store.db.roles import Role

__all__ = [
    "INVALID_VALUE_ERRORS",
    "POOL_FULL_ERRORS",
    "POOL_SIZE",
    "UNAVAILABLE_ERRORS",
    "AccountClosedError",
    "ConnectionLostError",
    "Pool",
    "PoolFullError",
    "Role",
    "Session",
    "account_transaction",
    "connection_parameters",
    "create_owner_pool",
    "current_time",
    "database_now",
    "describe_failure",
    "dispose_engine",
    "engine",
    "execute_rowcount",
    "ping",
    "replica_engine",
    "run_with_retry",
    "server_version",
    "statement_timeout",
    "transaction",
]
POOL_SIZE = 10
# A person or a caller waits behind the engine's pool, so they learn soon that it is exhausted.
ENGINE_POOL_TIMEOUT_SECONDS = 5
POOL_TIMEOUT_SECONDS = 3
T = TypeVar("T")


class PoolFullError(PoolTimeout):
    """Every connection of a pool is in use and none was returned in time; the database itself is available."""


MAX_CLOCK_AGE_SECONDS = 5.0
# A connection that was used within this time is not tested again.
MAX_UNCHECKED_SECONDS = 1.0
# A pool doubles its pauses between attempts to connect, up to this. A longer pause would delay the recovery after the
# database is back.
RECONNECT_TIMEOUT_SECONDS = 2
# What a standby raises for a write: after a failover the address may still lead to the former primary.
READ_ONLY_ERROR = psycopg.errors.ReadOnlySqlTransaction
SHUTDOWN_ERRORS = (psycopg.errors.AdminShutdown, psycopg.errors.CrashShutdown, psycopg.errors.CannotConnectNow)
# What a database that is away, full, too slow or a standby raises, from the web process's pools and from the engine.
UNAVAILABLE_ERRORS = (
    READ_ONLY_ERROR,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolTimeout,
    exc.OperationalError,
    exc.InterfaceError,
    exc.TimeoutError,
)
# Those that concern the pool and not the database: too many callers at once.
POOL_FULL_ERRORS = (PoolFullError, TooManyRequests, exc.TimeoutError)
# A text or number from a request that the driver or the database cannot represent.
INVALID_VALUE_ERRORS = (psycopg.DataError, exc.DataError, UnicodeEncodeError)
MISSING_SCHEMA_ERRORS = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedObject,
)
STATEMENT_TIMEOUT_SECONDS = 300
# The role has the rights that the tables' policies give it; both settings end with the transaction.
BIND_ACCOUNT = {
    role: text(f"SELECT set_config('role', public.{role}(), true), set_config('patina.account', :account, true)")
    for role in Role
}
# An interactive statement may use one core for a limited time, and starts no parallel workers.
LIMIT_STATEMENTS = text("""
    SELECT set_config('statement_timeout', :milliseconds, true),
           set_config('max_parallel_workers_per_gather', '0', true)
""")
_statement_timeout: ContextVar[float | None] = ContextVar("statement_timeout", default=None)
# Without these a client waits for hours for a host that is gone.
CONNECTION_TIMEOUTS: dict[str, Any] = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
}

# Without these PostgreSQL keeps the locks of a client's last transaction long after the client's host is gone.
SERVER_KEEPALIVES = (
    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 -c tcp_user_timeout=5000"
)


def conninfo() -> str:
    """The database's address as libpq reads it."""
    return database_address.to_libpq(database_url())


def connection_parameters(address: str, timeout_seconds: int) -> dict[str, Any]:
    """What psycopg connects with; parameters of the address take precedence over our defaults.

    Statements end after `timeout_seconds`. Behind a pooler the connection belongs to another client in the next
    transaction, so it gets no options.
    """
    parameters = {**CONNECTION_TIMEOUTS, **database_address.parse(address)}
    if settings().database_pooler:
        return {**parameters, "prepare_threshold": None}
    options = f"-c timezone=UTC -c statement_timeout={timeout_seconds}s {SERVER_KEEPALIVES}"
    return {**parameters, "options": f"{parameters['options']} {options}" if "options" in parameters else options}


def _transaction_settings(timeout_seconds: int, role: Role | None = None) -> str | None:
    """The statement that begins each transaction behind a pooler; None where connections keep their settings."""
    if not settings().database_pooler:
        return None
    values = [("timezone", "'UTC'"), ("statement_timeout", f"'{timeout_seconds}s'")]
    values += [("role", f"public.{role}()")] if role else []
    return "SELECT " + ", ".join(f"set_config('{name}', {value}, true)" for name, value in values)


@once_per_process
def engine() -> Engine:
    """The process's engine for jobs and commands; its statements end after five minutes."""
    return _create_engine(database_url())


@once_per_process
def replica_engine() -> Engine | None:
    """The process's engine for reads from the standby of READ_DATABASE_URL; None without that setting."""
    address = settings().read_database_url
    return _create_engine(address) if address else None


def _create_engine(address: str) -> Engine:
    parameters = connection_parameters(address, STATEMENT_TIMEOUT_SECONDS)
    new_engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(**parameters),
        pool_size=POOL_SIZE,
        max_overflow=POOL_SIZE,
        pool_timeout=ENGINE_POOL_TIMEOUT_SECONDS,
        hide_parameters=True,
    )
    event.listen(new_engine, "checkin", _note_return)
    event.listen(new_engine, "checkout", _check_idle_connection)
    event.listen(new_engine, "handle_error", _recognise_lost_connection, retval=True)
    transaction_settings = _transaction_settings(STATEMENT_TIMEOUT_SECONDS)
    if transaction_settings is not None:

        @event.listens_for(new_engine, "begin")
        def _apply_settings(connection: Connection) -> None:
            connection.exec_driver_sql(transaction_settings)

    return new_engine


def _note_return(_: object, record: ConnectionPoolEntry) -> None:
    record.info["returned_at"] = time.monotonic()


def _check_idle_connection(
    connection: psycopg.Connection, record: ConnectionPoolEntry, _: PoolProxiedConnection
) -> None:
    """Test a connection before it is used, if it was idle or the server has closed it; one that is dead is replaced.

    SQLAlchemy's own test, of each connection each time, costs as much as a short transaction.
    """
    returned_at = record.info.get("returned_at")
    if returned_at is None:
        return
    is_idle = time.monotonic() - returned_at >= MAX_UNCHECKED_SECONDS
    try:
        if not is_idle and not _has_input(connection):
            return
        connection.execute("SELECT 1")
        connection.rollback()
    except psycopg.Error as error:
        raise exc.InvalidatePoolError(type(error).__name__) from None


def _has_input(connection: psycopg.Connection) -> bool:
    """Whether the server has sent something that nobody asked for, such as the end of the connection."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class ConnectionLostError(exc.OperationalError):
    """The database cannot be reached, has ended the connection, or is no longer the primary.

    The work itself is not the cause, so it may be repeated once the database is back.
    """


def _recognise_lost_connection(context: ExceptionContext) -> ConnectionLostError | None:
    """Tell lost connections from other errors.

    The connections to a server that is no longer the primary are dropped, so that new ones can find the new primary.
    """
    error = context.original_exception
    if isinstance(error, READ_ONLY_ERROR):
        context.is_disconnect = True
    is_lost = context.is_disconnect or context.connection is None or isinstance(error, SHUTDOWN_ERRORS)
    if not is_lost or not isinstance(error, psycopg.Error):
        return None
    return ConnectionLostError(context.statement, None, error, hide_parameters=True)


@contextmanager
def statement_timeout(seconds: float) -> Iterator[None]:
    """End every statement of transactions that begin in this context, its threads and its tasks after `seconds`.

    A page therefore never waits longer than that for a lock or a slow statement.
    """
    token = _statement_timeout.set(seconds)
    try:
        yield
    finally:
        _statement_timeout.reset(token)


class AccountClosedError(LookupError):
    """The account was closed in the meantime: nothing of it is kept, and work for it may stop."""


@contextmanager
def transaction() -> Iterator[Session]:
    """A session whose work is committed at the end, or rolled back on any error.

    Raises `AccountClosedError` for a row whose account no longer exists.
    """
    try:
        with Session(engine(), expire_on_commit=False) as session, session.begin():
            limit_statements(session)
            yield session
    except exc.IntegrityError as error:
        # Every foreign key of the schema refers to the account.
        if isinstance(error.orig, psycopg.errors.ForeignKeyViolation):
            raise AccountClosedError("the account of a row no longer exists") from None
        raise


def limit_statements(session: Session) -> None:
    """Apply the `statement_timeout` of this context, if any, to the session's transaction."""
    if (seconds := _statement_timeout.get()) is not None:
        session.execute(LIMIT_STATEMENTS, {"milliseconds": str(int(seconds * 1000))})


def bind_account(session: Session, account_id: int, role: Role) -> None:
    """Confine the session's transaction to one account by row-level security, with the rights of `role`."""
    session.execute(BIND_ACCOUNT[role], {"account": str(account_id)})


@contextmanager
def account_transaction(account_id: int, role: Role = Role.PAGES) -> Iterator[Session]:
    """A transaction that row-level security confines to one account, whatever its statements say.

    `Role.PAGES` may change what pages change; `Role.READS` changes nothing and sees no secrets.
    """
    with transaction() as session:
        bind_account(session, account_id, role)
        yield session


def database_now(session: Session) -> datetime:
    """The database's clock, which all stored times follow."""
    now: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now


class DatabaseClock:
    """The database's clock, asked from time to time and carried on by this process's monotonic clock.

    Hosts' clocks may differ and jump. It is never ahead of the database's.
    """

    def __init__(self) -> None:
        # One object, so that threads never see half of a change.
        self._answer: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        """The current time; asks the database at most every `MAX_CLOCK_AGE_SECONDS`."""
        answer = self._answer
        if answer is None or time.monotonic() - answer[1] > MAX_CLOCK_AGE_SECONDS:
            with transaction() as session:
                answer = self._answer = (database_now(session), time.monotonic())
        then, asked_at = answer
        return then + timedelta(seconds=time.monotonic() - asked_at)


_clock = DatabaseClock()


def current_time() -> datetime:
    """The current time by the database's clock."""
    return _clock.now()


def server_version(session: Session) -> str:
    """PostgreSQL's version, such as 18.1."""
    version: str = session.execute(text("SHOW server_version")).scalar_one()
    return version.split()[0]


def execute_rowcount(session: Session, statement: TextClause, params: dict[str, Any]) -> int:
    """Execute a statement that changes rows; return how many it changed."""
    return session.connection().execute(statement, params).rowcount


class _BorrowedConnection(AbstractAsyncContextManager[AsyncConnection[TupleRow]]):
    """A connection for the length of a block. Each statement commits by itself, so there is no transaction to end.

    A connection that turns out to lead to a standby is closed, so that the pool opens another.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @override
    async def __aenter__(self) -> AsyncConnection[TupleRow]:
        self._connection = await self._pool.acquire()
        return self._connection

    @override
    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, READ_ONLY_ERROR):
            await self._connection.close()
        await self._pool.release(self._connection)


class Pool(AsyncConnectionPool[AsyncConnection[TupleRow]]):
    """Connections for the web process's hot paths; a caller waits at most 3 s for one. Created unopened.

    `checks_connections` is for callers that do not use `run_with_retry`: each connection is tested before it is lent,
    which costs a round trip.
    """

    def __init__(
        self,
        address: str,
        *,
        size: int,
        statement_seconds: int,
        role: Role | None,
        checks_connections: bool = False,
    ) -> None:
        self._role = role
        self._transaction_settings = _transaction_settings(statement_seconds, role)
        self._borrowed_count = 0
        super().__init__(
            configure=self._set_role if role and self._transaction_settings is None else None,
            check=AsyncConnectionPool.check_connection if checks_connections else None,
            min_size=min(2, size),
            max_size=size,
            timeout=POOL_TIMEOUT_SECONDS,
            reconnect_timeout=RECONNECT_TIMEOUT_SECONDS,
            open=False,
            kwargs={
                "autocommit": True,
                "row_factory": tuple_row,
                **connection_parameters(address, statement_seconds),
            },
        )

    async def _set_role(self, connection: AsyncConnection[TupleRow]) -> None:
        await connection.execute(f"SELECT set_config('role', public.{self._role}(), false)")

    async def acquire(self) -> AsyncConnection[TupleRow]:
        """Take a connection, to be given back with `release`.

        Raises `PoolFullError` if all connections are in use, `PoolTimeout` if none can be opened.
        """
        try:
            connection = await self.getconn()
        except PoolTimeout as error:
            if self._borrowed_count >= self.max_size:
                raise PoolFullError(str(error)) from None
            raise
        self._borrowed_count += 1
        return connection

    async def release(self, connection: AsyncConnection[TupleRow]) -> None:
        """Return a connection that `acquire` gave."""
        self._borrowed_count -= 1
        await self.putconn(connection)

    def borrow(self) -> AbstractAsyncContextManager[AsyncConnection[TupleRow]]:
        """A connection with this pool's role and timeouts; behind a pooler the block is one transaction."""
        if self._transaction_settings is None:
            return _BorrowedConnection(self)
        return self._borrow_through_pooler(self._transaction_settings)

    @asynccontextmanager
    async def _borrow_through_pooler(self, transaction_settings: str) -> AsyncIterator[AsyncConnection[TupleRow]]:
        async with _BorrowedConnection(self) as connection, connection.transaction():
            await connection.execute(transaction_settings)
            yield connection


def create_owner_pool(*, size: int = POOL_SIZE, statement_seconds: int = 4) -> Pool:
    """A pool with the rights of the installation's own role."""
    return Pool(database_url(), size=size, statement_seconds=statement_seconds, role=None)


def describe_failure(error: BaseException, setting: str = "DATABASE_URL") -> str | None:
    """Explain a database error and its remedy in one sentence; None if `error` is not a known database error.

    `setting` is the one that has the address.
    A driver's message is left out where it may contain the address with its password.
    """
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    if isinstance(cause, MISSING_SCHEMA_ERRORS):
        return "The database has no tables of this version: run `patina migrate` first."
    if isinstance(cause, READ_ONLY_ERROR):
        return f"PostgreSQL is read-only: it is a standby, or set to read-only. Check {setting}."
    if isinstance(cause, psycopg.errors.QueryCanceled):
        return "PostgreSQL took too long to answer. Try again in a moment."
    if isinstance(error, (PoolTimeout, exc.TimeoutError)):
        return "No connection to PostgreSQL became free in time. Try again in a moment."
    if isinstance(error, UNAVAILABLE_ERRORS):
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        return f"Can't reach PostgreSQL ({lines[0] if lines else type(cause).__name__}). Check {setting}."
    return None


async def ping(connection: AsyncConnection[TupleRow]) -> bool:
    """Whether the database answers; raises one of `UNAVAILABLE_ERRORS` otherwise."""
    await connection.execute("SELECT 1")
    return True


async def run_with_retry(pool: Pool, work: Callable[[AsyncConnection[TupleRow]], Awaitable[T]]) -> T:
    """Run `work` with a connection of the pool; retry once with a new connection if that one was dead.

    A restarted database leaves its pools full of dead connections. Without the retry each of them would cost a request,
    or a notification that Copper never redelivers. The same holds for a connection to a former primary. `work` must be
    idempotent.
    """
    connection: AsyncConnection[TupleRow] | None = None
    try:
        async with pool.borrow() as connection:
            return await work(connection)
    except (READ_ONLY_ERROR, psycopg.OperationalError, psycopg.InterfaceError):
        if connection is None or not connection.closed:
            raise
    await pool.check()
    async with pool.borrow() as connection:
        return await work(connection)


def dispose_engine() -> None:
    """Close the engines' connections, for instance before a fork, so that no two processes share one."""
    for previous in (engine.clear(), replica_engine.clear()):
        if previous is not None:
            previous.dispose()
