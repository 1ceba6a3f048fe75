"""Heartbeats: when the processes of an installation were last up, kept in PostgreSQL for status and doctor."""

from __future__ import annotations

import threading

import structlog

from store import chores
from store.database import transaction

log = structlog.get_logger()
INTERVAL_SECONDS = 5.0
# The web process's own bound, after which a catch-up begins, is `schedule.WEB_AWAY_SECONDS`.
MAX_AGE_SECONDS = {"web": 12.0, "worker": 30.0}
# A tick of the scheduler may take as long as its statements are allowed to; it comes every SWEEP_SECONDS.
MAX_MISSED_SWEEPS = 3
SCHEDULER_GRACE_SECONDS = 15.0
PROCESSES = ("web", "worker", "scheduler")


def beat(process: str) -> None:
    """Record that a kind of process is up."""
    with transaction() as session:
        chores.beat(session, process)


def keep(process: str, stopping: threading.Event) -> None:
    """Record it every `INTERVAL_SECONDS` until `stopping`; a database that is down is no reason to end."""
    while True:
        try:
            beat(process)
        except Exception as error:
            log.warning("heartbeat.failed", process_kind=process, error=type(error).__name__)
        if stopping.wait(INTERVAL_SECONDS):
            return


def max_age(process: str, sweep_seconds: float) -> float:
    """Seconds after which a process without a heartbeat counts as down."""
    return MAX_AGE_SECONDS.get(process, MAX_MISSED_SWEEPS * sweep_seconds + SCHEDULER_GRACE_SECONDS)
