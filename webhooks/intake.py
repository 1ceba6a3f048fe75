"""Xero's deliveries on their way into the inbox: those that come together are committed by one statement.

Each is answered after the commit that holds it. A commit's cost is shared by whoever waits for it, so that a flood of
single events costs the database little more than one of hundreds. Workers are woken after it, by one thread, as often
as it gets round to it: a wake-up missed is sent again, and the sweep finds what waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import structlog

from store import inbox
from store.database import UNAVAILABLE, Pool, using
from store.inbox import Accepted, Delivery, Source

log = structlog.get_logger()
# Two statements at a time: what comes while both are on their way goes together in the next.
AT_ONCE = 2
DELIVERIES, EVENTS = 64, 2_000
Waiting = tuple[Delivery, "asyncio.Future[None]"]


class Intake:
    """Commits deliveries; one for each web process."""

    def __init__(self, pool: Pool, wake: Callable[[Source], object], count: Callable[[Accepted], None]) -> None:
        self._pool, self._wake, self._count = pool, wake, count
        self._waiting: deque[Waiting] = deque()
        self._to_wake: set[Source] = set()
        self._committing: set[asyncio.Task[None]] = set()
        self._waking: asyncio.Task[None] | None = None

    async def accept(self, delivery: Delivery) -> None:
        """Return when the delivery is committed; raises what the database raised, one of `UNAVAILABLE` when it is
        away."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((delivery, done))
        # Not their number: one that has just found nothing more to do is there until the loop's next round.
        if sum(not task.done() for task in self._committing) < AT_ONCE:
            task = asyncio.create_task(self._commit())
            self._committing.add(task)
            task.add_done_callback(self._committing.discard)
        await done

    def wake(self, sources: Iterable[Source]) -> None:
        """Have sources drained soon; never waited for."""
        self._to_wake.update(sources)
        if self._to_wake and (self._waking is None or self._waking.done()):
            self._waking = asyncio.create_task(self._wake_all())

    async def close(self) -> None:
        """Let the last wake-ups go out."""
        if self._waking is not None:
            await self._waking

    async def _commit(self) -> None:
        while some := self._next():
            try:
                await self._keep([delivery for delivery, _ in some])
            except Exception as error:
                if len(some) == 1 or isinstance(error, UNAVAILABLE):
                    _settle(some, error)
                    continue
                await self._one_by_one(some)
            else:
                _settle(some, None)

    async def _one_by_one(self, some: Sequence[Waiting]) -> None:
        """What one delivery is refused for is its own."""
        for one in some:
            try:
                await self._keep([one[0]])
            except Exception as error:
                _settle([one], error)
            else:
                _settle([one], None)

    def _next(self) -> list[Waiting]:
        """The next deliveries, as many as a statement may hold: one at least, if any waits."""
        some: list[Waiting] = []
        events = 0
        while self._waiting and len(some) < DELIVERIES:
            events += len(self._waiting[0][0].events)
            if some and events > EVENTS:
                break
            some.append(self._waiting.popleft())
        return some

    async def _keep(self, deliveries: Sequence[Delivery]) -> None:
        done = await using(self._pool, lambda connection: inbox.accept_xero(connection, deliveries))
        self._count(done)
        self.wake(done.sources)

    async def _wake_all(self) -> None:
        while self._to_wake:
            sources, self._to_wake = self._to_wake, set()
            with suppress(RuntimeError):  # the loop's threads are gone: the process ends
                await asyncio.to_thread(self._wake_each, sources)

    def _wake_each(self, sources: Iterable[Source]) -> None:
        for source in sources:
            self._wake(source)


def _settle(some: Iterable[Waiting], error: Exception | None) -> None:
    for _, done in some:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
