"""What runs when. Two schedulers may run: each thing they start is safe to start twice."""

from __future__ import annotations

import signal
from types import FrameType

import structlog
from apscheduler.schedulers.blocking import BlockingScheduler

from runtime.settings import settings
from store import inbox, projection, runs
from store.database import transaction
from worker import jobs
from worker.broker import wake

log = structlog.get_logger()


def sweep() -> int:
    """Wake whoever has something waiting in PostgreSQL; returns how many were found.

    What Redis lost, what was put off for later, and what a killed worker held too long are all found here.
    """
    with transaction() as session:
        sources = inbox.waiting(session)
        dirty = projection.waiting(session)
        steps = runs.waiting(session)
    for source in sources:
        jobs.wake_source(source)
    for account_id in dirty:
        wake(jobs.project, account_id)
    for account_id, run_id in steps:
        wake(jobs.advance_run, account_id, run_id)
    found = len(sources) + len(dirty) + len(steps)
    if found:
        log.info("sweep.found", sources=len(sources), dirty=len(dirty), runs=len(steps))
    return found


def _sweep_safely() -> None:
    try:
        sweep()
    except Exception as error:
        log.warning("sweep.failed", error=type(error).__name__)


def serve() -> None:
    """Run the schedule until told to stop."""
    scheduler = BlockingScheduler(timezone="UTC")
    scheduler.add_job(_sweep_safely, "interval", seconds=settings().sweep_seconds, coalesce=True, max_instances=1)

    def stop(_: int, __: FrameType | None) -> None:
        scheduler.shutdown(wait=False)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    log.info("scheduler.started", sweep_seconds=settings().sweep_seconds)
    _sweep_safely()
    scheduler.start()
