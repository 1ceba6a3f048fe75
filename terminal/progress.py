"""Progress of a run in the terminal: a bar for each kind, with rate, calls left and time to go."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from store import accounts, runs
from store.accounts import Connection
from store.database import transaction
from store.drift import added
from store.runs import Run
from terminal.words import RUN_KINDS
from worker import jobs, sync
from worker.budget import Budget
from worker.errors import NotConnectedError, VendorError
from worker.steps import Kind

LOOK_SECONDS = 0.1
IDLE_SECONDS = 10.0
BUDGET_SECONDS = 1.0
STAGES = ("people", "leads", "companies", "opportunities", "relations", "contacts", "invoices")
WAIT_SECONDS = 5.0


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
        self.account_id = account_id
        self.kind = kind
        self.ids: list[int] = []
        connections = connected(account_id)
        self.names = {connection.source_id: connection.name for connection in connections}
        self._budgets = {
            connection.source_id: Budget(account_id, connection.source_id, connection.tenant_id)
            for connection in connections
        }
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
            console=Console(stderr=True, highlight=False),
            disable=quiet,
        )

    def look(self) -> list[Run]:
        """Draw how far the runs are, and return them; raises `NotConnectedError` when one lost its connection."""
        with transaction() as session:
            now = runs.recent(session, self.account_id, self.ids)
        if len(now) < len(self.ids) or any(run.state == "paused" for run in now):
            connected(self.account_id)
        if len(now) < len(self.ids):
            raise NotConnectedError("A connection was removed meanwhile. Run the command again.")
        if time.monotonic() > self._next_look:
            self._next_look = time.monotonic() + BUDGET_SECONDS
            self._left = {source: _calls_left(budget) for source, budget in self._budgets.items()}
        for run in reversed(now):
            self._draw(run)
        return now

    def _draw(self, run: Run) -> None:
        name = escape(self.names[run.organisation_id][:17])
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


def connected(account_id: int) -> list[Connection]:
    """The account's connections; raises `NotConnectedError` unless Copper and an organisation are, and all work."""
    with transaction() as session:
        known = accounts.connections(session, account_id)
    if not any(connection.source_id == 0 for connection in known):
        raise NotConnectedError("Copper isn't connected. Run `patina connect` first.")
    if len(known) == 1:
        raise NotConnectedError("No Xero organisation is connected. Run `patina connect` first.")
    for connection in known:
        if connection.is_lost and connection.source_id:
            raise NotConnectedError(
                f"{connection.name} is disconnected from Xero. Run `patina connect`, or remove it in Settings."
            )
        if connection.is_lost:
            raise NotConnectedError("Copper rejected the API key. Run `patina connect` with a new one.")
    return known


def work_off(account_id: int, kind: Kind, *, quiet: bool, seconds: float | None = None, here: bool = False) -> Outcome:
    """Begin runs of all sources, have the workers do them (or, with `here`, this process), and watch them end.

    Raises `NotConnectedError` when a source is or gets disconnected, `VendorError` when a run fails, and
    `TimeoutError` after `seconds`. Interrupted, the runs stay and go on.
    """
    watch = Watch(account_id, kind, quiet=quiet)
    began = sync.begin(account_id, kind)
    if not began:
        raise NotConnectedError(
            "Nothing has been imported yet, so there is nothing to catch up. Run `patina backfill`."
        )
    watch.ids = [run.id for run in began]
    for run in began if not here else ():
        jobs.wake_run(run)
    ended = _watch(watch, time.monotonic() + seconds if seconds else None, here=here)
    failed = [run for run in ended if run.state == "failed"]
    if failed:
        raise VendorError(f"the {RUN_KINDS[kind]} failed at {failed[0].stage}: {failed[0].error}")
    return Outcome(_counts(ended), added(*[run.drift for run in ended]))


def _watch(watch: Watch, until: float | None, *, here: bool) -> list[Run]:
    """Watch runs until all have ended."""
    warn = _warner(watch)
    with watch.progress:
        while True:
            now = watch.look()
            if all(run.state in {"done", "failed"} for run in now):
                return now
            if until and time.monotonic() > until:
                raise TimeoutError(_waiting_for(watch.kind, now))
            if not (here and _step(now)):
                time.sleep(LOOK_SECONDS)
            warn(now, here)


def _step(now: list[Run]) -> bool:
    """Take a step of each run that may go on; False when all have to wait."""
    ready = [run for run in now if run.state == "running" and run.not_before <= datetime.now(UTC)]
    steps = [sync.step(run.account_id, run.id) for run in ready]
    return any(one.more for one in steps)


def _warner(watch: Watch) -> Callable[[list[Run], bool], None]:
    """Says once what a watcher should know: that no worker is there, and why a run waits."""
    patience = time.monotonic() + IDLE_SECONDS
    said: set[object] = set()

    def say(key: object, text: str) -> None:
        if key not in said:
            said.add(key)
            watch.progress.console.print(text, markup=False, soft_wrap=True)

    def warn(now: list[Run], here: bool) -> None:
        if not here and time.monotonic() > patience and not any(run.counts for run in now):
            say("idle", "No worker has taken this up yet. Is `patina worker` running?")
        for run in now:
            wait = (run.not_before - datetime.now(UTC)).total_seconds()
            if run.state == "running" and run.error and wait > WAIT_SECONDS:
                name = watch.names[run.organisation_id]
                say((run.id, run.error), f"{name}: {run.error}. Trying again in {wait:.0f} s.")

    return warn


def _waiting_for(kind: Kind, now: list[Run]) -> str:
    stuck = [run for run in now if run.state == "running"]
    said = "; ".join(f"{run.stage}: {run.error or 'no worker has taken it up'}" for run in stuck)
    return f"the {RUN_KINDS[kind]} did not end in time ({said}). Is a worker running?"


def _counts(now: list[Run]) -> dict[str, int]:
    counts: dict[str, Any] = {}
    for run in now:
        for stage in STAGES:
            if stage in run.counts:
                counts[stage] = counts.get(stage, 0) + run.counts[stage]["done"]
    return counts
