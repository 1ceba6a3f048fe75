"""Tries to sign in with a key: the more wrong ones there were, the longer the next one waits."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

import redis

from runtime.settings import settings
from worker.broker import client

FREE_TRIES = 10
MAX_WAIT = 60.0
MEMORY_SECONDS = 900
MOST_NAMES = 10_000


def wait_after(tries: int) -> float:
    """Seconds that the next try waits after so many: none at first, then 1, 2, 4 and so on, a minute at most."""
    return 0.0 if tries < FREE_TRIES else min(MAX_WAIT, 2.0 ** min(tries - FREE_TRIES, 10))


class KeyTries:
    """Counts tries by name, in Redis for all processes; in this one alone while Redis is away.

    A try counts when it begins, so that many at once are no way around the wait, and is forgiven when it was right.
    A quarter of an hour without one, and all is forgotten.
    """

    def __init__(self) -> None:
        self._own = OwnTries()

    def begin(self, names: Sequence[str]) -> float:
        """Count a try under each name; returns 0, or the seconds to wait: then none was made."""
        try:
            return self._begin(names)
        except redis.RedisError:
            return self._own.begin(names)

    def forgive(self, names: Sequence[str]) -> None:
        """The try was right: it counts under no name."""
        self._own.forgive(names)
        try:
            for name in names:
                if client().decr(self._key(name)) <= 0:
                    client().delete(self._key(name))
                client().delete(self._gate(name))
        except redis.RedisError:
            return

    def _key(self, name: str) -> str:
        return f"{settings().redis_namespace}:throttle:tries:{name}"

    def _gate(self, name: str) -> str:
        return f"{settings().redis_namespace}:throttle:wait:{name}"

    def _begin(self, names: Sequence[str]) -> float:
        waits = [client().pttl(self._gate(name)) for name in names]
        if (longest := max(waits)) > 0:
            return longest / 1_000
        for name in names:
            tries = client().incr(self._key(name))
            client().expire(self._key(name), MEMORY_SECONDS)
            wait = wait_after(tries)
            # Of many that come at once beyond the free ones, one passes.
            if wait and not client().set(self._gate(name), "1", px=int(wait * 1_000), nx=True):
                return wait
        return 0.0


class OwnTries:
    """The same counts in this process; the names that were not seen for longest are forgotten beyond 10,000."""

    def __init__(self) -> None:
        self._tries: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, names: Sequence[str]) -> float:
        """As `KeyTries.begin`."""
        now = time.monotonic()
        with self._lock:
            known = [self._tries.get(name, (0, 0.0)) for name in names]
            wait = max(last + wait_after(tries) - now for tries, last in known)
            if wait > 0:
                return wait
            for name, (tries, last) in zip(names, known, strict=True):
                self._tries[name] = (tries + 1 if now - last < MEMORY_SECONDS else 1, now)
                self._tries.move_to_end(name)
            while len(self._tries) > MOST_NAMES:
                self._tries.popitem(last=False)
        return 0.0

    def forgive(self, names: Sequence[str]) -> None:
        """As `KeyTries.forgive`."""
        with self._lock:
            for name in names:
                tries, _ = self._tries.get(name, (0, 0.0))
                if tries > 1:
                    self._tries[name] = (tries - 1, 0.0)
                else:
                    self._tries.pop(name, None)
