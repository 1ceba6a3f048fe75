"""Which records were viewed recently: a view of a company or an opportunity may refresh its relations."""

from __future__ import annotations

import time
from collections import OrderedDict

from starlette.background import BackgroundTask

from runtime.settings import settings
from store.db.enums import RecordType
from worker.jobs import actors
from worker.jobs.enqueue import enqueue_once

MAX_RECORDS = 10_000
MAX_SECONDS = 300.0
WITH_RELATIONS = {RecordType.COMPANY, RecordType.OPPORTUNITY}


class RecentViews:
    """Recently viewed records, so that frequent views of a record enqueue one job. Bounded."""

    def __init__(self) -> None:
        self._expires_at: OrderedDict[tuple[int, RecordType, int], float] = OrderedDict()

    def record(self, account_id: int, record_type: RecordType, record_id: int) -> bool:
        """Record a view; True if the record was not viewed recently."""
        key, now = (account_id, record_type, record_id), time.monotonic()
        if self._expires_at.get(key, 0.0) > now:
            return False
        self._expires_at[key] = now + min(MAX_SECONDS, settings().relations_max_age_seconds)
        self._expires_at.move_to_end(key)
        if len(self._expires_at) > MAX_RECORDS:
            self._expires_at.popitem(last=False)
        return True


def relations_refresh(
    views: RecentViews, account_id: int, record_type: RecordType, record_id: int
) -> BackgroundTask | None:
    """A task that runs after the response and refreshes stale relations; None if there is nothing to do."""
    if record_type not in WITH_RELATIONS or not views.record(account_id, record_type, record_id):
        return None
    return BackgroundTask(enqueue_once, actors.refresh_record_relations, account_id, record_type.value, record_id)
