"""Soak: `make soak ARGS="--hours 2 --seed 1"`.

What comes in some hours (an event a second, catch-ups, nightly reconciliations, retention) is played as fast as it is
taken, on data that does not grow: so nothing else may. Every process's memory is sampled; the last quarter is held
against the second. Exit 0 when none grew by more than 10 %, and inbox, marks, Redis and logs stayed bounded.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import psutil
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from sqlalchemy import text

from tests.chaos import PROCESSES, ROOT, Stage, become_quiet, open_stage

if TYPE_CHECKING:
    from tests.world import World

EVENTS_AN_HOUR = 3_600
SAMPLE_EVENTS = 60
MOST_GROWTH = 1.10
# A Python process's arenas come and go by this much; below it, growth is no leak.
NOISE_BYTES = 3 * 1024 * 1024
LINES_AN_EVENT = 4.0
PEOPLE, COMPANIES, INVOICES = 30, 6, 60


@dataclass
class Samples:
    """What was seen, sample by sample: bytes a process, and other figures by name."""

    memory: dict[str, list[int]] = field(default_factory=dict)
    figures: dict[str, list[int]] = field(default_factory=dict)

    def take(self, stage: Stage) -> None:
        """One look at everything."""
        for name in PROCESSES:
            for number, process in enumerate(_family(stage.children[name].pid)):
                self.memory.setdefault(f"{name}.{number}", []).append(process.memory_info().rss)
        for name, figure in _figures(stage).items():
            self.figures.setdefault(name, []).append(figure)


def _family(pid: int) -> Iterator[psutil.Process]:
    parent = psutil.Process(pid)
    yield parent
    yield from sorted(parent.children(recursive=True), key=lambda child: child.pid)


def _figures(stage: Stage) -> dict[str, int]:
    from store.database import transaction
    from worker.broker import client

    with transaction() as session:
        inbox, dirty, runs, seen = session.execute(
            text(
                "SELECT (SELECT count(*) FROM inbox), (SELECT count(*) FROM dirty), (SELECT count(*) FROM sync_run),"
                " (SELECT count(*) FROM run_seen)"
            )
        ).one()
    logs = sum((stage.home / f"{name}.log").stat().st_size for name in PROCESSES)
    return {
        "inbox rows": inbox,
        "dirty marks": dirty,
        "runs": runs,
        "rows seen by runs": seen,
        "redis keys": int(client().dbsize()),
        "redis bytes": int(client().info("memory")["used_memory"]),
        "log bytes": logs,
    }


def grown(values: list[int]) -> tuple[float, float]:
    """The medians of the second quarter and of the last one."""
    quarter = len(values) // 4
    return median(values[quarter : 2 * quarter]), median(values[-quarter:])


def furnish(world: World, dice: random.Random) -> tuple[list[int], list[int], list[str]]:
    """The data that everything happens to."""
    companies = [world.company() for _ in range(COMPANIES)]
    people = [world.person(f"p{number}@acme.test", company=dice.choice(companies)) for number in range(PEOPLE)]
    invoices = [world.invoice(f"p{dice.randrange(PEOPLE)}@acme.test").id for _ in range(INVOICES)]
    return people, companies, invoices


def act(world: World, dice: random.Random, known: tuple[list[int], list[int], list[str]]) -> None:
    """One thing that a user does, with no more data after it than before."""
    people, companies, invoices = known
    kind = dice.random()
    if kind < 0.94:
        world.sandbox.act("change_invoice", invoice=dice.choice(invoices), total=f"{dice.randrange(500, 900)}.00")
    elif kind < 0.97:
        address = f"p{dice.randrange(PEOPLE)}@acme.test"
        world.copper_act("change_record", type="person", id=dice.choice(people), emails=[address])
    else:
        world.copper_act("move_person", person=dice.choice(people), company=dice.choice(companies))
    if dice.random() < 0.5:
        world.read("people", dice.choice(people))


def let_time_pass() -> None:
    """What is finished becomes older than what is kept, and the hourly retention is due again."""
    from store.database import transaction

    for statement in (
        "UPDATE inbox SET received_at = received_at - interval '31 days', finished_at = finished_at"
        " - interval '31 days' WHERE (account_id, id) IN (SELECT account_id, id FROM inbox"
        " WHERE finished_at < now() - interval '10 seconds' FOR UPDATE SKIP LOCKED)",
        "UPDATE sync_run SET started_at = started_at - interval '31 days', finished_at = finished_at"
        " - interval '31 days' WHERE (account_id, id) IN (SELECT account_id, id FROM sync_run"
        " WHERE finished_at < now() - interval '10 seconds' FOR UPDATE SKIP LOCKED)",
        "UPDATE chore SET begun_at = 'epoch' WHERE name = 'retention'",
        "UPDATE chore SET begun_at = 'epoch' WHERE name = 'reconciliation'",
    ):
        with transaction() as session:
            session.execute(text(statement))


def verdict(samples: Samples, events: int) -> list[str]:
    """What grew that must not."""
    wrong = []
    for name, values in samples.memory.items():
        before, after = grown(values)
        if after > before * MOST_GROWTH and after - before > NOISE_BYTES:
            wrong.append(f"{name} grew from {before / 2**20:.0f} to {after / 2**20:.0f} MB")
    for name, values in samples.figures.items():
        before, after = grown(values)
        room = {"log bytes": float("inf"), "redis bytes": before * 1.5}.get(name, before * 1.5 + 500)
        if after > room:
            wrong.append(f"{name} grew from {before:.0f} to {after:.0f}")
    lines = samples.figures["log bytes"][-1] / events
    if lines > LINES_AN_EVENT * 300:
        wrong.append(f"{lines:.0f} bytes of logs an event")
    return wrong


def main() -> int:
    """Play the hours; the last line says how it went."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--hours", type=float, default=2)
    reader.add_argument("--seed", type=int, default=1)
    chosen = reader.parse_args()
    dice, wanted = random.Random(chosen.seed), int(chosen.hours * EVENTS_AN_HOUR)
    stage, world = open_stage(ROOT / ".patina" / "soak", {"LOG_LEVEL": "info", "CATCH_UP_SECONDS": "20"})
    samples, began = Samples(), time.monotonic()
    columns = (TextColumn("soak"), BarColumn(), TextColumn("{task.completed}/{task.total} events"), TimeElapsedColumn())
    try:
        known = furnish(world, dice)
        with Progress(*columns, TimeRemainingColumn()) as bar:
            task = bar.add_task("soak", total=wanted)
            for number in range(1, wanted + 1):
                act(world, dice, known)
                if number % SAMPLE_EVENTS == 0:
                    samples.take(stage)
                    let_time_pass()
                    bar.update(task, completed=number)
        become_quiet(world)
        samples.take(stage)
        world.check()
    finally:
        stage.close()
    return tell(samples, wanted, time.monotonic() - began)


def tell(samples: Samples, events: int, seconds: float) -> int:
    """Print what was seen; the exit code."""
    for name, values in {**samples.memory, **samples.figures}.items():
        before, after = grown(values)
        unit = 2**20 if name in samples.memory or "bytes" in name else 1
        print(f"  {name:<20} {before / unit:10.1f} -> {after / unit:10.1f}{' MB' if unit > 1 else ''}")
    wrong = verdict(samples, events)
    for line in wrong:
        print(line, file=sys.stderr)
    worst = max(after / before for before, after in map(grown, samples.memory.values()))
    print(
        f"soak {'failed' if wrong else 'ok'}: events {events}, {seconds:.0f} s, processes {len(samples.memory)}, "
        f"memory at most {100 * (worst - 1):+.1f} %, inbox at most {max(samples.figures['inbox rows'])} rows, "
        f"marks left {samples.figures['dirty marks'][-1]}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
