"""How many requests panels may hold open: of all, of one account, of one panel key, of one viewer."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import ClassVar

from prometheus_client import Gauge

from web.concurrency import BusyError

MAX_HELD = 2_000
REFUSED_AFTER_SECONDS, RETRY_SECONDS = 8.0, 14
HELD = Gauge("patina_panel_requests_held", "requests that panels hold open, to hear of changes")
TOO_MANY = "Patina is busy: too many panels are open to follow changes live."


@dataclass(frozen=True)
class Holder:
    """Whose requests are counted together: an account, a panel key, or a viewer; `limit` is how many may be held."""

    kind: str
    name: str | int | bytes
    limit: int

    # One key opens the panel of everybody at a customer, and an office is one address; a person has a few tabs.
    LIMITS: ClassVar[dict[str, int]] = {"account": 200, "key": 100, "address": 50, "session": 5}

    @classmethod
    def of(cls, kind: str, name: str | int | bytes) -> Holder:
        """A holder with its kind's limit."""
        return cls(kind, name, cls.LIMITS[kind])


class HeldRequests:
    """Counts the requests that one web process holds open for panels."""

    def __init__(self) -> None:
        self._held: Counter[Holder] = Counter()
        self._total = 0

    def has_room(self, holders: tuple[Holder, ...]) -> bool:
        """Whether one more request of all `holders` may be held."""
        return self._total < MAX_HELD and all(self._held[holder] < holder.limit for holder in holders)

    @asynccontextmanager
    async def place(self, *holders: Holder) -> AsyncIterator[None]:
        """Hold one request of all `holders`; raises `BusyError` when one of them holds too many."""
        with self.counted(*holders):
            self._total += 1
            try:
                with HELD.track_inprogress():
                    yield
            finally:
                self._total -= 1

    @contextmanager
    def counted(self, *holders: Holder) -> Iterator[None]:
        """Count a request that is held already for further holders; raises `BusyError` when one holds too many."""
        if not self.has_room(holders):
            raise BusyError(own_share=True, retry_after=RETRY_SECONDS, detail=TOO_MANY)
        self._held.update(holders)
        try:
            yield
        finally:
            self._held.subtract(holders)
            for holder in holders:
                if not self._held[holder]:
                    del self._held[holder]
