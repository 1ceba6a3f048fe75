"""When API keys and panel tokens were last used, buffered in the process and written every few seconds."""

from __future__ import annotations

from store.accounts import api_keys
from store.db.database import transaction

MAX_KEYS = 10_000


class KeyUsage:
    """The digests of the keys that were used since the last flush. Bounded."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def record(self, digest: bytes) -> None:
        """Record that a key, given by its digest, was used."""
        if len(self._digests) < MAX_KEYS:
            self._digests.add(digest)

    def flush(self) -> None:
        """Write the recorded uses to the database."""
        digests, self._digests = self._digests, set()
        if digests:
            with transaction() as session:
                api_keys.record_use(session, list(digests))
