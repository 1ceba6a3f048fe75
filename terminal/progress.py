"""Progress of a backfill in the terminal: a bar for each kind, with rate and time to go."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from store import accounts, runs
from store.database import transaction
from store.runs import Run
from worker import jobs, sync
from worker.broker import wake
from worker.vendor import VendorError

LOOK_SECONDS = 0.1
IDLE_SECONDS = 10.0


def backfill(account_id: int, *, quiet: bool, seconds: float | None = None) -> dict[str, int]:
    """Begin a backfill, have the workers do it, and watch until it ends; returns counts by kind.

    Raises `VendorError` when a run fails, and `TimeoutError` after `seconds`.
    """
    began = sync.begin(account_id)
    for run in began:
        wake(jobs.advance_run, account_id, run.id)
    ids = [run.id for run in began]
    names = _names(account_id)
    until = time.monotonic() + seconds if seconds else None
    bars: dict[str, TaskID] = {}
    patience = time.monotonic() + IDLE_SECONDS
    with _progress(quiet) as progress:
        while True:
            with transaction() as session:
                now = runs.recent(session, account_id, ids)
            for run in reversed(now):
                _draw(progress, bars, names.get(run.organisation_id, "Copper"), run)
            if all(run.state != "running" for run in now):
                break
            if until and time.monotonic() > until:
                raise TimeoutError(_waiting_for(now))
            if patience and time.monotonic() > patience and not any(run.counts for run in now):
                progress.console.print("No worker has taken this up yet. Is `patina worker` running?")
                patience = 0
            time.sleep(LOOK_SECONDS)
    failed = [run for run in now if run.state == "failed"]
    if failed:
        raise VendorError(f"the backfill stopped at {failed[0].stage}: {failed[0].error}")
    return _counts(now)


def _waiting_for(now: list[Run]) -> str:
    stuck = [run for run in now if run.state == "running"]
    said = "; ".join(f"{run.stage}: {run.error or 'no worker has taken it up'}" for run in stuck)
    return f"the backfill did not end in time ({said}). Is a worker running?"


def _names(account_id: int) -> dict[int, str]:
    with transaction() as session:
        return {one.id: one.name for one in accounts.organisations(session, account_id)}


def _progress(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description:<32}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        disable=quiet,
    )


def _draw(progress: Progress, bars: dict[str, TaskID], name: str, run: Run) -> None:
    for stage, count in run.counts.items():
        if stage in {"organisation", "gone"}:
            continue
        key = f"{name[:20]}: {stage}"
        if key not in bars:
            bars[key] = progress.add_task(key, total=None, rate="")
        done, total = count["done"], count["of"] or count["done"]
        task = progress.tasks[bars[key]]
        rate = f"{task.speed:,.0f}/s" if task.speed else ""
        progress.update(bars[key], completed=done, total=max(total, done), rate=rate)


def _counts(now: list[Run]) -> dict[str, int]:
    counts: dict[str, Any] = {}
    for run in now:
        for stage, count in run.counts.items():
            if stage not in {"organisation", "gone"}:
                counts[stage] = counts.get(stage, 0) + count["done"]
    return counts
