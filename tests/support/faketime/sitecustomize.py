"""Loaded first by processes under libfaketime 0.9.10, whose `clock_nanosleep` rejects the way Python sleeps."""

from __future__ import annotations

import threading
import time
from typing import SupportsIndex


def sleep(seconds: float | SupportsIndex) -> None:
    """Wait on a condition instead, which libfaketime leaves alone."""
    threading.Event().wait(float(seconds))


time.sleep = sleep
