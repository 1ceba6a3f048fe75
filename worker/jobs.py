"""The actors: each a door to one function elsewhere. Importing this connects the process to its broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import dramatiq
import structlog

from runtime.settings import settings
from store import tenancy
from store.database import transaction
from store.inbox import Source
from store.models import RecordType
from store.runs import Run
from worker import events, history, leftovers, projecting, relations, requested_catch_ups, sync
from worker.broker import awake, broker, turn, wake, wake_later
from worker.errors import VendorError
from worker.requested_catch_ups import Requested
from worker.xero import oauth

log = structlog.get_logger()
broker()
# No job holds a thread for long while others wait: floods and backfills take turns with a single event.
STEP_SECONDS = 2.0
# Threads that one source may hold: a vendor that hangs for one account leaves the others theirs.
TURNS_AT_ONCE = 2
GRANTS_AT_ONCE = 100
EVENTS, PROJECTION, SYNC, SPARE = "events", "projection", "sync", "spare"
P = ParamSpec("P")


def _until_closed(work: Callable[Concatenate[int, P], None]) -> Callable[Concatenate[int, P], None]:
    """A job of an account. Whatever it fails with once the account is closed, nobody has to know."""

    @wraps(work)
    def job(account_id: int, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            work(account_id, *args, **kwargs)
        except Exception as error:
            with transaction() as session:
                is_open = tenancy.is_open(session, account_id)
            if is_open:
                raise
            log.info("job.stopped", account=account_id, job=work.__name__, error=type(error).__name__)

    return job


@dramatiq.actor(actor_name="drain", queue_name=EVENTS, max_retries=0)
@_until_closed
def drain(account_id: int, organisation_id: int) -> None:
    """Apply all waiting events of one organisation, or (organisation 0) of the account's Copper."""
    source = Source(account_id, organisation_id)
    awake("drain", account_id, organisation_id)
    with turn(f"{account_id}:{organisation_id}", TURNS_AT_ONCE) as mine:
        if not mine:
            return
        if events.is_flood(source):
            wake(drain, account_id, organisation_id)
        done = events.drain(source, events.TURN_SECONDS)
    _follow(source, done.catch_up)
    if done.again_in:
        wake_later(drain, done.again_in, account_id, organisation_id)
    elif done.again_in is not None or events.wait(source):
        wake(drain, account_id, organisation_id)


@dramatiq.actor(actor_name="begin_requested_catch_up", queue_name=EVENTS, max_retries=0)
@_until_closed
def begin_requested_catch_up(account_id: int, organisation_id: int) -> None:
    """Begin the catch-up that events of an organisation asked for too soon after the one before."""
    source = Source(account_id, organisation_id)
    _follow(source, requested_catch_ups.begin(source))


def _follow(source: Source, requested: Requested) -> None:
    if requested.run is not None:
        wake_run(requested.run)
    if requested.again_in is not None:
        wake_later(begin_requested_catch_up, requested.again_in, source.account_id, source.organisation_id)


@dramatiq.actor(actor_name="project", queue_name=PROJECTION, max_retries=0)
@_until_closed
def project(account_id: int) -> None:
    """Project an account's marks: a run's, page after page, and what another job left behind."""
    awake("project", account_id)
    with turn(f"project:{account_id}", 1) as mine:
        if not mine:
            return
        projecting.project(account_id, STEP_SECONDS)
    if projecting.waits(account_id):
        wake(project, account_id)


@dramatiq.actor(actor_name="advance_run", queue_name=SYNC, max_retries=0)
@_until_closed
def advance_run(account_id: int, run_id: int) -> None:
    """Take a run's next pages for some seconds, then hand on to the next job of the chain."""
    awake("advance_run", account_id, run_id)
    until = time.monotonic() + STEP_SECONDS
    while True:
        done = sync.step(account_id, run_id)
        if done.more:
            wake(project, account_id)
        if not done.more or done.delay or time.monotonic() > until:
            break
    if done.more and done.delay:
        wake_later(advance_run, done.delay, account_id, run_id)
    elif done.more:
        wake(advance_run, account_id, run_id)


@dramatiq.actor(actor_name="rotate_relations", queue_name=SPARE, max_retries=0)
@_until_closed
def rotate_relations(account_id: int) -> None:
    """Read the relations that were read longest ago."""
    awake("rotate_relations", account_id)
    try:
        relations.rotate(account_id)
    except VendorError as error:
        log.info("relations.put_off", account=account_id, error=str(error))


@dramatiq.actor(actor_name="refresh_relations", queue_name=SPARE, max_retries=0)
@_until_closed
def refresh_relations(account_id: int, kind: str, record_id: int) -> None:
    """Read the relations of a record that somebody looked at, if they are old."""
    awake("refresh_relations", account_id, kind, record_id)
    try:
        relations.refresh(account_id, RecordType(kind), record_id)
    except VendorError as error:
        log.info("relations.put_off", account=account_id, error=str(error))


@dramatiq.actor(actor_name="look_up_history", queue_name=SPARE, max_retries=0)
@_until_closed
def look_up_history(account_id: int, organisation_id: int) -> None:
    """Look up the true created dates of an organisation's newest invoices."""
    awake("look_up_history", account_id, organisation_id)
    history.look_up(account_id, organisation_id)


@dramatiq.actor(actor_name="keep_grants_alive", queue_name=SPARE, max_retries=0)
def keep_grants_alive() -> None:
    """Refresh the grants that were idle for days."""
    awake("keep_grants_alive")
    oauth.keep_alive(settings().grant_idle_days * 86_400, GRANTS_AT_ONCE)


@dramatiq.actor(actor_name="clean_up", queue_name=SPARE, max_retries=0)
def clean_up() -> None:
    """Tell vendors of what was closed here, and erase its data."""
    awake("clean_up")
    leftovers.clean_up()


def wake_leftovers() -> bool:
    """Have what was closed cleaned up soon."""
    return wake(clean_up)


def wake_source(source: Source) -> bool:
    """Have a source drained soon."""
    return wake(drain, source.account_id, source.organisation_id)


def wake_run(run: Run) -> bool:
    """Have a run's next page fetched soon."""
    return wake(advance_run, run.account_id, run.id)
