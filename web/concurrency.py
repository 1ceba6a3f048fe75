"""Who may work at the same time: so many requests in a process, so many of them of one account, and in fair turn.

A request that does not fit waits for a moment, which costs nothing but its connection, and is then refused as "busy",
with a time to come back. So one account's requests never take the threads and connections that the others' need.
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

from store.exports import MAX_EXPORTS
from web.problems import ProblemError
from web.refusals import Reason

__all__ = ["BusyError", "Capacity", "FairLimiter", "Pauses"]
P = ParamSpec("P")
T = TypeVar("T")
# The key of all who have no account yet. What they use up is not the fault of whoever is refused.
NOBODY = 0
# Waiting costs little, and whoever repeats refused requests at once is slowed down by it: more than a browser opens.
MAX_QUEUE = 64
MAX_REST = 5.0
MAX_PAUSED = 2_000
EXPORT_RUNS = "Patina is busy with another export of your account. One runs at a time."


class BusyError(ProblemError):
    """No capacity is left for a request just now; `retry_after` in seconds.

    429 where the caller's own account uses its share, 503 where all accounts together use all that there is.
    """

    def __init__(self, *, own_share: bool, retry_after: int, detail: str = "") -> None:
        whose = "Your account has too many requests at work already." if own_share else "Too many requests are at work."
        said = detail or f"Patina is busy. {whose}"
        super().__init__(
            429 if own_share else 503,
            f"{said} Try again in {_seconds(retry_after)}.",
            retry_after=retry_after,
            reason=Reason.RATE if own_share else Reason.BUSY,
        )


def _seconds(count: int) -> str:
    return "1 second" if count == 1 else f"{count} seconds"


class Pauses:
    """Pauses before refusals, which cost next to nothing: they slow down whoever repeats refused requests at once."""

    def __init__(self) -> None:
        self._count = 0
        self._is_over = asyncio.Event()

    async def take(self, seconds: float) -> None:
        """Wait for so many seconds at most, so that not all end at once; not at all while too many wait."""
        if self._count >= MAX_PAUSED:
            return
        self._count += 1
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_over.wait(), seconds * random.uniform(0.5, 1))
        finally:
            self._count -= 1

    def close(self) -> None:
        """Let everybody go, and nobody wait from now on."""
        self._is_over.set()


class FairLimiter:
    """Places for work of one kind in this process, fairly shared between keys (accounts, as a rule).

    A key takes `per_key` of `total` places at most. While others of the same key wait, a place rests after its work
    for as long as the work took: a key whose requests never end takes half of the time of its places, and the
    processor is left to the others for the rest.
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
        """Whoever finds no place within `max_wait` seconds, or `max_queue` of its own key waiting, is refused."""
        self._total, self._per_key = total, per_key
        self._max_wait, self._max_queue = max_wait, max_queue
        self._retry_after, self._detail = retry_after, detail
        self._running = 0
        self._taken: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        self._threads = CapacityLimiter(total)

    async def run(self, key: Hashable, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns, run in one of this limiter's own threads; raises `BusyError` without a place."""
        async with self.place(key):
            return await self.in_thread(work, *args, **kwargs)

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for whoever holds a place already."""
        return await anyio.to_thread.run_sync(lambda: work(*args, **kwargs), limiter=self._threads)

    @asynccontextmanager
    async def place(self, key: Hashable) -> AsyncIterator[None]:
        """Hold one of the key's places; raises `BusyError` when none became free in time."""
        await self._enter(key)
        began = time.monotonic()
        try:
            yield
        finally:
            self._running -= 1
            rest = min(time.monotonic() - began, MAX_REST) if key in self._waiting else 0.0
            if rest:
                asyncio.get_running_loop().call_later(rest, self._free, key)
            else:
                self._free(key)
            self._admit()

    async def _enter(self, key: Hashable) -> None:
        if key not in self._waiting and self._has_place(key):
            self._take(key)
            return
        queue = self._waiting.setdefault(key, deque())
        if len(queue) >= self._max_queue:
            raise self._busy(key)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await asyncio.wait([turn], timeout=self._max_wait)
        except asyncio.CancelledError:
            if not turn.cancel():
                self._running -= 1
                self._free(key)
                self._admit()
            raise
        finally:
            self._forget(key, turn)
        if not turn.done():
            turn.cancel()
            raise self._busy(key)

    def _forget(self, key: Hashable, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(key)
        if queue is not None:
            if turn in queue:
                queue.remove(turn)
            if not queue:
                del self._waiting[key]

    def _has_place(self, key: Hashable) -> bool:
        return self._running < self._total and self._taken.get(key, 0) < self._per_key

    def _take(self, key: Hashable) -> None:
        self._running += 1
        self._taken[key] = self._taken.get(key, 0) + 1

    def _free(self, key: Hashable) -> None:
        self._taken[key] -= 1
        if not self._taken[key]:
            del self._taken[key]
        self._admit()

    def _admit(self) -> None:
        """Give the places that are free to those who wait: the key with the fewest at work first."""
        while waiting := [key for key in self._waiting if self._has_place(key)]:
            key = min(waiting, key=lambda candidate: self._taken.get(candidate, 0))
            # Whoever was served goes to the end, so that of keys with as many at work each has its turn.
            queue = self._waiting.pop(key)
            turn = queue.popleft()
            if queue:
                self._waiting[key] = queue
            if not turn.done():
                self._take(key)
                turn.set_result(None)

    def _busy(self, key: Hashable) -> BusyError:
        is_own = key != NOBODY and self._taken.get(key, 0) >= self._per_key
        return BusyError(own_share=is_own, retry_after=self._retry_after, detail=self._detail)


@dataclass(frozen=True)
class Capacity:
    """What one web process does at the same time, by kind of work. Keys are accounts; 0 is whoever has none yet.

    Threads and database connections suffice for all of it at once (`store.database`: 20 connections): what is bounded
    here never waits there.
    """

    # A page's statements may keep a core busy each: no account gets more than one of them that way.
    pages: FairLimiter = field(default_factory=lambda: FairLimiter(total=8, per_key=1, max_wait=5, retry_after=5))
    # One vendor that is slow holds half of the threads for vendors and none of the others; so do sign-ins.
    vendors: FairLimiter = field(default_factory=lambda: FairLimiter(total=8, per_key=4, max_wait=1, retry_after=5))
    # What panels show is read in ten milliseconds or so: few threads are quick, many only compete.
    # All panels of a large account that were told of one change ask again within a moment, and none is to be refused.
    panel: FairLimiter = field(
        default_factory=lambda: FairLimiter(total=4, per_key=2, max_wait=10, retry_after=5, max_queue=256)
    )
    pauses: Pauses = field(default_factory=Pauses)
    exports: FairLimiter = field(
        default_factory=lambda: FairLimiter(
            total=MAX_EXPORTS, per_key=1, max_wait=2, retry_after=30, detail=EXPORT_RUNS
        )
    )
