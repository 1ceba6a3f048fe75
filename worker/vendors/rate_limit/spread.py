"""How far apart the scheduled runs of many accounts start."""

from __future__ import annotations

from runtime.settings import settings
from worker.vendors.rate_limit.budget import APP_RESERVED_SHARE, Priority


def seconds_between_runs(calls: int) -> float:
    """Seconds between the starts of two accounts' runs, each of so many Xero calls.

    All of them together then stay within the part of the app's calls a minute that scheduled work may use.
    """
    config = settings()
    allowed = config.xero_app_calls_per_minute * (1 - APP_RESERVED_SHARE[Priority.CATCH_UP])
    return calls * config.rate_limit_window_seconds / max(allowed, 1)
