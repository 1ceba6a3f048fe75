"""The actors: each a door to one function elsewhere. Importing this connects the process to its broker."""

from __future__ import annotations

import time

import dramatiq
import structlog

from store.inbox import Source
from worker import events, projecting, sync
from worker.broker import awake, broker, wake

log = structlog.get_logger()
broker()
STEP_SECONDS = 10.0
EVENTS, PROJECTION, SYNC = "events", "projection", "sync"


@dramatiq.actor(actor_name="drain", queue_name=EVENTS, max_retries=0)
def drain(account_id: int, organisation_id: int) -> None:
    """Apply all waiting events of one organisation, or (organisation 0) of the account's Copper."""
    awake("drain", account_id, organisation_id)
    events.drain(Source(account_id, organisation_id))


@dramatiq.actor(actor_name="project", queue_name=PROJECTION, max_retries=0)
def project(account_id: int) -> None:
    """Project an account's marks that a job left behind."""
    awake("project", account_id)
    projecting.project(account_id)


@dramatiq.actor(actor_name="advance_run", queue_name=SYNC, max_retries=0)
def advance_run(account_id: int, run_id: int) -> None:
    """Take a run's next pages for some seconds, then hand on to the next job of the chain."""
    awake("advance_run", account_id, run_id)
    until = time.monotonic() + STEP_SECONDS
    while sync.step(account_id, run_id):
        if time.monotonic() > until:
            wake(advance_run, account_id, run_id)
            return


def wake_source(source: Source) -> bool:
    """Have a source drained soon."""
    return wake(drain, source.account_id, source.organisation_id)
