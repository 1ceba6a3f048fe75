"""Who looks at what: a record whose relations may be old has them read again, after the answer."""

from __future__ import annotations

import time
from collections import OrderedDict

from starlette.background import BackgroundTask

from runtime.settings import settings
from store.models import RecordType
from worker import jobs
from worker.broker import wake

MOST = 10_000
LONGEST_SECONDS = 300.0
KINDS = {RecordType.COMPANY, RecordType.OPPORTUNITY}


class Looks:
    """The records looked at a short while ago, so that a record read often wakes a worker once. Bounded."""

    def __init__(self) -> None:
        self._until: OrderedDict[tuple[int, RecordType, int], float] = OrderedDict()

    def is_new(self, key: tuple[int, RecordType, int]) -> bool:
        """Whether nobody looked lately; from now on somebody did."""
        now = time.monotonic()
        if self._until.get(key, 0.0) > now:
            return False
        self._until[key] = now + min(LONGEST_SECONDS, settings().relations_age_seconds)
        self._until.move_to_end(key)
        if len(self._until) > MOST:
            self._until.popitem(last=False)
        return True


def after_reading(looks: Looks, account_id: int, kind: RecordType, record_id: int) -> BackgroundTask | None:
    """What is left to do after the answer, if anything; the read itself never waits."""
    if kind not in KINDS or not looks.is_new((account_id, kind, record_id)):
        return None
    return BackgroundTask(wake, jobs.refresh_relations, account_id, kind.value, record_id)
