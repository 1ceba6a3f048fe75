"""Statements that are shared: what is asked for while others are on their way goes together in the next.

A statement's way to the database and back costs a web process more than what it says. Nobody waits for company: who
comes while fewer than `AT_ONCE` are on their way starts the next at once, alone. At most `LONGEST` wait, and when the
database gives no connection in time nobody waits for the next try.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import PoolTimeout, TooManyRequests

from store.database import UNAVAILABLE, Pool, using

AT_ONCE = 2
LONGEST = 1_000
Connection = AsyncConnection[TupleRow]
Q = TypeVar("Q")
A = TypeVar("A")


class Shared(Generic[Q, A]):
    """One kind of statement of one web process; bounded by how much of `weigh` a statement may hold."""

    def __init__(
        self,
        pool: Pool,
        work: Callable[[Connection, Sequence[Q]], Awaitable[Sequence[A]]],
        *,
        most: int,
        heaviest: int | None = None,
        weigh: Callable[[Q], int] = lambda _: 1,
    ) -> None:
        """`work` runs the statement for some, and gives each one's answer in their order; it must bear to be done
        twice (`store.database.using`). A statement holds at most `most`, and unless it is a single one at most
        `heaviest` by `weigh`."""
        self._pool, self._work, self._most, self._weigh = pool, work, most, weigh
        self._heaviest = most if heaviest is None else heaviest
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = 0

    async def ask(self, one: Q) -> A:
        """Its answer; raises what the database raised, one of `UNAVAILABLE` when it is away."""
        if len(self._waiting) >= LONGEST:
            raise TooManyRequests(f"{LONGEST} wait for the database already")
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((one, answer))
        if self._running < AT_ONCE:
            self._running += 1
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _run(self) -> None:
        try:
            while some := self._next():
                if not await self._answer(some):
                    for one in some:
                        await self._answer([one])
        finally:
            # Here and not when the task is done: nothing may come between finding nothing more to do and this.
            self._running -= 1

    def _next(self) -> list[tuple[Q, asyncio.Future[A]]]:
        """The next ones, as many as a statement may hold: one at least, if any waits."""
        some: list[tuple[Q, asyncio.Future[A]]] = []
        weight = 0
        while self._waiting and len(some) < self._most:
            weight += self._weigh(self._waiting[0][0])
            if some and weight > self._heaviest:
                break
            some.append(self._waiting.popleft())
        return some

    async def _answer(self, some: Sequence[tuple[Q, asyncio.Future[A]]]) -> bool:
        """Settle them all by one statement; False when one of several may be what it was refused for."""
        asked = [one for one, _ in some]
        try:
            answers = await using(self._pool, lambda connection: self._work(connection, asked))
        except Exception as error:
            if len(some) > 1 and not isinstance(error, UNAVAILABLE):
                return False
            if isinstance(error, PoolTimeout):
                some = [*some, *self._waiting]
                self._waiting.clear()
            for _, waiting in some:
                if not waiting.done():
                    waiting.set_exception(error)
            return True
        for (_, waiting), answer in zip(some, answers, strict=True):
            if not waiting.done():
                waiting.set_result(answer)
        return True
