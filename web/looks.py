"""Who looks at what, by which key: relations that may be old are read again after the answer, keys note their use."""

from __future__ import annotations

import time
from collections import OrderedDict

from starlette.background import BackgroundTask

from runtime.settings import settings
from store import access
from store.database import transaction
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
        self._keys: set[bytes] = set()

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

    def used(self, key: bytes) -> None:
        """A key, by its digest, has opened something; noted in a while (`note_keys`), not with every read."""
        if len(self._keys) < MOST:
            self._keys.add(key)

    def note_keys(self) -> None:
        """Write down which keys were used since the last time."""
        keys, self._keys = self._keys, set()
        if keys:
            with transaction() as session:
                access.used_keys(session, list(keys))


def after_reading(looks: Looks, account_id: int, kind: RecordType, record_id: int) -> BackgroundTask | None:
    """What is left to do after the answer, if anything; the read itself never waits."""
    if kind not in KINDS or not looks.is_new((account_id, kind, record_id)):
        return None
    return BackgroundTask(wake, jobs.refresh_relations, account_id, kind.value, record_id)
