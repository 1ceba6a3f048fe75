"""Catch-ups that events ask for.

Xero's payments, credit notes and whatever it adds next change invoices without an INVOICE event, and name nothing that
is fetched by id. An event of any category says at least that something changed in its organisation, so it begins a
catch-up there. Of Copper's notifications beyond the limit nothing is kept but that there were some: that begins a
catch-up of the account's Copper, or a reconciliation where deletions were among them, which no catch-up sees. It
begins in the transaction that finishes the events: whatever dies, they either still wait or are covered by a run that
fetches later than they came.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import structlog

from store import accounts, chores, inbox, runs
from store.database import Session, transaction
from store.inbox import Source
from store.runs import Run
from worker import instruments
from worker.copper import stages as copper_stages
from worker.steps import Kind
from worker.xero import stages as xero_stages

log = structlog.get_logger()
SECONDS_BETWEEN = 30.0
# Reading everything costs thousands of calls.
SECONDS_BETWEEN_RECONCILIATIONS = 3_600.0
# One that is at work may have fetched before the event came: another follows it.
SECONDS_WHILE_RUNNING = 5.0
CHORE = "requested_catch_up"


@dataclass(frozen=True)
class Requested:
    """The run begun, the events that it covers, and in how many seconds to look again (None: none waits)."""

    run: Run | None = None
    events: int = 0
    again_in: float | None = None


NOTHING = Requested()


def begin(source: Source) -> Requested:
    """Begin the catch-up that events of `source` ask for, at most one in 30 s."""
    with transaction() as session:
        if not inbox.requests_catch_up(session, source):
            return NOTHING
        requested = _begin_copper(session, source) if source.is_copper else _begin(session, source, Kind.CATCH_UP)
    if requested.run is not None:
        instruments.RUNS.labels(requested.run.kind).inc()
        place = {"account": source.account_id, "organisation": source.organisation_id}
        log.info(f"{requested.run.kind}.requested", **place, run=requested.run.id, events=requested.events)
    return requested


def _begin_copper(session: Session, source: Source) -> Requested:
    """What reads everything answers for the catch-ups, too."""
    whole = _begin_if_asked(session, source, Kind.RECONCILIATION)
    if whole.run is not None:
        return replace(whole, events=whole.events + inbox.finish_requests(session, source, inbox.CATCH_UP))
    changes = _begin_if_asked(session, source, Kind.CATCH_UP)
    waits = [one.again_in for one in (whole, changes) if one.again_in is not None]
    return Requested(changes.run, whole.events + changes.events, min(waits, default=None))


def _begin_if_asked(session: Session, source: Source, kind: Kind) -> Requested:
    return (
        _begin(session, source, kind, kind.value) if inbox.requests_catch_up(session, source, kind.value) else NOTHING
    )


def _begin(session: Session, source: Source, kind: Kind, only: str | None = None) -> Requested:
    """Begin a run for the events of the kind `only` (None: of any)."""
    place = (source.account_id, source.organisation_id)
    running = runs.running_kinds(session, *place)
    was_read = _was_read(session, source)
    if not was_read and Kind.BACKFILL.value not in running:
        # It is gone, or nothing of it is here yet: whatever reads it first reads all of it.
        return Requested(events=inbox.finish_requests(session, source, only))
    if not was_read or kind.value in running:
        return _defer(session, source, SECONDS_WHILE_RUNNING, only)
    name, seconds = f"{CHORE}:{source.organisation_id}", SECONDS_BETWEEN
    if kind is Kind.RECONCILIATION:
        name, seconds = "requested_reconciliation", SECONDS_BETWEEN_RECONCILIATIONS
    wait = chores.claim_one(session, source.account_id, name, seconds)
    if wait:
        return _defer(session, source, wait, only)
    stages = copper_stages if source.is_copper else xero_stages
    run = runs.start_another(session, *place, kind.value, stages.stages(kind)[0])
    if run is None:
        return _defer(session, source, SECONDS_WHILE_RUNNING, only)
    return Requested(run, inbox.finish_requests(session, source, only))


def _was_read(session: Session, source: Source) -> bool:
    """Whether all of it was read once, so that there is something to catch up with."""
    if source.is_copper:
        state = accounts.copper_state(session, source.account_id)
        return state is not None and state.records_seen_to is not None
    organisation = accounts.organisation(session, source.account_id, source.organisation_id)
    return organisation is not None and organisation.invoices_seen_to is not None


def _defer(session: Session, source: Source, seconds: float, only: str | None) -> Requested:
    inbox.defer_requests(session, source, seconds, only)
    return Requested(again_in=seconds)
