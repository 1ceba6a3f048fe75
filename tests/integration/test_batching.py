"""Batched statements."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

import psycopg
import pytest
from psycopg_pool import PoolTimeout, TooManyRequests

from store.db.batching import MAX_CONCURRENCY, MAX_QUEUE_LENGTH, RequestBatcher
from store.db.database import POOL_SIZE, Pool, create_owner_pool, run_with_retry
from store.db.read_replica import Connection

T = TypeVar("T")
DIVIDE = "SELECT 100 / n FROM unnest(%s::int[]) WITH ORDINALITY AS u(n, place) ORDER BY place"


class Statements:
    """A statement that divides, and the batch of each run."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.runs: list[list[int]] = []

    async def divide(self, connection: Connection, requests: Sequence[int]) -> list[int]:
        """100 divided by each number."""
        self.runs.append(list(requests))
        rows = await (await connection.execute(DIVIDE, (list(requests),))).fetchall()
        return [row[0] for row in rows]


def run_with_batcher(
    work: Callable[[Statements, RequestBatcher[int, int]], Awaitable[T]],
    *,
    max_batch_size: int = 50,
    max_batch_weight: int = 50,
) -> T:
    """Return the result of `work` with a batcher on a pool of its own; the weight of a number is itself."""

    async def run() -> T:
        pool = create_owner_pool()
        statements = Statements(pool)
        await pool.open()
        try:
            return await work(
                statements,
                RequestBatcher(
                    lambda numbers: run_with_retry(pool, lambda connection: statements.divide(connection, numbers)),
                    max_batch_size=max_batch_size,
                    max_batch_weight=max_batch_weight,
                    weight_of=lambda n: n,
                ),
            )
        finally:
            await pool.close()

    return asyncio.run(run())


def test_requests_during_a_statement_share_the_next_one_and_get_their_own_results(database: str) -> None:
    async def work(statements: Statements, batcher: RequestBatcher[int, int]) -> None:
        results = await asyncio.gather(*[batcher.submit(n) for n in range(1, 10)])
        assert results == [100 // n for n in range(1, 10)]
        assert len(statements.runs) <= MAX_CONCURRENCY + 1
        assert sorted(n for run in statements.runs for n in run) == list(range(1, 10))
        assert await batcher.submit(25) == 4, "and after a rest"

    run_with_batcher(work)


def test_an_error_fails_only_its_own_request(database: str) -> None:
    async def work(statements: Statements, batcher: RequestBatcher[int, int]) -> None:
        results = await asyncio.gather(*[batcher.submit(n) for n in (1, 2, 0, 4, 5)], return_exceptions=True)
        assert isinstance(results[2], psycopg.errors.DivisionByZero)
        assert [results[index] for index in (0, 1, 3, 4)] == [100, 50, 25, 20]
        assert await batcher.submit(10) == 10, "it goes on"

    run_with_batcher(work)


@pytest.mark.parametrize(("max_batch_size", "max_batch_weight"), [(2, 1_000), (1_000, 10)])
def test_a_statement_has_a_bounded_weight_and_at_least_one_request(
    database: str, max_batch_size: int, max_batch_weight: int
) -> None:
    async def work(statements: Statements, batcher: RequestBatcher[int, int]) -> None:
        requests = [5, 5, 50, 1, 2, 3, 4]
        assert await asyncio.gather(*[batcher.submit(n) for n in requests]) == [100 // n for n in requests]
        assert max(len(run) for run in statements.runs) <= max_batch_size
        assert all(sum(run) <= max_batch_weight for run in statements.runs if len(run) > 1)

    run_with_batcher(work, max_batch_size=max_batch_size, max_batch_weight=max_batch_weight)


def test_without_a_connection_all_waiting_requests_fail_at_once(database: str) -> None:
    async def work(statements: Statements, batcher: RequestBatcher[int, int]) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(POOL_SIZE):
                await stack.enter_async_context(statements.pool.borrow())
            started = time.monotonic()
            results = await asyncio.gather(*[batcher.submit(n) for n in range(1, 10)], return_exceptions=True)
            assert all(isinstance(result, PoolTimeout) for result in results)
            assert time.monotonic() - started < 2 * statements.pool.timeout
        assert await batcher.submit(4) == 25, "and it goes on when there is one"

    run_with_batcher(work, max_batch_size=1)


def test_the_queue_is_bounded(database: str) -> None:
    async def work(statements: Statements, batcher: RequestBatcher[int, int]) -> None:
        tasks = [asyncio.create_task(batcher.submit(1)) for _ in range(MAX_QUEUE_LENGTH + 1)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[-1], TooManyRequests)
        assert results[:-1] == [100] * MAX_QUEUE_LENGTH

    run_with_batcher(work)


def test_a_cancelled_request_does_not_affect_the_others(database: str) -> None:
    async def work(statements: Statements, batcher: RequestBatcher[int, int]) -> None:
        tasks = [asyncio.create_task(batcher.submit(n)) for n in (1, 2, 4)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        assert (await tasks[0], await tasks[2]) == (100, 25)
        assert tasks[1].cancelled()

    run_with_batcher(work)
