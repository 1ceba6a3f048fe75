"""Backfill, catch-up and reconciliation: what the vendors hold, page by page, the cursor committed with the page.

A run belongs to one source, a Xero organisation or the account's Copper, whose `stages` say what its pages
are. It is a chain of short steps; kill any process anywhere and the next one goes on from the last page.
A backfill fetches everything for the first time; a catch-up what changed since the last one; a reconciliation
everything again, counting how far the mirror had drifted; a dry run counts and writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from runtime.logs import scrub
from runtime.settings import settings
from store import accounts, mirror, projection, runs
from store.database import AccountClosedError, Session, transaction
from store.drift import Found, added
from store.inbox import Source
from store.runs import Run, StepLostError
from worker.copper import stages as copper
from worker.errors import PassingError, ReconnectNeededError, VendorError
from worker.projecting import project
from worker.steps import Drift, Kind, Step, kind_of, nothing
from worker.xero import stages as xero

log = structlog.get_logger()
PASSING_SECONDS, LONGEST_SECONDS = 15.0, 900.0
UNSETTLED_TRIES = 20
MARKS_AHEAD = 10_000
SHOWN = "shown"


@dataclass(frozen=True)
class Stepped:
    """What a step came to: whether another follows, and in how many seconds."""

    more: bool
    delay: float = 0.0


OVER = Stepped(more=False)


def begin(account_id: int, kind: Kind) -> list[Run]:
    """Begin a run of every connected source of the account, or find the ones at work.

    A catch-up of a source that was never read in full has nowhere to start from: it is left out.
    """
    with transaction() as session:
        return [run for source in _connected_sources(session, account_id) for run in _begin(session, source, kind)]


def begin_one(source: Source, kind: Kind) -> list[Run]:
    """The same for one source of the account."""
    with transaction() as session:
        if source not in _connected_sources(session, source.account_id):
            return []
        return _begin(session, source, kind)


def _connected_sources(session: Session, account_id: int) -> list[Source]:
    known = accounts.connections(session, account_id)
    return [Source(account_id, connection.source_id) for connection in known if not connection.is_lost]


def _begin(session: Session, source: Source, kind: Kind) -> list[Run]:
    place = (source.account_id, source.organisation_id)
    # A connection that came back by another way than the settings page takes its paused runs along.
    runs.unpause(session, *place)
    if kind is Kind.CATCH_UP and not _was_read(session, source):
        return []
    return [runs.start(session, *place, kind.value, _stages(source.organisation_id, kind)[0])]


def begin_import(session: Session, account_id: int) -> list[Run]:
    """Begin a backfill, in the caller's transaction, of every source of the account that was never read in full.

    One that is at work already is found again, so whoever asks twice begins nothing twice.
    """
    sources = [Source(account_id, 0)] if accounts.copper_state(session, account_id) else []
    sources += [Source(account_id, one.id) for one in accounts.organisations(session, account_id)]
    unread = [source.organisation_id for source in sources if not _was_read(session, source)]
    return [runs.start(session, account_id, one, Kind.BACKFILL.value, _stages(one, Kind.BACKFILL)[0]) for one in unread]


def _was_read(session: Session, source: Source) -> bool:
    if source.is_copper:
        state = accounts.copper_state(session, source.account_id)
        return state is not None and state.records_seen_to is not None
    organisation = accounts.organisation(session, source.account_id, source.organisation_id)
    if organisation is None:
        return False
    is_refused = "Invoices" in organisation.refused and organisation.contacts_seen_to is not None
    return organisation.invoices_seen_to is not None or is_refused


def _stages(organisation_id: int, kind: Kind) -> tuple[str, ...]:
    of_vendor = xero.stages(kind) if organisation_id else copper.stages(kind)
    return (*of_vendor, SHOWN) if kind.writes else of_vendor


def step(account_id: int, run_id: int) -> Stepped:
    """Fetch and commit a run's next page."""
    with transaction() as session:
        taken = runs.take(session, account_id, run_id, settings().lease_seconds)
    if taken is None:
        return OVER
    run, lease = taken
    try:
        result = _fetch(run)
        with transaction() as session:
            found = result.write(session)
            state = _advance(session, run, lease, result, found)
            is_ahead = projection.waits(session, account_id, MARKS_AHEAD)
    except (StepLostError, AccountClosedError):
        return OVER
    except ReconnectNeededError as error:
        return _pause(run, lease, error)
    except PassingError as error:
        # A 500 may be this very page's, so it counts as a try; the longer it lasts, the rarer the tries.
        growing = min(PASSING_SECONDS * 2.0**run.attempts, LONGEST_SECONDS) if error.suspect else PASSING_SECONDS
        return _put_back(run, lease, error, delay=error.retry_after or growing, free=not error.suspect)
    except VendorError as error:
        return _put_back(run, lease, error, delay=error.retry_after or 5.0, free=error.retry_after is not None)
    except Exception as error:
        log.exception("run.failed_step", account=account_id, run=run_id, stage=run.stage)
        return _put_back(run, lease, error, delay=5.0, free=False)
    # Others project beside the run, many pages at a time; it does so itself where they are not there or do not keep up.
    if is_ahead:
        project(account_id)
    first_or_last = result.done and (result.cursor is None or not run.cursor)
    if kind_of(run) is Kind.BACKFILL and (first_or_last or run.stage == SHOWN):
        with transaction() as session:
            mirror.analyze(session)
    return Stepped(state == "running", result.delay)


def _fetch(run: Run) -> Step:
    if run.stage == SHOWN:
        return _shown(run)
    if run.stage == "rows":
        return _rows(run)
    if run.organisation_id == 0:
        return copper.fetch(run)
    with transaction() as session:
        organisation = accounts.organisation(session, run.account_id, run.organisation_id)
    return xero.fetch(run, organisation) if organisation else Step(nothing, None, 0)


def _shown(run: Run) -> Step:
    """A run is over when all that it brought is shown."""
    project(run.account_id)
    return Step(nothing, None, 0)


def _rows(run: Run) -> Step:
    """The read model against a rebuild, repaired where it differs; while marks wait it cannot be told."""
    project(run.account_id)
    tries = int(run.cursor.get("tries", 0))
    with transaction() as session:
        projection.take_turn(session, run.account_id)
        found = projection.compare(session, run.account_id)
        if not found.marks and not found.clean and kind_of(run).writes:
            projection.rebuild(session, run.account_id)
    if found.marks and tries < UNSETTLED_TRIES:
        return Step(nothing, {"tries": tries + 1}, 0, delay=0.5)
    if found.marks:
        log.warning("run.rows_unsettled", account=run.account_id, run=run.id, marks=found.marks)
        return Step(nothing, None, 0)
    return Step(lambda _: {"rows": Found(found.missing, found.stale, found.extra)}, None, 1, 1)


def _advance(session: Session, run: Run, lease: UUID, result: Step, found: Drift) -> str:
    known = run.counts.get(run.stage, {"done": 0, "of": None})
    counts = {
        **run.counts,
        run.stage: {"done": known["done"] + result.done, "of": result.total or known["of"]},
    }
    stage, cursor, state = run.stage, result.cursor, "running"
    if cursor is None:
        stages = _stages(run.organisation_id, kind_of(run))
        place = stages.index(run.stage) + 1
        cursor = result.carry
        if place == len(stages):
            state = "done"
        else:
            stage = stages[place]
    report = {kind: dict(vars(one)) for kind, one in found.items()}
    drift = added(run.drift, report) if kind_of(run).counts_drift else None
    runs.advance(
        session,
        run,
        lease,
        stage=stage,
        cursor=cursor,
        counts=counts,
        drift=drift,
        state=state,
        delay=result.delay,
    )
    _tell(run, result, state, drift)
    return state


def _tell(run: Run, result: Step, state: str, drift: dict[str, dict[str, int]] | None) -> None:
    place = {"account": run.account_id, "run": run.id, "organisation": run.organisation_id, "kind": run.kind}
    log.info("run.advanced", **place, stage=run.stage, rows=result.done, state=state)
    if state == "done" and drift is not None:
        rows = sum(sum(one.values()) for one in drift.values())
        say: Any = log.warning if rows else log.info
        say("run.drift", **place, total=rows, **{name: one for name, one in drift.items() if any(one.values())})


def _pause(run: Run, lease: UUID, error: Exception) -> Stepped:
    """A run whose connection is lost is over until that is back."""
    with transaction() as session:
        runs.pause(session, run, lease, scrub(str(error)))
    log.warning("run.paused", account=run.account_id, run=run.id, error=scrub(str(error)))
    return OVER


def _put_back(run: Run, lease: UUID, error: Exception, *, delay: float, free: bool) -> Stepped:
    said = scrub(str(error)) or type(error).__name__
    with transaction() as session:
        most = settings().event_attempts
        state = runs.put_back(session, run, lease, error=said, delay=delay, most=most, free=free)
    log.warning("run.put_back", account=run.account_id, run=run.id, state=state, error=said, delay=delay)
    return Stepped(state == "running", delay)
