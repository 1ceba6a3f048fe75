"""Heartbeats of an installation's processes, stored in PostgreSQL for status and doctor."""

from __future__ import annotations

import threading

import structlog

from store.db.database import transaction
from store.sync import heartbeats

log = structlog.get_logger()
INTERVAL_SECONDS = 5.0
# The web process has its own limit, after which catch-ups are started: `schedule.WEB_DOWN_AFTER_SECONDS`.
MAX_AGE_SECONDS = {"web": 12.0, "worker": 30.0}
# The scheduler ticks every SWEEP_INTERVAL_SECONDS; a tick may take as long as its statements' timeouts allow.
MAX_MISSED_SWEEPS = 3
SCHEDULER_GRACE_SECONDS = 15.0
PROCESSES = ("web", "worker", "scheduler")


def record(process: str) -> None:
    """Record that a process is up."""
    with transaction() as session:
        heartbeats.record_heartbeat(session, process)


def record_periodically(process: str, stopping: threading.Event) -> None:
    """Record a heartbeat every `INTERVAL_SECONDS` until `stopping` is set. Database errors are only logged."""
    while True:
        try:
            record(process)
        except Exception as error:
            log.warning("heartbeat.failed", process_kind=process, error=type(error).__name__)
        if stopping.wait(INTERVAL_SECONDS):
            return


def max_age(process: str, sweep_interval_seconds: float) -> float:
    """Return the seconds after which a process without a heartbeat counts as down."""
    return MAX_AGE_SECONDS.get(process, MAX_MISSED_SWEEPS * sweep_interval_seconds + SCHEDULER_GRACE_SECONDS)
