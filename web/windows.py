"""Counts of this process by name, in windows of time that begin for all names at once. Bounded, and flat in cost."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict

MOST_NAMES = 50_000


class Windows:
    """How often each name was seen in the window that is running.

    The libraries' own memory walks through every entry again and again to find those that have ended: whoever makes up
    names makes each later call dearer. Here a window's end drops all at once, and a name costs what the first one did.
    Beyond `most` names the one that was not seen for longest is forgotten: who has so many addresses is not held by
    a limit for each.
    """

    def __init__(self, seconds: int, most: int = MOST_NAMES) -> None:
        self._seconds = seconds
        self._most = most
        self._counts: OrderedDict[str | bytes, int] = OrderedDict()
        self._window = -1
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many names are counted at the moment."""
        return len(self._counts)

    def hit(self, name: str | bytes) -> int:
        """Count a name once more; returns how often it was seen in this window."""
        with self._lock:
            self._turn()
            count = self._counts.pop(name, 0) + 1
            self._counts[name] = count
            if len(self._counts) > self._most:
                self._counts.popitem(last=False)
            return count

    def count(self, name: str | bytes) -> int:
        """How often a name was seen in this window; nothing is kept of a name that was not."""
        with self._lock:
            self._turn()
            return self._counts.get(name, 0)

    def ends_in(self) -> int:
        """Seconds until the window ends, at least one."""
        return max(1, math.ceil(self._seconds - time.monotonic() % self._seconds))

    def _turn(self) -> None:
        window = int(time.monotonic() // self._seconds)
        if window != self._window:
            self._window, self._counts = window, OrderedDict()
