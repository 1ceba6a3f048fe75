"""Reads from a standby (READ_DATABASE_URL), as long as it lags behind the primary by READ_MAX_LAG_SECONDS at most.

The web process watches how far the standby has come: every half a second it notes the primary's position in the
write-ahead log, and looks which of the noted positions the standby has reached. This holds in idle times as well, and
needs no clock of another host. While one of the two servers is away, the other one serves the reads: then rows may be
older than the limit, and `synced_at` shows it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from sqlalchemy import Engine, text

from runtime import metrics
from runtime.process_values import once_per_process
from runtime.service_urls import database_url
from runtime.settings import settings
from store.db.database import (
    POOL_SIZE,
    UNAVAILABLE_ERRORS,
    ConnectionLostError,
    Pool,
    PoolFullError,
    Role,
    Session,
    bind_account,
    connection_parameters,
    engine,
    limit_statements,
    replica_engine,
    run_with_retry,
    transaction,
)

log = structlog.get_logger()
PROBE_SECONDS = 0.5
PROBE_TIMEOUT_SECONDS = 2
# A server that has not answered for this long is away.
AWAY_SECONDS = 1.5
# Notes reach back an hour, the longest lag that may be allowed.
MAX_NOTES = 7_200
# After a promotion the standby is the primary, and has its own position.
POSITION = """
    SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn
"""
REPLICA_POSITION = text("""
    SELECT pg_is_in_recovery(),
           EXISTS (SELECT FROM pg_stat_wal_receiver WHERE pid IS NOT NULL),
           CAST(:primary AS pg_lsn) - coalesce(pg_last_wal_replay_lsn(), '0/0')
""")
# These are the statement's own fault, or that of too many callers: another server would not help.
NOT_THE_SERVERS_FAULT = (PoolFullError, psycopg.errors.QueryCanceled)
RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")
Connection = AsyncConnection[TupleRow]


@dataclass(frozen=True)
class ReplicaPosition:
    """How the server of READ_DATABASE_URL stands: a standby or not, whether it receives changes, by how much it lags.

    `bytes_behind` counts bytes of the write-ahead log.
    """

    is_standby: bool
    is_receiving: bool
    bytes_behind: int


def replica_position() -> ReplicaPosition:
    """Ask the primary and the server of READ_DATABASE_URL; raises one of `UNAVAILABLE_ERRORS`."""
    with transaction() as session:
        primary = session.execute(text("SELECT CAST(pg_current_wal_lsn() AS text)")).scalar_one()
    with Session(replica_engine()) as session:
        is_standby, is_receiving, behind = session.execute(REPLICA_POSITION, {"primary": primary}).one()
    return ReplicaPosition(is_standby, is_receiving, max(int(behind), 0))


class ReplicaLag:
    """What this process knows about the standby: until it is watched, the primary serves all reads.

    Times are those of this process's monotonic clock.
    """

    def __init__(self) -> None:
        self._primary_seen_at = self._replica_seen_at = self._caught_up_at = float("-inf")
        self._notes: deque[tuple[float, int]] = deque(maxlen=MAX_NOTES)

    def note_primary(self, position: int, asked_at: float) -> None:
        """The primary had reached `position` when it was asked."""
        self._primary_seen_at = time.monotonic()
        self._notes.append((asked_at, position))

    def note_replica(self, position: int) -> None:
        """The standby has reached `position`."""
        self._replica_seen_at = time.monotonic()
        while self._notes and self._notes[0][1] <= position:
            self._caught_up_at, _ = self._notes.popleft()

    @property
    def seconds(self) -> float:
        """By how many seconds the standby lags behind at most; infinite as long as nothing is known."""
        return max(time.monotonic() - self._caught_up_at - PROBE_SECONDS, 0.0)

    def has_replayed(self, moment: float) -> bool:
        """Whether the standby shows everything that was committed before a moment."""
        return self._caught_up_at >= moment

    @property
    def is_replica_away(self) -> bool:
        """Whether the standby has not answered for a while, or never."""
        return time.monotonic() - self._replica_seen_at > AWAY_SECONDS

    @property
    def is_primary_away(self) -> bool:
        """Whether the primary has not answered for a while."""
        return time.monotonic() - self._primary_seen_at > AWAY_SECONDS

    @property
    def prefers_replica(self) -> bool:
        """Whether reads go to the standby first."""
        if self.is_replica_away:
            return False
        return self.is_primary_away or self.seconds <= settings().read_max_lag_seconds


@once_per_process
def replica_lag() -> ReplicaLag:
    """The lag of the standby as this process knows it."""
    return ReplicaLag()


async def watch() -> None:
    """Watch the lag of the standby until cancelled; returns at once without READ_DATABASE_URL."""
    address, lag = settings().read_database_url, replica_lag()
    if not address:
        return
    metrics.READ_REPLICA_LAG.set_function(lambda: lag.seconds)
    await asyncio.gather(
        _ask_repeatedly(database_url(), lag.note_primary),
        _ask_repeatedly(address, lambda position, _: lag.note_replica(position)),
    )


async def _ask_repeatedly(address: str, note: Callable[[int, float], None]) -> None:
    """Ask a server for its position every half a second, on a connection of its own."""
    parameters = connection_parameters(address, PROBE_TIMEOUT_SECONDS)
    connection: Connection | None = None
    while True:
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                if connection is None:
                    connection = await AsyncConnection.connect(**parameters, autocommit=True)
                row = await (await connection.execute(POSITION)).fetchone()
            if row is not None and row[0] is not None:
                note(int(row[0]), asked_at)
        except (psycopg.Error, TimeoutError, OSError) as error:
            log.info("replica.not_measured", error=type(error).__name__)
            if connection is not None:
                await connection.close()
            connection = None
        await asyncio.sleep(PROBE_SECONDS)


class ReadPools:
    """The connections for reads: to the primary, and to the standby if there is one."""

    def __init__(self, primary: Pool, replica: Pool | None) -> None:
        self._primary, self._replica = primary, replica

    @property
    def pools(self) -> tuple[Pool, ...]:
        """All pools, to be opened and closed."""
        return (self._primary,) if self._replica is None else (self._primary, self._replica)

    def in_order(self) -> tuple[Pool, ...]:
        """The pools in the order in which a read tries them."""
        if self._replica is None:
            return (self._primary,)
        pools = (self._replica, self._primary)
        return pools if replica_lag().prefers_replica else pools[::-1]

    async def read(
        self,
        work: Callable[[Connection, Sequence[RequestT]], Awaitable[Sequence[ResultT | None]]],
        requests: Sequence[RequestT],
    ) -> list[ResultT | None]:
        """Run `work`, which must be idempotent, for a batch of requests, on the second server if the first is away.

        A result is None for something unknown, such as a key. A standby may not know it yet, so the primary is asked.
        Raises the error of the last server, one of `UNAVAILABLE_ERRORS` if it is unavailable.
        """
        order = self.in_order()

        async def run(pool: Pool) -> tuple[Pool, list[ResultT | None]]:
            return pool, list(await run_with_retry(pool, lambda connection: work(connection, requests)))

        pool, results = await _on_available(order, run)
        if pool is order[0] and pool is self._replica and not replica_lag().is_primary_away:
            await self._complete(work, requests, results)
        return results

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Connection]:
        """A connection to the server that is to serve reads now, or to the second one if that cannot be reached."""
        async with AsyncExitStack() as stack:
            yield await _on_available(self.in_order(), lambda pool: stack.enter_async_context(pool.borrow()))

    async def _complete(
        self,
        work: Callable[[Connection, Sequence[RequestT]], Awaitable[Sequence[ResultT | None]]],
        requests: Sequence[RequestT],
        results: list[ResultT | None],
    ) -> None:
        """Ask the primary for what the standby did not know."""
        unknown = [index for index, result in enumerate(results) if result is None]
        if not unknown:
            return
        missing = [requests[index] for index in unknown]
        try:
            answers = await run_with_retry(self._primary, lambda connection: work(connection, missing))
        except UNAVAILABLE_ERRORS:
            return
        for index, answer in zip(unknown, answers, strict=True):
            results[index] = answer


async def _on_available(pools: Sequence[Pool], action: Callable[[Pool], Awaitable[ResultT]]) -> ResultT:
    """The result of `action` with the first pool, or with the second one if the first one's server is unavailable."""
    first, *others = pools
    try:
        return await action(first)
    except UNAVAILABLE_ERRORS as error:
        if not others or isinstance(error, NOT_THE_SERVERS_FAULT):
            raise
        return await action(others[0])


def create_read_pools(
    *,
    role: Role | None,
    size: int = POOL_SIZE,
    statement_seconds: int = 4,
    checks_connections: bool = False,
) -> ReadPools:
    """Pools for reads, not yet opened. With `Role.READS` a connection sees no rows until it is bound to an account.

    `role` None means the rights of the installation's own role.
    """

    def create(address: str) -> Pool:
        return Pool(
            address,
            size=size,
            statement_seconds=statement_seconds,
            role=role,
            checks_connections=checks_connections,
        )

    address = settings().read_database_url
    return ReadPools(create(database_url()), create(address) if address else None)


@contextmanager
def read_transaction(account_id: int | None = None) -> Iterator[Session]:
    """A read-only transaction on the standby or the primary, whichever is to serve reads now.

    With an account, row-level security confines it to that account, and it sees no secrets. The second server is tried
    if the first cannot be reached when the transaction begins.
    """
    with ExitStack() as stack:
        yield _begin(stack, account_id)


def _begin(stack: ExitStack, account_id: int | None) -> Session:
    first, *others = _engines_in_order()
    try:
        return _begin_on(first, stack, account_id)
    except ConnectionLostError:
        if not others:
            raise
        log.info("read.redirected")
        return _begin_on(others[0], stack, account_id)


def _engines_in_order() -> tuple[Engine, ...]:
    replica = replica_engine()
    if replica is None:
        return (engine(),)
    return (replica, engine()) if replica_lag().prefers_replica else (engine(), replica)


def _begin_on(server: Engine, stack: ExitStack, account_id: int | None) -> Session:
    with ExitStack() as attempt:
        session = attempt.enter_context(Session(server, expire_on_commit=False))
        attempt.enter_context(session.begin())
        session.connection()
        limit_statements(session)
        if account_id is not None:
            bind_account(session, account_id, Role.READS)
        stack.push(attempt.pop_all())
    return session
