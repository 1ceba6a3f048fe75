"""Soak: `make soak ARGS="--hours 2 --seed 1"`.

The events of some hours (one a second, with catch-ups, nightly reconciliations and retention) are replayed as fast as
they are accepted, on data that does not grow: so nothing else may grow. The memory of every process is sampled, and
the last quarter is compared with the second. Exits with 0 if none grew by more than 10 %, and inbox, projection queue,
Redis and logs stayed bounded.
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

from tests.chaos import PROCESSES, ROOT, Environment, running_environment
from tests.support.recovery import wait_until_idle

if TYPE_CHECKING:
    from tests.support.world import World

EVENTS_PER_HOUR = 3_600
EVENTS_PER_SAMPLE = 60
MAX_GROWTH = 1.10
# The arenas of a Python process vary by this much; less growth is not a leak.
NOISE_BYTES = 3 * 1024 * 1024
MAX_LOG_LINES_PER_EVENT = 4.0
PEOPLE, COMPANIES, INVOICES = 30, 6, 60


@dataclass
class Samples:
    """The samples: bytes per process, and other figures by name."""

    memory: dict[str, list[int]] = field(default_factory=dict)
    figures: dict[str, list[int]] = field(default_factory=dict)

    def take(self, environment: Environment) -> None:
        """Take one sample of everything."""
        for name in PROCESSES:
            for index, process in enumerate(_process_tree(environment.children[name].pid)):
                self.memory.setdefault(f"{name}.{index}", []).append(process.memory_info().rss)
        for name, figure in _figures(environment).items():
            self.figures.setdefault(name, []).append(figure)


def _process_tree(pid: int) -> Iterator[psutil.Process]:
    parent = psutil.Process(pid)
    yield parent
    yield from sorted(parent.children(recursive=True), key=lambda child: child.pid)


def _figures(environment: Environment) -> dict[str, int]:
    from runtime.redis_client import shared_client
    from store.db.database import transaction

    with transaction() as session:
        inbox, queued, runs, seen_ids = session.execute(
            text(
                "SELECT (SELECT count(*) FROM inbox), (SELECT count(*) FROM projection_queue), "
                "(SELECT count(*) FROM sync_run), (SELECT count(*) FROM run_seen_id)"
            )
        ).one()
    logs = sum((environment.home / f"{name}.log").stat().st_size for name in PROCESSES)
    return {
        "inbox rows": inbox,
        "queued records": queued,
        "runs": runs,
        "seen ids of runs": seen_ids,
        "redis keys": int(shared_client().dbsize()),
        "redis bytes": int(shared_client().info("memory")["used_memory"]),
        "log bytes": logs,
    }


def medians(values: list[int]) -> tuple[float, float]:
    """The medians of the second quarter and of the last one."""
    quarter = len(values) // 4
    return median(values[quarter : 2 * quarter]), median(values[-quarter:])


def create_data(world: World, rng: random.Random) -> tuple[list[int], list[int], list[str]]:
    """Create the data that the actions change."""
    companies = [world.company() for _ in range(COMPANIES)]
    people = [world.person(f"p{number}@acme.test", company=rng.choice(companies)) for number in range(PEOPLE)]
    invoices = [world.invoice(f"p{rng.randrange(PEOPLE)}@acme.test").id for _ in range(INVOICES)]
    return people, companies, invoices


def act(world: World, rng: random.Random, ids: tuple[list[int], list[int], list[str]]) -> None:
    """Simulate one action of a user that does not add data."""
    people, companies, invoices = ids
    choice = rng.random()
    if choice < 0.94:
        world.sandbox.simulate("update_invoice", invoice=rng.choice(invoices), total=f"{rng.randrange(500, 900)}.00")
    elif choice < 0.97:
        address = f"p{rng.randrange(PEOPLE)}@acme.test"
        world.simulate_copper("update_record", type="person", id=rng.choice(people), emails=[address])
    else:
        world.simulate_copper("move_person", person=rng.choice(people), company=rng.choice(companies))
    if rng.random() < 0.5:
        world.read("people", rng.choice(people))


def age_data() -> None:
    """Make finished rows older than the retention period, and the hourly retention due again."""
    from store.db.database import transaction

    for statement in (
        "UPDATE inbox SET received_at = received_at - interval '31 days', finished_at = finished_at"
        " - interval '31 days' WHERE (account_id, id) IN (SELECT account_id, id FROM inbox"
        " WHERE finished_at < now() - interval '10 seconds' FOR UPDATE SKIP LOCKED)",
        "UPDATE sync_run SET started_at = started_at - interval '31 days', finished_at = finished_at"
        " - interval '31 days' WHERE (account_id, id) IN (SELECT account_id, id FROM sync_run"
        " WHERE finished_at < now() - interval '10 seconds' FOR UPDATE SKIP LOCKED)",
        "UPDATE scheduled_task SET last_started_at = 'epoch' WHERE name = 'retention'",
        "UPDATE scheduled_task SET last_started_at = 'epoch' WHERE name = 'reconciliation'",
    ):
        with transaction() as session:
            session.execute(text(statement))


def problems_of(samples: Samples, events: int) -> list[str]:
    """What grew although it must not."""
    problems = []
    for name, values in samples.memory.items():
        before, after = medians(values)
        if after > before * MAX_GROWTH and after - before > NOISE_BYTES:
            problems.append(f"{name} grew from {before / 2**20:.0f} to {after / 2**20:.0f} MB")
    for name, values in samples.figures.items():
        before, after = medians(values)
        limit = {"log bytes": float("inf"), "redis bytes": before * 1.5}.get(name, before * 1.5 + 500)
        if after > limit:
            problems.append(f"{name} grew from {before:.0f} to {after:.0f}")
    lines = samples.figures["log bytes"][-1] / events
    if lines > MAX_LOG_LINES_PER_EVENT * 300:
        problems.append(f"{lines:.0f} bytes of logs per event")
    return problems


def main() -> int:
    """Replay the hours; the last line of the output is the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng, event_count = random.Random(arguments.seed), int(arguments.hours * EVENTS_PER_HOUR)
    samples, started = Samples(), time.monotonic()
    columns = (TextColumn("soak"), BarColumn(), TextColumn("{task.completed}/{task.total} events"), TimeElapsedColumn())
    settings = {"LOG_LEVEL": "info", "CATCH_UP_INTERVAL_SECONDS": "20"}
    with running_environment(ROOT / ".patina" / "soak", settings) as (environment, world):
        ids = create_data(world, rng)
        with Progress(*columns, TimeRemainingColumn()) as bar:
            task = bar.add_task("soak", total=event_count)
            for number in range(1, event_count + 1):
                act(world, rng, ids)
                if number % EVENTS_PER_SAMPLE == 0:
                    samples.take(environment)
                    age_data()
                    bar.update(task, completed=number)
        wait_until_idle(world)
        samples.take(environment)
        world.check()
    return report(samples, event_count, time.monotonic() - started)


def report(samples: Samples, events: int, seconds: float) -> int:
    """Print the samples and the summary; returns the exit code."""
    for name, values in {**samples.memory, **samples.figures}.items():
        before, after = medians(values)
        unit = 2**20 if name in samples.memory or "bytes" in name else 1
        print(f"  {name:<20} {before / unit:10.1f} -> {after / unit:10.1f}{' MB' if unit > 1 else ''}")
    problems = problems_of(samples, events)
    for line in problems:
        print(line, file=sys.stderr)
    worst = max(after / before for before, after in map(medians, samples.memory.values()))
    print(
        f"soak {'failed' if problems else 'ok'}: events {events}, {seconds:.0f} s, processes {len(samples.memory)}, "
        f"memory at most {100 * (worst - 1):+.1f} %, inbox at most {max(samples.figures['inbox rows'])} rows, "
        f"queued records left {samples.figures['queued records'][-1]}"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
