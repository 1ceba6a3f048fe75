"""Exponential back-off for sign-in attempts with an API key: each failure makes the next attempt wait longer."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

import redis

from runtime.redis_client import shared_client
from runtime.settings import settings

FREE_ATTEMPTS = 10
MAX_WAIT_SECONDS = 60.0
EXPIRY_SECONDS = 900
MAX_NAMES = 10_000


def wait_after(attempts: int) -> float:
    """Seconds to wait after so many attempts: 0 for the first ones, then 1, 2, 4 and so on, up to a minute."""
    return 0.0 if attempts < FREE_ATTEMPTS else min(MAX_WAIT_SECONDS, 2.0 ** min(attempts - FREE_ATTEMPTS, 10))


class SignInAttempts:
    """Counts attempts by name: in Redis for all processes, or in this process while Redis is unavailable.

    An attempt counts when it begins, so that parallel attempts cannot bypass the wait, and is refunded if it succeeds.
    Counts expire after a quarter of an hour without an attempt.
    """

    def __init__(self) -> None:
        self._fallback = ProcessAttempts()

    def begin(self, names: Sequence[str]) -> float:
        """Count an attempt under each name; returns 0, or the seconds to wait, in which case nothing was counted."""
        try:
            return self._begin(names)
        except redis.RedisError:
            return self._fallback.begin(names)

    def refund(self, names: Sequence[str]) -> None:
        """Uncount a successful attempt under each name."""
        self._fallback.refund(names)
        try:
            for name in names:
                if shared_client().decr(self._key(name)) <= 0:
                    shared_client().delete(self._key(name))
                shared_client().delete(self._gate(name))
        except redis.RedisError:
            return

    def _key(self, name: str) -> str:
        return f"{settings().redis_namespace}:throttle:tries:{name}"

    def _gate(self, name: str) -> str:
        return f"{settings().redis_namespace}:throttle:wait:{name}"

    def _begin(self, names: Sequence[str]) -> float:
        delays = [shared_client().pttl(self._gate(name)) for name in names]
        if (longest_delay := max(delays)) > 0:
            return longest_delay / 1_000
        for name in names:
            attempts = shared_client().incr(self._key(name))
            shared_client().expire(self._key(name), EXPIRY_SECONDS)
            wait = wait_after(attempts)
            # Of parallel attempts beyond the free ones, one passes.
            if wait and not shared_client().set(self._gate(name), "1", px=int(wait * 1_000), nx=True):
                return wait
        return 0.0


class ProcessAttempts:
    """The same counts in the memory of this process; beyond 10,000 names the least recently used are dropped."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, names: Sequence[str]) -> float:
        """As `SignInAttempts.begin`."""
        now = time.monotonic()
        with self._lock:
            entries = [self._attempts.get(name, (0, 0.0)) for name in names]
            wait = max(last + wait_after(attempts) - now for attempts, last in entries)
            if wait > 0:
                return wait
            for name, (attempts, last) in zip(names, entries, strict=True):
                self._attempts[name] = (attempts + 1 if now - last < EXPIRY_SECONDS else 1, now)
                self._attempts.move_to_end(name)
            while len(self._attempts) > MAX_NAMES:
                self._attempts.popitem(last=False)
        return 0.0

    def refund(self, names: Sequence[str]) -> None:
        """As `SignInAttempts.refund`."""
        with self._lock:
            for name in names:
                attempts, _ = self._attempts.get(name, (0, 0.0))
                if attempts > 1:
                    self._attempts[name] = (attempts - 1, 0.0)
                else:
                    self._attempts.pop(name, None)
