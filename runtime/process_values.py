"""Values that a process computes once and keeps, such as its settings and its clients."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import update_wrapper
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ProcessValue(Generic[Value]):
    """A function without arguments that is computed at its first call; later calls return the same value.

    One thread computes it, and the others wait. Unlike with `functools.lru_cache`, there are never two values at a
    time, and a computation that began before `clear` does not leave its value behind.
    """

    def __init__(self, compute: Callable[[], Value]) -> None:
        update_wrapper(self, compute)
        self._compute = compute
        # Empty, or the value, which may be None.
        self._values: tuple[Value, ...] = ()
        self._renew_lock()
        os.register_at_fork(after_in_child=self._renew_lock)

    def __call__(self) -> Value:
        """The value; raises what its computation raises, and then computes it again at the next call."""
        values = self._values
        return values[0] if values else self._compute_once()

    def clear(self) -> Value | None:
        """Compute the value again at the next call; returns the value until now, None if there was none."""
        with self._lock:
            values, self._values = self._values, ()
        return values[0] if values else None

    def _compute_once(self) -> Value:
        with self._lock:
            if not self._values:
                self._values = (self._compute(),)
            return self._values[0]

    def _renew_lock(self) -> None:
        """A thread that held the lock at a fork does not exist in the forked process."""
        self._lock = threading.RLock()


def once_per_process(compute: Callable[[], Value]) -> ProcessValue[Value]:
    """Decorate a function without arguments whose value the whole process shares."""
    return ProcessValue(compute)
