"""The jobs: thin wrappers around functions elsewhere. `patina worker` gives its `broker` to Dramatiq."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import structlog

from runtime.settings import settings
from store.db import tenancy
from store.db.database import transaction
from store.db.enums import RecordType
from store.ingest.inbox import SyncSource
from store.read_model import field_values, projection
from store.sync.runs import Run
from worker.jobs.broker import Job, broker, job
from worker.jobs.enqueue import clear_dedup_key, enqueue_later, enqueue_once
from worker.jobs.locks import concurrency_slot
from worker.sync import (
    cleanup_tasks,
    created_dates,
    event_processor,
    field_writer,
    projector,
    relations,
    requested_catch_ups,
    run_processor,
)
from worker.sync.requested_catch_ups import CatchUpOutcome
from worker.vendors.errors import VendorError
from worker.vendors.xero import oauth

__all__ = ["broker"]
log = structlog.get_logger()
# No job holds a thread for long while others wait, so that single events get their turn beside floods and backfills.
STEP_SECONDS = 2.0
# Threads that one source may hold, so that a vendor which hangs for one account leaves threads to the others.
MAX_DRAINS_PER_SOURCE = 2
MAX_GRANTS_PER_JOB = 100
EVENTS, PROJECTION, SYNC, BACKGROUND = "events", "projection", "sync", "background"
# While another job computes an account's rows for long (a rebuild of five million takes minutes), the account's other
# jobs leave their threads to other accounts: the first ones after this time, later ones almost at once.
LOCK_WAIT_SECONDS, SHORT_LOCK_WAIT_SECONDS = 2.0, 0.1
BUSY_SECONDS = 10.0
# When the accounts that were busy are waited for again, in this process.
_busy_until: dict[int, float] = {}


def _lock_wait_seconds(account_id: int) -> float:
    """How long a job may wait for another one that computes its account's rows."""
    if time.monotonic() < _busy_until.get(account_id, 0.0):
        return SHORT_LOCK_WAIT_SECONDS
    _busy_until.pop(account_id, None)
    return LOCK_WAIT_SECONDS


def _account_job(queue_name: str) -> Callable[[Callable[..., None]], Job]:
    """Decorate a job of an account. It ends early while another job computes the account's rows for long.

    The sweep sends it again as long as there is work for it. Its errors are only logged once the account is closed.
    """

    def declare(work: Callable[..., None]) -> Job:
        @wraps(work)
        def run(account_id: int, /, *args: Any) -> None:
            try:
                with projection.limited_lock_wait(_lock_wait_seconds(account_id)):
                    work(account_id, *args)
            except projection.AccountBusyError:
                _busy_until[account_id] = time.monotonic() + BUSY_SECONDS
                log.info("job.deferred", account=account_id, job=work.__name__)
            except Exception as error:
                with transaction() as session:
                    is_open = tenancy.is_open(session, account_id)
                if is_open:
                    raise
                log.info("job.stopped", account=account_id, job=work.__name__, error=type(error).__name__)

        return job(queue_name)(run)

    return declare


@_account_job(EVENTS)
def drain(account_id: int, organisation_id: int) -> None:
    """Apply the pending events of one organisation, or (organisation 0) of the account's Copper."""
    source = SyncSource(account_id, organisation_id)
    clear_dedup_key("drain", account_id, organisation_id)
    with concurrency_slot(f"{account_id}:{organisation_id}", MAX_DRAINS_PER_SOURCE) as is_acquired:
        if not is_acquired:
            return
        result = event_processor.drain(
            source, event_processor.DRAIN_SECONDS, lambda: enqueue_once(drain, account_id, organisation_id)
        )
    _enqueue_catch_up(source, result.catch_up)
    _enqueue_field_writes(account_id)
    if result.retry_after:
        enqueue_later(drain, result.retry_after, account_id, organisation_id)
    elif result.retry_after is not None or event_processor.has_pending(source):
        enqueue_once(drain, account_id, organisation_id)


@_account_job(EVENTS)
def start_requested_catch_up(account_id: int, organisation_id: int) -> None:
    """Start a catch-up that events requested too soon after the previous one."""
    source = SyncSource(account_id, organisation_id)
    _enqueue_catch_up(source, requested_catch_ups.start_requested(source))


def _enqueue_catch_up(source: SyncSource, outcome: CatchUpOutcome) -> None:
    if outcome.run is not None:
        enqueue_run(outcome.run)
    if outcome.retry_after is not None:
        enqueue_later(start_requested_catch_up, outcome.retry_after, source.account_id, source.organisation_id)


@_account_job(PROJECTION)
def project(account_id: int) -> None:
    """Project an account's pending marks: those of a run's pages, and those that another job left."""
    clear_dedup_key("project", account_id)
    with concurrency_slot(f"project:{account_id}", 1) as is_acquired:
        if not is_acquired:
            return
        projector.project(account_id, STEP_SECONDS)
    _enqueue_field_writes(account_id)
    if projector.has_pending(account_id):
        enqueue_once(project, account_id)


def _enqueue_field_writes(account_id: int) -> None:
    with transaction() as session:
        is_needed = field_values.has_stale(session, account_id)
    if is_needed:
        enqueue_once(write_fields, account_id)


@_account_job(BACKGROUND)
def write_fields(account_id: int) -> None:
    """Write the custom fields of records in Copper that differ from what they should be."""
    clear_dedup_key("write_fields", account_id)
    # One job at a time, which waits: what it has written to Copper has to be stored, or it is written again.
    with projection.limited_lock_wait(None):
        delay = field_writer.write(account_id, STEP_SECONDS)
    if delay:
        enqueue_later(write_fields, delay, account_id)
    elif delay is not None:
        enqueue_once(write_fields, account_id)


@_account_job(SYNC)
def advance_run(account_id: int, run_id: int) -> None:
    """Process a run's next pages for some seconds, then enqueue the next job of the run."""
    clear_dedup_key("advance_run", account_id, run_id)
    deadline = time.monotonic() + STEP_SECONDS
    while True:
        outcome = run_processor.step(account_id, run_id)
        if outcome.has_more and outcome.may_have_marks:
            enqueue_once(project, account_id)
        if not outcome.has_more or outcome.delay or time.monotonic() > deadline:
            break
    if outcome.has_more and outcome.delay:
        enqueue_later(advance_run, outcome.delay, account_id, run_id)
    elif outcome.has_more:
        enqueue_once(advance_run, account_id, run_id)


@_account_job(BACKGROUND)
def refresh_stale_relations(account_id: int) -> None:
    """Fetch the relations that were fetched longest ago."""
    clear_dedup_key("refresh_stale_relations", account_id)
    try:
        relations.refresh_stale(account_id)
    except VendorError as error:
        log.info("relations.deferred", account=account_id, error=str(error))


@_account_job(BACKGROUND)
def refresh_record_relations(account_id: int, record_type: str, record_id: int) -> None:
    """Fetch the relations of a record that was just viewed, if they are stale."""
    clear_dedup_key("refresh_record_relations", account_id, record_type, record_id)
    try:
        relations.refresh_record(account_id, RecordType(record_type), record_id)
    except VendorError as error:
        log.info("relations.deferred", account=account_id, error=str(error))


@_account_job(BACKGROUND)
def backfill_created_dates(account_id: int, organisation_id: int) -> None:
    """Look up the created dates of an organisation's newest invoices."""
    clear_dedup_key("backfill_created_dates", account_id, organisation_id)
    created_dates.backfill(account_id, organisation_id)


@job(BACKGROUND)
def refresh_idle_grants() -> None:
    """Refresh the grants that were not used for days, before Xero lets them expire."""
    clear_dedup_key("refresh_idle_grants")
    oauth.refresh_idle_grants(settings().grant_max_idle_days * 86_400, MAX_GRANTS_PER_JOB)


@job(BACKGROUND)
def run_cleanup() -> None:
    """Disconnect removed accounts and organisations at the vendors, and erase their data."""
    clear_dedup_key("run_cleanup")
    cleanup_tasks.run_due()


def enqueue_cleanup() -> bool:
    """Enqueue the due cleanup tasks; False if Redis is unavailable."""
    return enqueue_once(run_cleanup)


def enqueue_drain(source: SyncSource) -> bool:
    """Enqueue a drain of a source; False if Redis is unavailable."""
    return enqueue_once(drain, source.account_id, source.organisation_id)


def enqueue_run(run: Run) -> bool:
    """Enqueue the next page of a run; False if Redis is unavailable."""
    return enqueue_once(advance_run, run.account_id, run.id)
