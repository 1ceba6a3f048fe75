"""Xero's deliveries on their way into the inbox: those that come together are committed by one statement.

Each is answered after the commit that holds it. A commit's cost is shared by whoever waits for it, so that a flood of
single events costs the database little more than one of hundreds. Workers are woken after it, by one thread, as often
as it gets round to it: a wake-up missed is sent again, and the sweep finds what waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from store import inbox
from store.database import Pool
from store.inbox import Accepted, Delivery, Source
from store.sharing import Connection, Shared

DELIVERIES, EVENTS = 64, 400


class Intake:
    """Commits deliveries; one for each web process."""

    def __init__(self, pool: Pool, wake: Callable[[Source], object], count: Callable[[Accepted], None]) -> None:
        self._wake, self._count = wake, count
        self._commits: Shared[Delivery, None] = Shared(
            pool, self._keep, most=DELIVERIES, heaviest=EVENTS, weigh=lambda delivery: delivery.size
        )
        self._to_wake: set[Source] = set()
        self._waking: asyncio.Task[None] | None = None

    async def accept(self, delivery: Delivery) -> None:
        """Return when the delivery is committed; raises what the database raised, one of `UNAVAILABLE` when it is
        away."""
        await self._commits.ask(delivery)

    def wake(self, sources: Iterable[Source]) -> None:
        """Have sources drained soon; never waited for."""
        self._to_wake.update(sources)
        if self._to_wake and (self._waking is None or self._waking.done()):
            self._waking = asyncio.create_task(self._wake_all())

    async def close(self) -> None:
        """Let the last wake-ups go out."""
        if self._waking is not None:
            await self._waking

    async def _keep(self, connection: Connection, deliveries: Sequence[Delivery]) -> list[None]:
        done = await inbox.accept_xero(connection, deliveries)
        self._count(done)
        self.wake(done.sources)
        return [None] * len(deliveries)

    async def _wake_all(self) -> None:
        while self._to_wake:
            sources, self._to_wake = self._to_wake, set()
            with suppress(RuntimeError):  # the loop's threads are gone: the process ends
                await asyncio.to_thread(self._wake_each, sources)

    def _wake_each(self, sources: Iterable[Source]) -> None:
        for source in sources:
            self._wake(source)
