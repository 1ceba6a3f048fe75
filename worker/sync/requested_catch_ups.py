"""Catch-ups requested by events.

Xero's payments, credit notes and future categories change invoices without an INVOICE event, and name nothing that can
be fetched by id. An event of any category at least says that something changed in its organisation: it starts a
catch-up there. Copper notifications beyond the limit are only counted: they start a catch-up of Copper, or
a reconciliation if deletions were among them, because a catch-up cannot see deletions. The run is started in the
transaction that finishes the events: after a crash they are either still pending, or covered by a run that fetches
later than they were received.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import structlog

from runtime import metrics
from store.accounts import copper_credentials, xero_organisations
from store.db.database import Session, transaction
from store.ingest import inbox
from store.ingest.inbox import SyncSource
from store.sync import runs, scheduled_tasks
from store.sync.runs import Run
from worker.vendors.copper import stages as copper_stages
from worker.vendors.sync_types import RunKind
from worker.vendors.xero import stages as xero_stages

log = structlog.get_logger()
MIN_CATCH_UP_INTERVAL_SECONDS = 30.0
# A reconciliation costs thousands of calls.
MIN_RECONCILIATION_INTERVAL_SECONDS = 3_600.0
# A running run may have fetched before the event was received, so another one has to follow it.
RUNNING_DELAY_SECONDS = 5.0
CATCH_UP_TASK, RECONCILIATION_TASK = "requested_catch_up", "requested_reconciliation"


@dataclass(frozen=True)
class CatchUpOutcome:
    """The run started, the number of events it covers, and seconds until the next attempt (None: none is pending)."""

    run: Run | None = None
    event_count: int = 0
    retry_after: float | None = None


NO_CATCH_UP = CatchUpOutcome()


def start_requested(source: SyncSource) -> CatchUpOutcome:
    """Start the catch-up that events of `source` request, at most one in `MIN_CATCH_UP_INTERVAL_SECONDS`."""
    with transaction() as session:
        if not inbox.has_catch_up_requests(session, source):
            return NO_CATCH_UP
        outcome = _start_copper(session, source) if source.is_copper else _start(session, source, RunKind.CATCH_UP)
    if outcome.run is not None:
        metrics.SYNC_RUNS_STARTED.labels(outcome.run.kind).inc()
        log.info(
            f"{outcome.run.kind}.requested",
            account=source.account_id,
            organisation=source.organisation_id,
            run=outcome.run.id,
            events=outcome.event_count,
        )
    return outcome


def _start_copper(session: Session, source: SyncSource) -> CatchUpOutcome:
    """Start a requested reconciliation, which covers requested catch-ups as well; otherwise a requested catch-up."""
    reconciliation = _start_if_requested(session, source, RunKind.RECONCILIATION)
    if reconciliation.run is not None:
        covered = inbox.complete_catch_up_requests(session, source, inbox.CATCH_UP)
        return replace(reconciliation, event_count=reconciliation.event_count + covered)
    catch_up = _start_if_requested(session, source, RunKind.CATCH_UP)
    delays = [outcome.retry_after for outcome in (reconciliation, catch_up) if outcome.retry_after is not None]
    return CatchUpOutcome(catch_up.run, reconciliation.event_count + catch_up.event_count, min(delays, default=None))


def _start_if_requested(session: Session, source: SyncSource, kind: RunKind) -> CatchUpOutcome:
    if not inbox.has_catch_up_requests(session, source, kind.value):
        return NO_CATCH_UP
    return _start(session, source, kind, kind.value)


def _start(session: Session, source: SyncSource, kind: RunKind, category: str | None = None) -> CatchUpOutcome:
    """Start a run for the events of a category (None: of any)."""
    scope = (source.account_id, source.organisation_id)
    running = runs.running_kinds(session, *scope)
    was_read = _was_read_in_full(session, source)
    if not was_read and RunKind.BACKFILL.value not in running:
        # The source was removed, or its first backfill has not started: that will read everything.
        return CatchUpOutcome(event_count=inbox.complete_catch_up_requests(session, source, category))
    if not was_read or kind.value in running:
        return _defer(session, source, RUNNING_DELAY_SECONDS, category)
    task, interval = f"{CATCH_UP_TASK}:{source.organisation_id}", MIN_CATCH_UP_INTERVAL_SECONDS
    if kind is RunKind.RECONCILIATION:
        task, interval = RECONCILIATION_TASK, MIN_RECONCILIATION_INTERVAL_SECONDS
    delay = scheduled_tasks.claim_for_account(session, source.account_id, task, interval)
    if delay:
        return _defer(session, source, delay, category)
    stages = copper_stages if source.is_copper else xero_stages
    run = runs.start_if_idle(session, *scope, kind.value, stages.stages(kind)[0])
    if run is None:
        return _defer(session, source, RUNNING_DELAY_SECONDS, category)
    return CatchUpOutcome(run, inbox.complete_catch_up_requests(session, source, category))


def _was_read_in_full(session: Session, source: SyncSource) -> bool:
    if source.is_copper:
        connection = copper_credentials.find_connection(session, source.account_id)
        return connection is not None and connection.records_synced_through is not None
    organisation = xero_organisations.find(session, source.account_id, source.organisation_id)
    return organisation is not None and organisation.invoices_synced_through is not None


def _defer(session: Session, source: SyncSource, seconds: float, category: str | None) -> CatchUpOutcome:
    inbox.defer_catch_up_requests(session, source, seconds, category)
    return CatchUpOutcome(retry_after=seconds)
