"""The progress of sync runs: one bar per stage, with rate, calls left and time remaining."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cli.findings import RUN_LABELS
from runtime.settings import settings
from store.accounts import connection_status
from store.accounts.connection_status import ConnectionStatus
from store.db.database import transaction
from store.db.enums import RunState
from store.mirror.drift import merge_reports
from store.sync import runs
from store.sync.runs import Run
from worker.jobs import actors
from worker.sync import run_processor
from worker.vendors.errors import NotConnectedError, VendorError
from worker.vendors.rate_limit.budget import Budget
from worker.vendors.sync_types import RunKind

POLL_SECONDS = 0.1
BUDGET_POLL_SECONDS = 1.0
# After this, a run without progress is taken as a sign that no worker is running.
IDLE_WARNING_SECONDS = 10.0
# A run in this process ends with an error after this long without progress: somebody waits for it.
STUCK_SECONDS = 60.0
# Pauses up to this length are not reported.
MIN_REPORTED_PAUSE_SECONDS = 5.0
STAGES = ("people", "leads", "companies", "opportunities", "relations", "contacts", "invoices")


@dataclass(frozen=True)
class SyncResult:
    """The result of the runs of all sources: fetched rows and drift, by kind of row."""

    counts: dict[str, int]
    drift: dict[str, dict[str, int]]

    @property
    def drift_total(self) -> int:
        """Missing, stale and extra rows of all kinds."""
        return sum(sum(counts.values()) for counts in self.drift.values())


class ProgressView:
    """Progress bars and warnings of some runs, until they end."""

    def __init__(self, account_id: int, run_kind: RunKind, *, is_quiet: bool) -> None:
        self.account_id = account_id
        self.run_kind = run_kind
        self.run_ids: list[int] = []
        connections = require_connections(account_id)
        self.names = {connection.organisation_id: connection.name for connection in connections}
        self._budgets = {
            connection.organisation_id: Budget(account_id, connection.organisation_id, connection.tenant_id)
            for connection in connections
        }
        self._bars: dict[tuple[int, str], TaskID] = {}
        self._calls_left: dict[int, str] = {}
        self._next_budget_poll = 0.0
        self._idle_deadline = time.monotonic() + IDLE_WARNING_SECONDS
        self._fetched = 0
        self._last_progress = time.monotonic()
        self._reported: set[object] = set()
        self.progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=8),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[left]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True, highlight=False),
            disable=is_quiet,
        )

    def refresh(self) -> list[Run]:
        """Redraw the bars and return the runs; raises `NotConnectedError` if a connection was lost or removed."""
        with transaction() as session:
            current = runs.recent(session, self.account_id, self.run_ids)
        if len(current) < len(self.run_ids) or any(run.state == RunState.PAUSED for run in current):
            require_connections(self.account_id)
        if len(current) < len(self.run_ids):
            raise NotConnectedError("A connection was removed meanwhile. Run the command again.")
        if time.monotonic() > self._next_budget_poll:
            self._next_budget_poll = time.monotonic() + BUDGET_POLL_SECONDS
            self._calls_left = {
                organisation_id: _format_calls_left(budget) for organisation_id, budget in self._budgets.items()
            }
        for run in reversed(current):
            self._draw(run)
        fetched = sum(count["done"] for run in current for count in run.counts.values())
        if fetched != self._fetched:
            self._fetched, self._last_progress = fetched, time.monotonic()
        return current

    def raise_if_stuck(self, current: list[Run]) -> None:
        """Raise `VendorError` if a failing run has fetched nothing for `STUCK_SECONDS`."""
        failing = [run for run in current if run.state == RunState.RUNNING and run.error]
        seconds = time.monotonic() - self._last_progress
        if failing and seconds > STUCK_SECONDS:
            name = self.names[failing[0].organisation_id]
            raise VendorError(f"no progress for {seconds:.0f} s. {name}: {failing[0].error}")

    def _draw(self, run: Run) -> None:
        name = escape(self.names[run.organisation_id][:17])
        for stage in STAGES:
            count = run.counts.get(stage)
            if count is None:
                continue
            key = (run.organisation_id, stage)
            if key not in self._bars:
                self._bars[key] = self.progress.add_task(f"{name}: {stage}", total=None, rate="", left="")
            done, total = count["done"], count["total"] or count["done"]
            task = self.progress.tasks[self._bars[key]]
            is_current = run.state == RunState.RUNNING and run.stage == stage
            self.progress.update(
                self._bars[key],
                completed=done,
                total=max(total, done),
                rate=_format_rate(run, task.speed) if is_current else "",
                left=self._calls_left.get(run.organisation_id, "") if is_current else "",
            )

    def warn(self, current: list[Run], *, in_process: bool) -> None:
        """Report once that no worker seems to run, and why a run is paused."""
        is_idle = not any(run.counts for run in current)
        if not in_process and is_idle and time.monotonic() > self._idle_deadline:
            self._report_once("idle", "No worker has picked this up yet. Is `patina worker` running?")
        for run in current:
            pause = (run.not_before - datetime.now(UTC)).total_seconds()
            if run.state == RunState.RUNNING and run.error and pause > MIN_REPORTED_PAUSE_SECONDS:
                name = self.names[run.organisation_id]
                self._report_once((run.id, run.error), f"{name}: {run.error}. Retrying in {pause:.0f} s.")

    def _report_once(self, key: object, message: str) -> None:
        if key not in self._reported:
            self._reported.add(key)
            self.report(message)

    def report(self, message: str) -> None:
        """Print a line above the bars."""
        self.progress.console.print(message, markup=False, soft_wrap=True)


def _format_rate(run: Run, speed: float | None) -> str:
    """The speed of a run, or how long it is paused."""
    pause = (run.not_before - datetime.now(UTC)).total_seconds()
    if pause > 1:
        return f"paused {pause:.0f} s"
    return f"{speed:,.0f}/s" if speed else ""


def _format_calls_left(budget: Budget) -> str:
    remaining = budget.remaining()
    return f"{remaining.minute} left" if remaining else ""


def require_connections(account_id: int) -> list[ConnectionStatus]:
    """The account's connections; raises `NotConnectedError` unless Copper and an organisation are connected."""
    with transaction() as session:
        connections = connection_status.list_statuses(session, account_id)
    if not any(connection.organisation_id == 0 for connection in connections):
        raise NotConnectedError("Copper isn't connected. Run `patina connect` first.")
    if len(connections) == 1:
        raise NotConnectedError("No Xero organisation is connected. Run `patina connect` first.")
    for connection in connections:
        if connection.needs_reauth and connection.organisation_id:
            raise NotConnectedError(
                f"{connection.name} is disconnected from Xero. Run `patina connect`, or remove it in Settings."
            )
        if connection.needs_reauth:
            raise NotConnectedError("Copper rejected the API key. Run `patina connect` with a new one.")
    return connections


def run_and_watch(
    account_id: int, run_kind: RunKind, *, is_quiet: bool, timeout: float | None = None, in_process: bool = False
) -> SyncResult:
    """Start a run of every source and show its progress until all have ended.

    The workers do the runs, or this process if `in_process`. Raises `NotConnectedError` if a source is disconnected,
    `VendorError` if a run fails or, in this process, is stuck, and `TimeoutError` after `timeout` seconds. The runs
    survive an interruption.
    """
    view = ProgressView(account_id, run_kind, is_quiet=is_quiet)
    started = run_processor.start_account_runs(account_id, run_kind)
    if not started:
        raise NotConnectedError(
            "Nothing has been imported yet, so there is nothing to catch up. Run `patina backfill`."
        )
    view.run_ids = [run.id for run in started]
    if in_process and not is_quiet:
        view.report(f"Reading {settings().xero_api_url} and {settings().copper_api_url}")
    if not in_process:
        for run in started:
            actors.enqueue_run(run)
    ended = _watch(view, time.monotonic() + timeout if timeout else None, in_process=in_process)
    failed = [run for run in ended if run.state == RunState.FAILED]
    if failed:
        raise VendorError(f"the {RUN_LABELS[run_kind]} failed at {failed[0].stage}: {failed[0].error}")
    return SyncResult(_sum_counts(ended), merge_reports(*[run.drift for run in ended]))


def _watch(view: ProgressView, deadline: float | None, *, in_process: bool) -> list[Run]:
    """Refresh the view until all runs have ended, and return them."""
    with view.progress:
        while True:
            current = view.refresh()
            if all(run.state in {RunState.DONE, RunState.FAILED} for run in current):
                return current
            if deadline and time.monotonic() > deadline:
                raise TimeoutError(_describe_timeout(view.run_kind, current))
            if in_process:
                view.raise_if_stuck(current)
            if not (in_process and _step(current)):
                # Workers advance the runs; their progress is read from PostgreSQL.
                time.sleep(POLL_SECONDS)
            view.warn(current, in_process=in_process)


def _step(current: list[Run]) -> bool:
    """Do one step of each run that is not paused; returns False if there is nothing more to do now."""
    ready = [run for run in current if run.state == RunState.RUNNING and run.not_before <= datetime.now(UTC)]
    outcomes = [run_processor.step(run.account_id, run.id) for run in ready]
    return any(outcome.has_more for outcome in outcomes)


def _describe_timeout(run_kind: RunKind, current: list[Run]) -> str:
    unfinished = [run for run in current if run.state == RunState.RUNNING]
    details = "; ".join(f"{run.stage}: {run.error or 'no worker has picked it up'}" for run in unfinished)
    return f"the {RUN_LABELS[run_kind]} timed out ({details}). Is a worker running?"


def _sum_counts(ended: list[Run]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for run in ended:
        for stage in STAGES:
            if stage in run.counts:
                counts[stage] = counts.get(stage, 0) + run.counts[stage]["done"]
    return counts
