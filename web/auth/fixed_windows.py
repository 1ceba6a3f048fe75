"""Fixed-window counters for rate limits, in the memory of this process. Bounded, with constant cost."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict

MAX_KEYS = 50_000


class FixedWindowCounter:
    """Counts hits by key in the current window, which starts at the same time for all keys.

    The in-memory storage of the `limits` library scans all entries for expired ones, so clients that make keys up slow
    down every later call. Here all keys are dropped at once when a window ends. Beyond `max_keys` keys the least
    recently hit one is dropped, because a limit per address does not stop somebody with so many addresses anyway.
    """

    def __init__(self, seconds: int, max_keys: int = MAX_KEYS) -> None:
        self._seconds = seconds
        self._max_keys = max_keys
        self._counts: OrderedDict[str | bytes, int] = OrderedDict()
        self._window = -1
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The number of keys in the current window."""
        return len(self._counts)

    def hit(self, key: str | bytes) -> int:
        """Count a hit of a key; returns its number of hits in this window."""
        with self._lock:
            self._advance()
            count = self._counts.pop(key, 0) + 1
            self._counts[key] = count
            if len(self._counts) > self._max_keys:
                self._counts.popitem(last=False)
            return count

    def count(self, key: str | bytes) -> int:
        """The number of hits of a key in this window; does not store the key."""
        with self._lock:
            self._advance()
            return self._counts.get(key, 0)

    def seconds_left(self) -> int:
        """Seconds until the window ends, at least one."""
        return max(1, math.ceil(self._seconds - time.monotonic() % self._seconds))

    def _advance(self) -> None:
        window = int(time.monotonic() // self._seconds)
        if window != self._window:
            self._window, self._counts = window, OrderedDict()
