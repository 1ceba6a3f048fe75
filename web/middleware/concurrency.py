"""Concurrency limits: how many requests a process runs at once, and how many of them for one account.

A request beyond a limit waits briefly, which costs only its connection. Then it is refused as "busy", with a
Retry-After. So one account's requests never use up the threads and connections that others need.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from store.read_model.exports import MAX_EXPORTS
from web.middleware.refusals import RefusalReason
from web.presentation.problems import ProblemError

__all__ = ["BusyError", "Capacity", "FairLimiter", "Tarpit"]
P = ParamSpec("P")
T = TypeVar("T")
# The key of all requests without an account. If its slots are used up, it is not the fault of the refused client.
NO_ACCOUNT = 0
# More requests than a browser opens. Waiting costs little, and slows down clients that repeat refused requests at once.
MAX_QUEUE = 64
MAX_COOLDOWN_SECONDS = 5.0
MAX_DELAYED = 2_000
MAX_RELEASES_PER_SECOND = 100
EXPORT_RUNNING = "Patina is busy with another export of your account. One runs at a time."


class BusyError(ProblemError):
    """There is no capacity for a request at the moment; `retry_after` in seconds.

    429 if the caller's own account uses up its share, 503 if all accounts together use up the total.
    """

    def __init__(self, *, own_share: bool, retry_after: int, detail: str = "") -> None:
        cause = "Your account has too many requests in progress." if own_share else "Too many requests are in progress."
        message = detail or f"Patina is busy. {cause}"
        super().__init__(
            429 if own_share else 503,
            f"{message} Try again in {_seconds(retry_after)}.",
            retry_after=retry_after,
            reason=RefusalReason.RATE if own_share else RefusalReason.BUSY,
        )


def _seconds(count: int) -> str:
    return "1 second" if count == 1 else f"{count} seconds"


class Tarpit:
    """Delays refusals, which costs next to nothing, to slow down clients that repeat refused requests at once.

    Delays end one after the other, at most `MAX_RELEASES_PER_SECOND`. If clients that were refused together also
    returned together, the event loop would be busy with them alone for as long as they are many.
    """

    def __init__(self) -> None:
        self._count = 0
        self._last_release = 0.0
        self._closed = asyncio.Event()

    async def delay(self, seconds: float) -> None:
        """Wait for at least 50 to 100 % of `seconds`; not at all if too many requests wait."""
        if self._count >= MAX_DELAYED:
            return
        now = asyncio.get_running_loop().time()
        earliest = self._last_release + 1 / MAX_RELEASES_PER_SECOND
        self._last_release = max(now + seconds * random.uniform(0.5, 1), earliest)
        self._count += 1
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), self._last_release - now)
        finally:
            self._count -= 1

    def close(self) -> None:
        """End all delays, and delay nothing from now on."""
        self._closed.set()


class FairLimiter:
    """Slots for one type of work in this process, fairly shared between keys (usually accounts).

    A key uses at most `per_key` of `total` slots. While other requests of the same key wait, a slot cools down after
    its work for as long as the work took. So a key with an endless stream of requests uses its slots for half of the
    time, and leaves the processor to others for the rest.
    """

    def __init__(
        self,
        *,
        total: int,
        per_key: int,
        max_wait: float,
        retry_after: int,
        max_queue: int = MAX_QUEUE,
        detail: str = "",
    ) -> None:
        """A request without a slot is refused after `max_wait` seconds, or at once if `max_queue` of its key wait."""
        self._total, self._per_key = total, per_key
        self._max_wait, self._max_queue = max_wait, max_queue
        self._retry_after, self._detail = retry_after, detail
        self._running = 0
        self._in_use: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        self._threads = CapacityLimiter(total)

    async def run(self, key: Hashable, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `work`, run in one of this limiter's own threads; raises `BusyError` if no slot is free."""
        async with self.slot(key):
            return await self.run_in_thread(work, *args, **kwargs)

    async def run_in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for a caller that already holds a slot."""
        return await anyio.to_thread.run_sync(lambda: work(*args, **kwargs), limiter=self._threads)

    @asynccontextmanager
    async def slot(self, key: Hashable) -> AsyncIterator[None]:
        """Hold one of the key's slots; raises `BusyError` if none becomes free in time."""
        await self._acquire(key)
        started_at = time.monotonic()
        try:
            yield
        finally:
            self._running -= 1
            cooldown = min(time.monotonic() - started_at, MAX_COOLDOWN_SECONDS) if key in self._waiting else 0.0
            if cooldown:
                asyncio.get_running_loop().call_later(cooldown, self._release, key)
            else:
                self._release(key)
            self._admit()

    async def _acquire(self, key: Hashable) -> None:
        if key not in self._waiting and self._has_free_slot(key):
            self._occupy(key)
            return
        queue = self._waiting.setdefault(key, deque())
        if len(queue) >= self._max_queue:
            raise self._busy(key)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(waiter)
        try:
            await asyncio.wait([waiter], timeout=self._max_wait)
        except asyncio.CancelledError:
            if not waiter.cancel():
                self._running -= 1
                self._release(key)
                self._admit()
            raise
        finally:
            self._leave_queue(key, waiter)
        if not waiter.done():
            waiter.cancel()
            raise self._busy(key)

    def _leave_queue(self, key: Hashable, waiter: asyncio.Future[None]) -> None:
        queue = self._waiting.get(key)
        if queue is not None:
            if waiter in queue:
                queue.remove(waiter)
            if not queue:
                del self._waiting[key]

    def _has_free_slot(self, key: Hashable) -> bool:
        return self._running < self._total and self._in_use.get(key, 0) < self._per_key

    def _occupy(self, key: Hashable) -> None:
        self._running += 1
        self._in_use[key] = self._in_use.get(key, 0) + 1

    def _release(self, key: Hashable) -> None:
        self._in_use[key] -= 1
        if not self._in_use[key]:
            del self._in_use[key]
        self._admit()

    def _admit(self) -> None:
        """Give free slots to waiting requests: first to the key that uses the fewest."""
        while waiting_keys := [key for key in self._waiting if self._has_free_slot(key)]:
            key = min(waiting_keys, key=lambda candidate: self._in_use.get(candidate, 0))
            # The key goes to the end of the order: round robin between keys that use the same number of slots.
            queue = self._waiting.pop(key)
            waiter = queue.popleft()
            if queue:
                self._waiting[key] = queue
            if not waiter.done():
                self._occupy(key)
                waiter.set_result(None)

    def _busy(self, key: Hashable) -> BusyError:
        is_own_share = key != NO_ACCOUNT and self._in_use.get(key, 0) >= self._per_key
        return BusyError(own_share=is_own_share, retry_after=self._retry_after, detail=self._detail)


@dataclass(frozen=True)
class Capacity:
    """The concurrency limits of one web process, by type of work. Keys are account ids, or `NO_ACCOUNT`.

    There are threads and database connections for all of it at once (`store.db.database`: 20 connections), so work
    within these limits never waits for a connection.
    """

    # Each page may keep a CPU core busy, so an account gets one at a time.
    pages: FairLimiter = field(default_factory=lambda: FairLimiter(total=8, per_key=1, max_wait=5, retry_after=5))
    # One slow vendor holds half of these threads and no others; so do sign-ins.
    vendors: FairLimiter = field(default_factory=lambda: FairLimiter(total=8, per_key=4, max_wait=1, retry_after=5))
    # A panel's record is read in about 10 ms, so few threads suffice and more would only compete. The queue is long,
    # because all panels of a large account reload at the same time after a change, and none should be refused.
    panel: FairLimiter = field(
        default_factory=lambda: FairLimiter(total=4, per_key=2, max_wait=10, retry_after=5, max_queue=256)
    )
    tarpit: Tarpit = field(default_factory=Tarpit)
    exports: FairLimiter = field(
        default_factory=lambda: FairLimiter(
            total=MAX_EXPORTS, per_key=1, max_wait=2, retry_after=30, detail=EXPORT_RUNNING
        )
    )
