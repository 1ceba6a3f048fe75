"""Sync runs: backfill, catch-up, reconciliation and dry run.

A run belongs to one source: a Xero organisation, or the account's Copper. Its stages come from the source's connector.
A run is a chain of short steps; each fetches one page and commits the page's rows together with the cursor, so that a
run continues from its last page after any process is killed. A backfill fetches everything for the first time; a
catch-up fetches what changed since the last one; a reconciliation fetches everything again and counts how far the
mirror had drifted; a dry run counts drift and writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from runtime.logs import scrub
from runtime.settings import settings
from store.accounts import connection_status
from store.db.database import AccountClosedError, ConnectionLostError, Session, transaction
from store.db.enums import RunState
from store.ingest.inbox import SyncSource
from store.mirror import mirror
from store.mirror.drift import DriftCounts, merge_reports
from store.read_model import field_values, projection
from store.sync import runs
from store.sync.runs import NewRun, Run, RunLeaseLostError, ScheduledRun
from worker.sync import lease_keeper
from worker.sync.projector import project
from worker.vendors.connector import Connector, SyncCoverage
from worker.vendors.connectors import connector_for, list_sources
from worker.vendors.errors import AuthorizationLostError, TransientError, VendorError
from worker.vendors.rate_limit.usage import collected_usage
from worker.vendors.sync_types import (
    PROJECT_STAGE,
    VERIFY_STAGE,
    DriftByType,
    PageResult,
    RunKind,
    run_kind_of,
    write_nothing,
)

log = structlog.get_logger()
TRANSIENT_DELAY_SECONDS, MAX_DELAY_SECONDS = 15.0, 900.0
ERROR_DELAY_SECONDS = 5.0
MAX_VERIFY_ATTEMPTS = 20
VERIFY_DELAY_SECONDS = 0.5
# A step of a catch-up fetches its next empty pages for this long, less than a lease.
MAX_EMPTY_PAGES_SECONDS = 1.5
# A run whose account has this many pending marks projects them itself.
MAX_PENDING_MARKS = 10_000


@dataclass(frozen=True)
class StepOutcome:
    """Whether another step follows, and after how many seconds; whether the step may have left marks to project."""

    has_more: bool
    delay: float = 0.0
    may_have_marks: bool = True


FINISHED = StepOutcome(has_more=False)


def start_account_runs(account_id: int, kind: RunKind) -> list[Run]:
    """Start a run of every connected source of the account, or return the one already running.

    A catch-up omits sources that were never read in full, because it has no time to start from.
    """
    with transaction() as session:
        return [run for source in _connected_sources(session, account_id) for run in _start(session, source, kind)]


def start_scheduled_runs(session: Session, starts: Mapping[int, float], kind: RunKind) -> list[ScheduledRun]:
    """Start a run of every connected source of accounts, each account's after its delay in seconds.

    The same as `start_account_runs` for each of them, but with a number of statements that does not depend on how many
    they are. A run that is already running keeps its own time if that is earlier.
    """
    new_runs: list[NewRun] = []
    for connection in connection_status.list_connected(session, list(starts)):
        source = SyncSource(connection.account_id, connection.organisation_id)
        if kind is RunKind.CATCH_UP and not connection.was_read_in_full:
            continue
        first_stage = _stages(source, kind)[0]
        new_runs.append(NewRun(source.account_id, source.organisation_id, first_stage, starts[source.account_id]))
    return runs.start_all(session, kind.value, new_runs)


def start_source_run(source: SyncSource, kind: RunKind) -> list[Run]:
    """Start a run of one source, or return the one already running; none if it is disconnected or has to be omitted."""
    with transaction() as session:
        if source not in _connected_sources(session, source.account_id):
            return []
        return _start(session, source, kind)


def _connected_sources(session: Session, account_id: int) -> list[SyncSource]:
    connections = connection_status.list_statuses(session, account_id)
    return [
        SyncSource(account_id, connection.organisation_id) for connection in connections if not connection.needs_reauth
    ]


def _start(session: Session, source: SyncSource, kind: RunKind) -> list[Run]:
    scope = (source.account_id, source.organisation_id)
    # A connection can be restored without the settings page: its paused runs continue then, too.
    runs.unpause(session, *scope)
    if kind is RunKind.CATCH_UP and not _was_read_in_full(session, source):
        return []
    return [runs.start(session, *scope, kind.value, _stages(source, kind)[0])]


def start_initial_backfills(session: Session, account_id: int) -> list[Run]:
    """Start a backfill, in the caller's transaction, of every source of the account that was never read in full.

    Returns running ones as well, so calling it twice starts nothing twice.
    """
    kind = RunKind.BACKFILL
    return [
        runs.start(session, account_id, source.organisation_id, kind.value, _stages(source, kind)[0])
        for source in list_sources(session, account_id)
        if not _was_read_in_full(session, source)
    ]


def _was_read_in_full(session: Session, source: SyncSource) -> bool:
    """Whether all that the vendor allows was read: a refused endpoint does not start a backfill again and again."""
    return connector_for(source).coverage(session) is not SyncCoverage.INCOMPLETE


def _source(run: Run) -> SyncSource:
    return SyncSource(run.account_id, run.organisation_id)


def _stages(source: SyncSource, kind: RunKind) -> tuple[str, ...]:
    vendor_stages = connector_for(source).stages(kind)
    return (*vendor_stages, PROJECT_STAGE) if kind.writes else vendor_stages


def step(account_id: int, run_id: int) -> StepOutcome:
    """Fetch and commit a run's next page."""
    with transaction() as session:
        leased_run = runs.lease(session, account_id, run_id, settings().lease_seconds)
    if leased_run is None:
        return FINISHED
    run, lease = leased_run
    with lease_keeper.renewing(partial(_renew, run, lease), partial(_return, run, lease)):
        return _process_page(run, lease)


def _renew(run: Run, lease: UUID) -> bool:
    with transaction() as session:
        return runs.renew_lease(session, run, lease, settings().lease_seconds)


def _return(run: Run, lease: UUID) -> None:
    with transaction() as session:
        runs.return_lease(session, run, lease)


def _process_page(run: Run, lease: UUID) -> StepOutcome:
    try:
        with collected_usage() as usage:
            pages = _fetch_pages(run)
            may_have_marks = not all(_is_empty(run, page) for run, page in pages)
            with transaction() as session:
                state = _store_pages(session, pages, lease)
                is_projection_behind = may_have_marks and projection.has_pending(
                    session, run.account_id, MAX_PENDING_MARKS
                )
                usage.store(session)
            usage.clear()
    except ConnectionLostError:
        raise
    except (RunLeaseLostError, AccountClosedError):
        return FINISHED
    except AuthorizationLostError as error:
        return _pause(run, lease, error)
    except TransientError as error:
        # This page may be the cause of a 500, so it counts as an attempt, and the delay grows with the attempts.
        backoff = min(TRANSIENT_DELAY_SECONDS * 2.0**run.attempts, MAX_DELAY_SECONDS)
        delay = backoff if error.ambiguous else TRANSIENT_DELAY_SECONDS
        return _requeue(run, lease, error, delay=error.retry_after or delay, count_attempt=error.ambiguous)
    except projection.AccountBusyError as error:
        return _requeue(run, lease, error, delay=ERROR_DELAY_SECONDS, count_attempt=False)
    except VendorError as error:
        delay = error.retry_after or ERROR_DELAY_SECONDS
        return _requeue(run, lease, error, delay=delay, count_attempt=error.retry_after is None)
    except Exception as error:
        log.exception("run.step_failed", account=run.account_id, run=run.id, stage=run.stage)
        return _requeue(run, lease, error, delay=ERROR_DELAY_SECONDS, count_attempt=True)
    run, page = pages[-1]
    if run_kind_of(run) is RunKind.BACKFILL:
        _analyze(run, page)
    # Other jobs project the run's marks, many pages at a time. The run does it where they are missing or too slow.
    if is_projection_behind:
        project(run.account_id)
    return StepOutcome(state == RunState.RUNNING, page.delay, may_have_marks)


def _analyze(run: Run, page: PageResult) -> None:
    """Update the statistics of what a stage fills, after its first page and its last one."""
    if run.stage == PROJECT_STAGE:
        with transaction() as session:
            projection.analyze(session)
    elif page.row_count and (page.next_cursor is None or not run.cursor):
        with transaction() as session:
            mirror.analyze(session, run.stage)


def _fetch_pages(run: Run) -> list[tuple[Run, PageResult]]:
    """Fetch the run's next page, and after each empty page of a catch-up the next one: most catch-ups find nothing.

    If a page after the first fails, it is left to the next step, once the pages before it are committed.
    """
    connector, deadline = connector_for(_source(run)), time.monotonic() + MAX_EMPTY_PAGES_SECONDS
    page = _fetch(run, connector)
    pages = [(run, page)]
    while _is_empty(run, page) and time.monotonic() < deadline:
        run = _next_page(run, page)
        if run.state is not RunState.RUNNING:
            break
        try:
            page = _fetch(run, connector)
        except VendorError:
            break
        pages.append((run, page))
    return pages


def _is_empty(run: Run, page: PageResult) -> bool:
    """Whether a page ends a stage of a catch-up without rows."""
    is_catch_up = run_kind_of(run) is RunKind.CATCH_UP
    return is_catch_up and not page.row_count and page.next_cursor is None and not page.delay


def _fetch(run: Run, connector: Connector) -> PageResult:
    if run.stage == PROJECT_STAGE:
        return _wait_for_projection(run)
    if run.stage == VERIFY_STAGE:
        return _verify_read_model(run)
    return connector.fetch_page(run)


def _wait_for_projection(run: Run) -> PageResult:
    """Project all pending marks: a run is done when everything it fetched is visible.

    Most catch-ups fetch nothing, so they have no marks to wait for.
    """
    if run_kind_of(run) is RunKind.CATCH_UP and not any(progress["done"] for progress in run.counts.values()):
        return PageResult(partial(_update_synced_at, run.account_id), None, 0)
    project(run.account_id)
    return PageResult(write_nothing, None, 0)


def _update_synced_at(account_id: int, session: Session) -> DriftByType:
    projection.update_synced_at(session, account_id)
    return {}


def _verify_read_model(run: Run) -> PageResult:
    """Compare the read model with a rebuild, and rebuild it if they differ.

    The comparison is meaningless while marks are pending, so it is repeated until there are none.
    """
    project(run.account_id)
    attempts = int(run.cursor.get("attempts", 0))
    with transaction() as session:
        projection.lock_account(session, run.account_id)
        difference = field_values.compare(session, run.account_id)
        if not difference.marks and not difference.is_clean and run_kind_of(run).writes:
            projection.rebuild(session, run.account_id)
    if difference.marks and attempts < MAX_VERIFY_ATTEMPTS:
        return PageResult(write_nothing, {"attempts": attempts + 1}, 0, delay=VERIFY_DELAY_SECONDS)
    if difference.marks:
        log.warning("run.verification_skipped", account=run.account_id, run=run.id, marks=difference.marks)
        return PageResult(write_nothing, None, 0)
    counts = DriftCounts(difference.missing, difference.stale, difference.extra)
    return PageResult(lambda _: {"read_model": counts}, None, 1, 1)


def _store_pages(session: Session, pages: Sequence[tuple[Run, PageResult]], lease: UUID) -> RunState:
    """Write pages to the mirror, and store the run's progress after them; return its state."""
    for run, page in pages:
        drift = page.write(session)
        next_page = _next_page(run, page)
        if run_kind_of(run).counts_drift:
            page_drift = {record_type: dict(vars(drift_counts)) for record_type, drift_counts in drift.items()}
            next_page = replace(next_page, drift=merge_reports(run.drift, page_drift))
    runs.advance(
        session,
        run,
        lease,
        stage=next_page.stage,
        cursor=next_page.cursor,
        counts=next_page.counts,
        drift=next_page.drift if run_kind_of(run).counts_drift else None,
        state=next_page.state,
        delay=page.delay,
    )
    _log_progress(next_page, page, run.stage, len(pages))
    return next_page.state


def _next_page(run: Run, page: PageResult) -> Run:
    """The run after a page: at its next page, or done."""
    progress = run.counts.get(run.stage, {"done": 0, "total": None})
    counts = {
        **run.counts,
        run.stage: {"done": progress["done"] + page.row_count, "total": page.total or progress["total"]},
    }
    stage, cursor, state = run.stage, page.next_cursor, RunState.RUNNING
    if cursor is None:
        stages = [
            stage
            for stage in _stages(_source(run), run_kind_of(run))
            if stage == run.stage or stage not in page.skipped_stages
        ]
        next_index = stages.index(run.stage) + 1
        cursor = page.next_stage_cursor
        if next_index == len(stages):
            state = RunState.DONE
        else:
            stage = stages[next_index]
    return replace(run, stage=stage, cursor=cursor, counts=counts, state=state)


def _log_progress(run: Run, page: PageResult, stage: str, page_count: int) -> None:
    drift = run.drift if run_kind_of(run).counts_drift else None
    context = {"account": run.account_id, "run": run.id, "organisation": run.organisation_id, "kind": run.kind}
    log.info("run.advanced", **context, stage=stage, pages=page_count, rows=page.row_count, state=run.state)
    if run.state == RunState.DONE and drift is not None:
        total = sum(sum(counts.values()) for counts in drift.values())
        log_drift: Any = log.warning if total else log.info
        drifted = {record_type: counts for record_type, counts in drift.items() if any(counts.values())}
        log_drift("run.drift", **context, total=total, **drifted)


def _pause(run: Run, lease: UUID, error: Exception) -> StepOutcome:
    """Pause a run until its connection is restored."""
    with transaction() as session:
        runs.pause(session, run, lease, scrub(str(error)))
    log.warning("run.paused", account=run.account_id, run=run.id, error=scrub(str(error)))
    return FINISHED


def _requeue(run: Run, lease: UUID, error: Exception, *, delay: float, count_attempt: bool) -> StepOutcome:
    """Retry a run's page after `delay` seconds; the run fails when it has no attempts left."""
    message = scrub(str(error)) or type(error).__name__
    with transaction() as session:
        state = runs.release(
            session,
            run,
            lease,
            error=message,
            delay=delay,
            max_attempts=settings().event_max_attempts,
            count_attempt=count_attempt,
        )
    log.warning("run.requeued", account=run.account_id, run=run.id, state=state, error=message, delay=delay)
    return StepOutcome(state == RunState.RUNNING, delay)
