"""Xero's deliveries on their way into the inbox: deliveries that arrive together are committed by one statement.

Each delivery is answered after its commit. The deliveries of a batch share the cost of the commit, so a flood of single
events costs the database little more than one delivery of hundreds. One thread wakes the workers after the commit. A
lost wake-up is harmless: the next event sends another one, and the sweep finds pending events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from store.db.batching import RequestBatcher
from store.db.database import Pool, run_with_retry
from store.db.read_replica import Connection
from store.ingest import inbox
from store.ingest.inbox import Delivery, IngestResult, SyncSource

MAX_BATCH_DELIVERIES, MAX_BATCH_EVENTS = 64, 400
# In a flood of single events, a round trip to Redis for every commit would cost an eighth of the process's time.
WAKE_PAUSE_SECONDS = 0.01


class Intake:
    """Commits deliveries; one object per web process."""

    def __init__(self, pool: Pool, wake: Callable[[SyncSource], object], count: Callable[[IngestResult], None]) -> None:
        self._wake, self._count = wake, count
        self._batcher: RequestBatcher[Delivery, None] = RequestBatcher(
            lambda deliveries: run_with_retry(pool, lambda connection: self._commit(connection, deliveries)),
            max_batch_size=MAX_BATCH_DELIVERIES,
            max_batch_weight=MAX_BATCH_EVENTS,
            weight_of=lambda delivery: delivery.size,
        )
        self._sources_to_wake: set[SyncSource] = set()
        self._wake_task: asyncio.Task[None] | None = None

    async def accept(self, delivery: Delivery) -> None:
        """Commit the delivery; raises the database's error, one of `UNAVAILABLE_ERRORS` if it is unavailable."""
        await self._batcher.submit(delivery)

    def wake(self, sources: Iterable[SyncSource]) -> None:
        """Enqueue the draining of sources, without waiting for Redis: at once, or after a pause since the last time."""
        self._sources_to_wake.update(sources)
        if self._sources_to_wake and (self._wake_task is None or self._wake_task.done()):
            self._wake_task = asyncio.create_task(self._wake_all())

    async def close(self) -> None:
        """Wait for the last wake-ups."""
        if self._wake_task is not None:
            await self._wake_task

    async def _commit(self, connection: Connection, deliveries: Sequence[Delivery]) -> list[None]:
        result = await inbox.accept_xero(connection, deliveries)
        self._count(result)
        self.wake(result.sources)
        return [None] * len(deliveries)

    async def _wake_all(self) -> None:
        while self._sources_to_wake:
            sources, self._sources_to_wake = self._sources_to_wake, set()
            with suppress(RuntimeError):  # the event loop has no threads any more: the process exits
                await asyncio.to_thread(self._wake_each, sources)
            await asyncio.sleep(WAKE_PAUSE_SECONDS)

    def _wake_each(self, sources: Iterable[SyncSource]) -> None:
        for source in sources:
            self._wake(source)
