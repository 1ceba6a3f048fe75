"""Limits on panels' long polls (requests held open until a record changes): per process, account, key and viewer."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import ClassVar

from prometheus_client import Gauge

from web.middleware.concurrency import BusyError

MAX_LONG_POLLS = 2_000
MAX_REJECTION_DELAY_SECONDS, RETRY_AFTER_SECONDS = 8.0, 14
LONG_POLLS_OPEN = Gauge("patina_panel_long_polls_open", "long polls that panels hold open")
TOO_MANY_MESSAGE = "Patina is busy: too many panels are open to follow changes live."


@dataclass(frozen=True)
class PollQuota:
    """How many long polls one account, panel key, browser session or client address may hold open."""

    scope: str
    subject: str | int | bytes
    limit: int

    # Everybody at a customer shares one key, and an office shares one address; one person has a few tabs.
    LIMITS: ClassVar[dict[str, int]] = {"account": 200, "key": 100, "address": 50, "session": 5}

    @classmethod
    def for_scope(cls, scope: str, subject: str | int | bytes) -> PollQuota:
        """The quota of one subject, with the limit of its scope."""
        return cls(scope, subject, cls.LIMITS[scope])


class LongPollLimiter:
    """Counts the long polls that one web process holds open."""

    def __init__(self) -> None:
        self._open: Counter[PollQuota] = Counter()
        self._total = 0

    def has_room(self, quotas: tuple[PollQuota, ...]) -> bool:
        """Whether all `quotas` allow one more long poll."""
        return self._total < MAX_LONG_POLLS and all(self._open[quota] < quota.limit for quota in quotas)

    @asynccontextmanager
    async def slot(self, *quotas: PollQuota) -> AsyncIterator[None]:
        """Hold one long poll open, counted against all `quotas`; raises `BusyError` if one of them is used up."""
        with self.charge(*quotas):
            self._total += 1
            try:
                with LONG_POLLS_OPEN.track_inprogress():
                    yield
            finally:
                self._total -= 1

    @contextmanager
    def charge(self, *quotas: PollQuota) -> Iterator[None]:
        """Count a long poll that already has a slot against further quotas; raises `BusyError` if one is used up."""
        if not self.has_room(quotas):
            raise BusyError(own_share=True, retry_after=RETRY_AFTER_SECONDS, detail=TOO_MANY_MESSAGE)
        self._open.update(quotas)
        try:
            yield
        finally:
            self._open.subtract(quotas)
            for quota in quotas:
                if not self._open[quota]:
                    del self._open[quota]
