"""Catch-ups that events ask for.

Xero's payments, credit notes and whatever it adds next change invoices without an INVOICE event, and name nothing that
is fetched by id. An event of any category says at least that something changed in its organisation, so it begins a
catch-up there. The catch-up begins in the transaction that finishes the events: whatever dies, they either still wait
or are covered by a catch-up that fetches later than they came.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from store import accounts, chores, inbox, runs
from store.database import Session, transaction
from store.inbox import Source
from store.runs import Run
from worker import instruments
from worker.steps import Kind
from worker.xero import stages

log = structlog.get_logger()
SECONDS_BETWEEN = 30.0
# One that is at work may have fetched before the event came: another follows it.
SECONDS_WHILE_RUNNING = 5.0
CHORE = "requested_catch_up"


@dataclass(frozen=True)
class Requested:
    """The catch-up begun, the events that it covers, and in how many seconds to look again (None: none waits)."""

    run: Run | None = None
    events: int = 0
    again_in: float | None = None


NOTHING = Requested()


def begin(source: Source) -> Requested:
    """Begin the catch-up that events of `source` ask for, at most one in 30 s."""
    if source.is_copper:
        return NOTHING
    with transaction() as session:
        if not inbox.requests_catch_up(session, source):
            return NOTHING
        requested = _begin(session, source)
    if requested.run is not None:
        instruments.RUNS.labels(Kind.CATCH_UP.value).inc()
        place = {"account": source.account_id, "organisation": source.organisation_id}
        log.info("catch_up.requested", **place, run=requested.run.id, events=requested.events)
    return requested


def _begin(session: Session, source: Source) -> Requested:
    place = (source.account_id, source.organisation_id)
    organisation = accounts.organisation(session, *place)
    running = runs.running_kinds(session, *place)
    was_read = organisation is not None and organisation.invoices_seen_to is not None
    if not was_read and Kind.BACKFILL.value not in running:
        # It is gone, or nothing of it is here yet: whatever reads it first reads all of it.
        return Requested(events=inbox.finish_requests(session, source))
    if not was_read or Kind.CATCH_UP.value in running:
        return _defer(session, source, SECONDS_WHILE_RUNNING)
    wait = chores.claim_one(session, source.account_id, f"{CHORE}:{source.organisation_id}", SECONDS_BETWEEN)
    if wait:
        return _defer(session, source, wait)
    run = runs.start_another(session, *place, Kind.CATCH_UP.value, stages.stages(Kind.CATCH_UP)[0])
    if run is None:
        return _defer(session, source, SECONDS_WHILE_RUNNING)
    return Requested(run, inbox.finish_requests(session, source))


def _defer(session: Session, source: Source, seconds: float) -> Requested:
    inbox.defer_requests(session, source, seconds)
    return Requested(again_in=seconds)
