"""How many rows an account's webhooks may store per minute and per day, across all web processes.

A process takes its quota from the database in blocks, so that ordinary traffic needs few statements and no process
waits for another. An account that has no quota left this minute costs nothing more until the minute ends: its
notifications are only counted. One row in the inbox, committed before the first of them is answered, requests a run
that then fetches everything.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from runtime import metrics
from runtime.settings import settings
from store.db.database import Pool, run_with_retry, transaction
from store.db.enums import INSTALLATION
from store.ingest import inbox, webhook_quotas
from store.ingest.inbox import CATCH_UP, RECONCILIATION, DroppedMalformed
from store.ingest.webhook_quotas import DroppedKey, QuotaGrant
from webhooks.payloads import Notification

MAX_ACCOUNTS = 10_000


class DropReason(StrEnum):
    """Why an event is counted but not stored."""

    TASK = "task"
    PROJECT = "project"
    ACTIVITY_LOG = "activity_log"
    OTHER_TYPE = "other_type"
    NO_ORGANISATION = "no_organisation"
    MALFORMED = "malformed"
    OVER_LIMIT = "over_limit"
    OWN_FIELDS = "own_fields"


REASONS_BY_VENDOR = {
    "copper": tuple(reason for reason in DropReason if reason is not DropReason.NO_ORGANISATION),
    "xero": (DropReason.NO_ORGANISATION, DropReason.MALFORMED),
}
# Prometheus sees no increase in a counter that appears with its first event, so each counter starts at zero.
for _vendor, _reasons in REASONS_BY_VENDOR.items():
    for _reason in _reasons:
        metrics.EVENTS_DROPPED.labels(_vendor, _reason)


def drop_reason(copper_type: str) -> DropReason:
    """Why notifications of an unsupported type are dropped; a bounded set, whatever types Copper adds."""
    known = {DropReason.TASK, DropReason.PROJECT, DropReason.ACTIVITY_LOG}
    return DropReason(copper_type) if copper_type in known else DropReason.OTHER_TYPE


class DropCounts:
    """Counts the events that one web process drops: at once for Prometheus, per account with every `flush`."""

    def __init__(self) -> None:
        self._counts: Counter[DroppedKey] = Counter()

    def add(self, account_id: int, vendor: str, reason: DropReason, events: int) -> None:
        """Count events; those without an account (0) appear in the metric only."""
        if not events:
            return
        metrics.EVENTS_DROPPED.labels(vendor, reason).inc(events)
        if account_id != INSTALLATION and len(self._counts) < MAX_ACCOUNTS:
            self._counts[account_id, vendor, reason.value] += events

    def add_malformed(self, dropped: Iterable[DroppedMalformed]) -> None:
        """Count malformed events that exceeded the size of the quarantine."""
        for group in dropped:
            self.add(group.account_id, group.vendor, DropReason.MALFORMED, group.events)

    def flush(self) -> None:
        """Write the counts since the last flush. If the database is unavailable, they are written next time."""
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            with transaction() as session:
                webhook_quotas.record_dropped(session, counts)
        except BaseException:
            self._counts.update(counts)
            raise


@dataclass
class _Block:
    """How many rows this process may still store for an account before `expires_at` (its monotonic clock).

    `requested_runs` are the run kinds that the inbox requests because notifications were dropped. If there are any,
    nothing more is stored.
    """

    rows: int
    expires_at: float
    requested_runs: set[str] = field(default_factory=set)


class NotificationQuota:
    """Decides whether a Copper notification is stored; one object per web process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._blocks: OrderedDict[int, _Block] = OrderedDict()

    async def admit(self, account_id: int, notification: Notification, correlation: str) -> bool:
        """Whether the quota allows it. If not, a run that fetches what is dropped is committed before this returns.

        Raises one of `UNAVAILABLE_ERRORS` if the database is unavailable.
        """
        block = self._current_block(account_id)
        if block is None or (not block.requested_runs and block.rows < notification.size):
            block = await self._acquire(account_id, notification.size)
        if not block.requested_runs and block.rows >= notification.size:
            block.rows -= notification.size
            return True
        run_kind = RECONCILIATION if notification.has_deletions else CATCH_UP
        if run_kind not in block.requested_runs:
            await run_with_retry(
                self._pool,
                lambda connection: inbox.request_overflow(connection, account_id, run_kind, correlation),
            )
            block.requested_runs.add(run_kind)
        return False

    def _current_block(self, account_id: int) -> _Block | None:
        block = self._blocks.get(account_id)
        return block if block is not None and time.monotonic() < block.expires_at else None

    async def _acquire(self, account_id: int, rows: int) -> _Block:
        """Acquire a block from the database. The clock is read first, so that the minute does not end later here."""
        started_at = time.monotonic()
        grant = await run_with_retry(
            self._pool,
            lambda connection: webhook_quotas.acquire(
                connection,
                account_id,
                rows,
                minute_limit=settings().copper_webhook_records_per_minute,
                day_limit=settings().copper_webhook_records_per_day,
            ),
        )
        return self._add(account_id, grant or QuotaGrant(0, 0.0), started_at)

    def _add(self, account_id: int, grant: QuotaGrant, started_at: float) -> _Block:
        """Add a grant to the block of the same minute."""
        expires_at = started_at + grant.seconds
        block = self._blocks.get(account_id)
        if block is not None and time.monotonic() < block.expires_at and abs(block.expires_at - expires_at) < 1.0:
            block.rows += grant.rows
            block.expires_at = min(block.expires_at, expires_at)
            return block
        block = self._blocks[account_id] = _Block(grant.rows, expires_at)
        self._blocks.move_to_end(account_id)
        if len(self._blocks) > MAX_ACCOUNTS:
            self._blocks.popitem(last=False)
        return block
