"""Progress of a run in the terminal: a bar for each kind, with rate, calls left and time to go."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from store import accounts, runs
from store.database import transaction
from store.drift import added
from store.runs import Run
from worker import jobs, sync
from worker.budget import Budget
from worker.errors import VendorError
from worker.steps import Kind

LOOK_SECONDS = 0.1
IDLE_SECONDS = 10.0
BUDGET_SECONDS = 1.0
STAGES = ("people", "leads", "companies", "opportunities", "relations", "contacts", "invoices")
WORDS = {
    Kind.BACKFILL: "backfill",
    Kind.CATCH_UP: "catch-up",
    Kind.RECONCILIATION: "reconciliation",
    Kind.DRY_RUN: "dry run",
}


@dataclass(frozen=True)
class Outcome:
    """What the runs of all sources came to: rows fetched and rows drifted, by kind."""

    counts: dict[str, int]
    drift: dict[str, dict[str, int]]

    @property
    def drifted(self) -> int:
        """Rows that were missing, stale or extra, in all."""
        return sum(sum(found.values()) for found in self.drift.values())


class Watch:
    """Bars of some runs until they end."""

    def __init__(self, account_id: int, kind: Kind, *, quiet: bool) -> None:
        with transaction() as session:
            organisations = accounts.organisations(session, account_id)
        self.account_id = account_id
        self.kind = kind
        self.ids: list[int] = []
        self._names = {one.id: one.name for one in organisations}
        self._budgets = {0: Budget.of_copper(account_id), **{one.id: Budget.of_xero(one) for one in organisations}}
        self._bars: dict[tuple[int, str], TaskID] = {}
        self._left: dict[int, str] = {}
        self._next_look = 0.0
        self.progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=8),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[left]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            disable=quiet,
        )

    def look(self) -> list[Run]:
        """Draw how far the runs are, and return them."""
        with transaction() as session:
            now = runs.recent(session, self.account_id, self.ids)
        if time.monotonic() > self._next_look:
            self._next_look = time.monotonic() + BUDGET_SECONDS
            self._left = {source: _calls_left(budget) for source, budget in self._budgets.items()}
        for run in reversed(now):
            self._draw(run)
        return now

    def _draw(self, run: Run) -> None:
        name = self._names.get(run.organisation_id, "Copper")[:17]
        for stage in STAGES:
            count = run.counts.get(stage)
            if count is None:
                continue
            key = (run.organisation_id, stage)
            if key not in self._bars:
                self._bars[key] = self.progress.add_task(f"{name}: {stage}", total=None, rate="", left="")
            done, total = count["done"], count["of"] or count["done"]
            task = self.progress.tasks[self._bars[key]]
            here = run.state == "running" and run.stage == stage
            self.progress.update(
                self._bars[key],
                completed=done,
                total=max(total, done),
                rate=_pace(run, task.speed) if here else "",
                left=self._left.get(run.organisation_id, "") if here else "",
            )


def _pace(run: Run, speed: float | None) -> str:
    """How fast a run goes, or for how long it has to wait."""
    wait = (run.not_before - datetime.now(UTC)).total_seconds()
    if wait > 1:
        return f"waits {wait:.0f} s"
    return f"{speed:,.0f}/s" if speed else ""


def _calls_left(budget: Budget) -> str:
    left = budget.left()
    return f"{left[0]} left" if left else ""


def work_off(account_id: int, kind: Kind, *, quiet: bool, seconds: float | None = None, here: bool = False) -> Outcome:
    """Begin runs of all sources, have the workers do them (or, with `here`, this process), and watch them end.

    Raises `VendorError` when a run fails, and `TimeoutError` after `seconds`. Interrupted, the runs stay and
    go on.
    """
    watch = Watch(account_id, kind, quiet=quiet)
    began = sync.begin(account_id, kind)
    watch.ids = [run.id for run in began]
    for run in began if not here else ():
        jobs.wake_run(run)
    until = time.monotonic() + seconds if seconds else None
    with watch.progress:
        warn = _warner(watch)
        while True:
            now = watch.look()
            if all(run.state != "running" for run in now):
                break
            if until and time.monotonic() > until:
                raise TimeoutError(_waiting_for(kind, now))
            if not (here and _step(now)):
                time.sleep(LOOK_SECONDS)
            if not here:
                warn(now)
    failed = [run for run in now if run.state == "failed"]
    if failed:
        raise VendorError(f"the {WORDS[kind]} stopped at {failed[0].stage}: {failed[0].error}")
    return Outcome(_counts(now), added(*[run.drift for run in now]))


def _step(now: list[Run]) -> bool:
    """Take a step of each run that may go on; False when all have to wait."""
    ready = [run for run in now if run.state == "running" and run.not_before <= datetime.now(UTC)]
    steps = [sync.step(run.account_id, run.id) for run in ready]
    return any(one.more for one in steps)


def _warner(watch: Watch) -> Callable[[list[Run]], None]:
    patience = time.monotonic() + IDLE_SECONDS
    told = False

    def warn(now: list[Run]) -> None:
        nonlocal told
        if not told and time.monotonic() > patience and not any(run.counts for run in now):
            watch.progress.console.print("No worker has taken this up yet. Is `patina worker` running?")
            told = True

    return warn


def _waiting_for(kind: Kind, now: list[Run]) -> str:
    stuck = [run for run in now if run.state == "running"]
    said = "; ".join(f"{run.stage}: {run.error or 'no worker has taken it up'}" for run in stuck)
    return f"the {WORDS[kind]} did not end in time ({said}). Is a worker running?"


def _counts(now: list[Run]) -> dict[str, int]:
    counts: dict[str, Any] = {}
    for run in now:
        for stage in STAGES:
            if stage in run.counts:
                counts[stage] = counts.get(stage, 0) + run.counts[stage]["done"]
    return counts
