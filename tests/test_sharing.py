"""Statements that several share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

import psycopg
import pytest
from psycopg_pool import PoolTimeout, TooManyRequests

from store.database import POOL, Pool, async_pool
from store.sharing import AT_ONCE, LONGEST, Connection, Shared

T = TypeVar("T")
HUNDRED_BY = "SELECT 100 / n FROM unnest(%s::int[]) WITH ORDINALITY AS u(n, place) ORDER BY place"


class Statements:
    """A statement that divides, and what each of its runs was asked."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.runs: list[list[int]] = []

    async def divide(self, connection: Connection, asked: Sequence[int]) -> list[int]:
        """100 by each."""
        self.runs.append(list(asked))
        rows = await (await connection.execute(HUNDRED_BY, (list(asked),))).fetchall()
        return [row[0] for row in rows]


def shared(work: Callable[[Statements, Shared[int, int]], Awaitable[T]], *, most: int = 50, heaviest: int = 50) -> T:
    """What `work` gives with statements on a pool of its own; the weight of a number is itself."""

    async def run() -> T:
        pool = async_pool()
        statements = Statements(pool)
        await pool.open()
        try:
            return await work(
                statements, Shared(pool, statements.divide, most=most, heaviest=heaviest, weigh=lambda n: n)
            )
        finally:
            await pool.close()

    return asyncio.run(run())


def test_who_comes_while_others_are_on_their_way_goes_together_and_gets_their_own_answer(database: str) -> None:
    async def work(statements: Statements, division: Shared[int, int]) -> None:
        answers = await asyncio.gather(*[division.ask(n) for n in range(1, 10)])
        assert answers == [100 // n for n in range(1, 10)]
        assert len(statements.runs) <= AT_ONCE + 1
        assert sorted(n for run in statements.runs for n in run) == list(range(1, 10))
        assert await division.ask(25) == 4, "and after a rest"

    shared(work)


def test_what_one_is_refused_for_is_its_own(database: str) -> None:
    async def work(statements: Statements, division: Shared[int, int]) -> None:
        answers = await asyncio.gather(*[division.ask(n) for n in (1, 2, 0, 4, 5)], return_exceptions=True)
        assert isinstance(answers[2], psycopg.errors.DivisionByZero)
        assert [answers[place] for place in (0, 1, 3, 4)] == [100, 50, 25, 20]
        assert await division.ask(10) == 10, "it goes on"

    shared(work)


@pytest.mark.parametrize(("most", "heaviest"), [(2, 1_000), (1_000, 10)])
def test_a_statement_holds_so_much_and_no_more_but_always_one(database: str, most: int, heaviest: int) -> None:
    async def work(statements: Statements, division: Shared[int, int]) -> None:
        asked = [5, 5, 50, 1, 2, 3, 4]
        assert await asyncio.gather(*[division.ask(n) for n in asked]) == [100 // n for n in asked]
        assert max(len(run) for run in statements.runs) <= most
        assert all(sum(run) <= heaviest for run in statements.runs if len(run) > 1)

    shared(work, most=most, heaviest=heaviest)


def test_when_there_is_no_connection_nobody_waits_for_the_next_try(database: str) -> None:
    async def work(statements: Statements, division: Shared[int, int]) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(POOL):
                await stack.enter_async_context(statements.pool.lend())
            began = time.monotonic()
            answers = await asyncio.gather(*[division.ask(n) for n in range(1, 10)], return_exceptions=True)
            assert all(isinstance(one, PoolTimeout) for one in answers)
            assert time.monotonic() - began < 2 * statements.pool.timeout
        assert await division.ask(4) == 25, "and it goes on when there is one"

    shared(work, most=1)


def test_the_queue_is_bounded(database: str) -> None:
    async def work(statements: Statements, division: Shared[int, int]) -> None:
        asking = [asyncio.create_task(division.ask(1)) for _ in range(LONGEST + 1)]
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(answers[-1], TooManyRequests)
        assert answers[:-1] == [100] * LONGEST

    shared(work)


def test_a_caller_who_gives_up_takes_nothing_from_the_others(database: str) -> None:
    async def work(statements: Statements, division: Shared[int, int]) -> None:
        asking = [asyncio.create_task(division.ask(n)) for n in (1, 2, 4)]
        await asyncio.sleep(0)
        asking[1].cancel()
        assert (await asking[0], await asking[2]) == (100, 25)
        assert asking[1].cancelled()

    shared(work)
