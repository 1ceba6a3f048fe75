"""Catch-ups requested by events.

Xero's payments, credit notes and future categories change invoices without an INVOICE event, and name nothing that can
be fetched by id. An event of any category at least says that something changed in its organisation: it starts a
catch-up there. Copper notifications beyond the limit are only counted: they start a catch-up of Copper, or
a reconciliation if deletions were among them, because a catch-up cannot see deletions. The run is started in the
transaction that finishes the events: after a crash they are either still pending, or covered by a run that fetches
later than they were received.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import structlog

from runtime import metrics
from store.db.database import Session, transaction
from store.ingest import inbox
from store.ingest.inbox import SyncSource
from store.sync import runs, scheduled_tasks
from store.sync.runs import Run
from worker.vendors.connector import Connector, RunRequest, SyncCoverage
from worker.vendors.connectors import connector_for
from worker.vendors.sync_types import RunKind

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
        outcome = _start_first(session, source)
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


def _start_first(session: Session, source: SyncSource) -> CatchUpOutcome:
    """Start the first requested run that can start now, which covers the requests of those after it as well."""
    connector = connector_for(source)
    outcome, requests = NO_CATCH_UP, deque(connector.run_requests())
    while requests and outcome.run is None:
        outcome = _combine(outcome, _start_if_requested(session, source, connector, requests.popleft()))
    if outcome.run is None:
        return outcome
    covered = sum(inbox.complete_catch_up_requests(session, source, request.category) for request in requests)
    return replace(outcome, event_count=outcome.event_count + covered)


def _combine(first: CatchUpOutcome, second: CatchUpOutcome) -> CatchUpOutcome:
    delays = [outcome.retry_after for outcome in (first, second) if outcome.retry_after is not None]
    return CatchUpOutcome(second.run, first.event_count + second.event_count, min(delays, default=None))


def _start_if_requested(
    session: Session, source: SyncSource, connector: Connector, request: RunRequest
) -> CatchUpOutcome:
    """Start a run if events request it, at most one in an interval; otherwise defer or complete them."""
    kind, category = request.run_kind, request.category
    if not inbox.has_catch_up_requests(session, source, category):
        return NO_CATCH_UP
    scope = (source.account_id, source.organisation_id)
    running = runs.running_kinds(session, *scope)
    was_read = connector.coverage(session) is SyncCoverage.FULL
    if not was_read and RunKind.BACKFILL.value not in running:
        # The source was removed, its first backfill has not started, which will read everything, or the vendor refuses
        # what has changed.
        return CatchUpOutcome(event_count=inbox.complete_catch_up_requests(session, source, category))
    if not was_read or kind.value in running:
        return _defer(session, source, RUNNING_DELAY_SECONDS, category)
    task, interval = f"{CATCH_UP_TASK}:{source.organisation_id}", MIN_CATCH_UP_INTERVAL_SECONDS
    if kind is RunKind.RECONCILIATION:
        task, interval = RECONCILIATION_TASK, MIN_RECONCILIATION_INTERVAL_SECONDS
    delay = scheduled_tasks.claim_for_account(session, source.account_id, task, interval)
    if delay:
        return _defer(session, source, delay, category)
    run = runs.start_if_idle(session, *scope, kind.value, connector.stages(kind)[0])
    if run is None:
        return _defer(session, source, RUNNING_DELAY_SECONDS, category)
    return CatchUpOutcome(run, inbox.complete_catch_up_requests(session, source, category))


def _defer(session: Session, source: SyncSource, seconds: float, category: str | None) -> CatchUpOutcome:
    inbox.defer_catch_up_requests(session, source, seconds, category)
    return CatchUpOutcome(retry_after=seconds)
