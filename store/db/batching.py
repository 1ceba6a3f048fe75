"""Batching of statements: requests that arrive while others are running go together in the next statement.

For a web process, the round trip to the database costs more than the statement itself. No request waits for a batch
to fill: while fewer than `MAX_CONCURRENCY` statements are running, a request starts the next one at once, alone. At
most `MAX_QUEUE_LENGTH` requests wait. If no connection becomes free in time, all of them fail instead of waiting
for another attempt.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from psycopg_pool import PoolTimeout, TooManyRequests

from store.db.database import UNAVAILABLE_ERRORS

MAX_CONCURRENCY = 2
MAX_QUEUE_LENGTH = 1_000
RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


class RequestBatcher(Generic[RequestT, ResultT]):
    """Batches the requests of one process that are answered by the same statement."""

    def __init__(
        self,
        execute: Callable[[Sequence[RequestT]], Awaitable[Sequence[ResultT]]],
        *,
        max_batch_size: int,
        max_batch_weight: int | None = None,
        weight_of: Callable[[RequestT], int] = lambda _: 1,
    ) -> None:
        """`execute` runs the statement for a batch and returns the results in the batch's order. It must be idempotent.
        A batch holds at most `max_batch_size` requests, and unless it is a single request, at most `max_batch_weight`
        by `weight_of`."""
        self._execute, self._max_batch_size, self._weight_of = execute, max_batch_size, weight_of
        self._max_batch_weight = max_batch_size if max_batch_weight is None else max_batch_weight
        self._queue: deque[tuple[RequestT, asyncio.Future[ResultT]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = 0

    async def submit(self, request: RequestT) -> ResultT:
        """Return the request's result.

        Raises what the database raised for it, which is one of `UNAVAILABLE_ERRORS` if the database is unavailable.
        """
        if len(self._queue) >= MAX_QUEUE_LENGTH:
            raise TooManyRequests(f"{MAX_QUEUE_LENGTH} requests are already waiting for the database")
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._queue.append((request, future))
        if self._running < MAX_CONCURRENCY:
            self._running += 1
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _run(self) -> None:
        try:
            while batch := self._next_batch():
                if not await self._run_batch(batch):
                    for entry in batch:
                        await self._run_batch([entry])
        finally:
            # In the task and not in its callback: no request may arrive between the last look at the queue and this.
            self._running -= 1

    def _next_batch(self) -> list[tuple[RequestT, asyncio.Future[ResultT]]]:
        """Remove the next batch from the queue: as much as a statement may hold, and at least one request if any."""
        batch: list[tuple[RequestT, asyncio.Future[ResultT]]] = []
        weight = 0
        while self._queue and len(batch) < self._max_batch_size:
            weight += self._weight_of(self._queue[0][0])
            if batch and weight > self._max_batch_weight:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _run_batch(self, batch: Sequence[tuple[RequestT, asyncio.Future[ResultT]]]) -> bool:
        """Settle a batch by one statement; False, with nothing settled, if one request may have failed the others."""
        requests = [request for request, _ in batch]
        try:
            results = await self._execute(requests)
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, UNAVAILABLE_ERRORS):
                return False
            if isinstance(error, PoolTimeout):
                batch = [*batch, *self._queue]
                self._queue.clear()
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return True
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
        return True
