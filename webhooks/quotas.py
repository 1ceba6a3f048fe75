"""What an account's webhooks may have stored: so many rows a minute and a day, kept by all web processes together.

A process takes room from the database in blocks, so that ordinary traffic costs few statements and no process waits
for another. An account that has none left this minute costs nothing more until the minute is over: its notifications
are counted, and one row in the inbox, committed before the first of them is answered, has everything fetched then.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from runtime.settings import settings
from store import inbox, webhook_quotas
from store.database import Pool, transaction, using
from store.inbox import CATCH_UP, NOBODY, RECONCILIATION, Dropped
from store.webhook_quotas import DroppedKey, Grant
from webhooks.payloads import Notification
from worker import instruments

MOST_ACCOUNTS = 10_000


class Reason(StrEnum):
    """Why an event is counted and not kept."""

    TASK = "task"
    PROJECT = "project"
    ACTIVITY_LOG = "activity_log"
    OTHER_TYPE = "other_type"
    NO_ORGANISATION = "no_organisation"
    MALFORMED = "malformed"
    OVER_LIMIT = "over_limit"


OF_VENDOR = {
    "copper": tuple(reason for reason in Reason if reason is not Reason.NO_ORGANISATION),
    "xero": (Reason.NO_ORGANISATION, Reason.MALFORMED),
}
# A counter that appears with its first event has not risen in Prometheus' eyes: each begins at zero.
for _source, _reasons in OF_VENDOR.items():
    for _reason in _reasons:
        instruments.DROPPED.labels(_source, _reason)


def reason_of(copper_type: str) -> Reason:
    """Why notifications of a type that is not followed are dropped: a bounded set, whatever Copper adds."""
    known = {Reason.TASK, Reason.PROJECT, Reason.ACTIVITY_LOG}
    return Reason(copper_type) if copper_type in known else Reason.OTHER_TYPE


class DroppedCounts:
    """What one web process did not keep: counted at once for Prometheus, by account with every `flush`."""

    def __init__(self) -> None:
        self._counts: Counter[DroppedKey] = Counter()

    def add(self, account_id: int, source: str, reason: Reason, events: int) -> None:
        """Count events; those of no account (0) stand in the metric alone."""
        if not events:
            return
        instruments.DROPPED.labels(source, reason).inc(events)
        if account_id != NOBODY and len(self._counts) < MOST_ACCOUNTS:
            self._counts[account_id, source, reason.value] += events

    def add_malformed(self, dropped: Iterable[Dropped]) -> None:
        """Count what there was no room for in quarantine."""
        for one in dropped:
            self.add(one.account_id, one.source, Reason.MALFORMED, one.events)

    def flush(self) -> None:
        """Write down what was counted since the last time; when the database is away, the next time."""
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            with transaction() as session:
                webhook_quotas.count_dropped(session, counts)
        except BaseException:
            self._counts.update(counts)
            raise


@dataclass
class _Room:
    """What this process may still have kept for an account until `until` (its monotonic clock).

    `requested` are the runs that stand in the inbox for what is dropped; with any, nothing more is kept.
    """

    rows: int
    until: float
    requested: set[str] = field(default_factory=set)


class NotificationQuota:
    """Decides of each Copper notification whether it is kept; one for each web process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._rooms: OrderedDict[int, _Room] = OrderedDict()

    async def admit(self, account_id: int, notification: Notification, correlation: str) -> bool:
        """Whether there is room for it; if not, a run that makes up for it is committed when this returns.

        Raises one of `UNAVAILABLE` when the database is away.
        """
        room = self._room(account_id)
        if room is None or (not room.requested and room.rows < notification.size):
            room = await self._take(account_id, notification.size)
        if not room.requested and room.rows >= notification.size:
            room.rows -= notification.size
            return True
        kind = RECONCILIATION if notification.has_deletions else CATCH_UP
        if kind not in room.requested:
            await using(
                self._pool,
                lambda connection: inbox.request_overflow(connection, account_id, kind, correlation),
            )
            room.requested.add(kind)
        return False

    def _room(self, account_id: int) -> _Room | None:
        room = self._rooms.get(account_id)
        return room if room is not None and time.monotonic() < room.until else None

    async def _take(self, account_id: int, rows: int) -> _Room:
        """Ask the database for room. The clock is read before, so that a minute ends here no later than there."""
        began = time.monotonic()
        grant = await using(
            self._pool,
            lambda connection: webhook_quotas.take(
                connection,
                account_id,
                rows,
                minute_limit=settings().copper_notifications_minute_limit,
                day_limit=settings().copper_notifications_day_limit,
            ),
        )
        return self._keep(account_id, grant or Grant(0, 0.0), began)

    def _keep(self, account_id: int, grant: Grant, began: float) -> _Room:
        """Add a grant to what is held of the same minute."""
        until = began + grant.seconds
        current = self._rooms.get(account_id)
        if current is not None and time.monotonic() < current.until and abs(current.until - until) < 1.0:
            current.rows += grant.rows
            current.until = min(current.until, until)
            return current
        room = self._rooms[account_id] = _Room(grant.rows, until)
        self._rooms.move_to_end(account_id)
        if len(self._rooms) > MOST_ACCOUNTS:
            self._rooms.popitem(last=False)
        return room
