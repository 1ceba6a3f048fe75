"""The memory of a small installation (one account, the sandbox), idle and under load for a while.

The servers are its own, with nothing else in them. Memory is the PSS of all processes together.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

from bench import environment, installation, vendors
from bench.figures import Figure, at_most
from bench.installation import POSTGRES, Installation, Memory, describe, total_mib
from bench.load import keep_rate
from runtime import embedded
from runtime.redis_client import shared_client
from runtime.settings import override_settings
from services import access
from store.db.database import dispose_engine
from store.db.migrations import migrate
from tests.support.serving import http_client
from tests.support.world import World

LOAD_SECONDS = 150.0
GOAL_IDLE_MIB, GOAL_GROWTH = 400.0, 1.05
IDLE_SECONDS, SAMPLE_SECONDS = 15.0, 2.0
# The first share of the load warms the processes up. The growth is that from the share after it to the last one.
WARM_UP_SHARE, COMPARED_SHARE = 0.4, 0.15
CHANGES_PER_SECOND, READS_PER_CHANGE = 10.0, 5
HOME = environment.ROOT / ".patina" / "bench-memory"


@contextmanager
def _own_servers() -> Iterator[None]:
    """A new, migrated PostgreSQL and a new Redis, set up as by `patina --embedded`; they end with the process."""
    # Deleted before and not after: this process supervises the servers as long as it lives.
    shutil.rmtree(HOME, ignore_errors=True)
    override_settings({"DATABASE_URL": embedded.use("postgres", HOME), "REDIS_URL": embedded.use("redis", HOME)})
    dispose_engine()
    shared_client.clear()
    migrate()
    yield
    dispose_engine()


class _Load:
    """Changes in Xero at a constant rate, which the sandbox delivers as webhooks, and reads of records."""

    def __init__(self, world: World) -> None:
        self._world, self._random = world, random.Random(5)
        self._headers = {"authorization": f"Bearer {access.create_key(world.account, 'bench')}"}
        self._shape = vendors.SHAPES["small"]

    def run_until(self, deadline: float) -> None:
        """Keep to the rate until a moment of the monotonic clock."""
        for _ in keep_rate(CHANGES_PER_SECOND, deadline):
            self._change_invoice()
            for _ in range(READS_PER_CHANGE):
                self._read_person()

    def _change_invoice(self) -> None:
        number = self._random.randrange(self._shape.invoices)
        total = f"{self._random.randrange(100, 999)}.00"
        self._world.sandbox.simulate("update_invoice", invoice=str(vendors.invoice_id(number)), total=total)

    def _read_person(self) -> None:
        record_id = vendors.FIRST_RECORD_ID + self._shape.companies + self._random.randrange(self._shape.people)
        self._world.web.get(f"/v1/people/{record_id}/invoices", headers=self._headers).raise_for_status()


def measure(rounds: int, load_seconds: float = LOAD_SECONDS) -> list[Figure]:
    """Idle after a backfill, then under load; one installation for all rounds, because growth shows only in time."""
    del rounds
    with _own_servers(), vendors.run_sandbox("small") as sandbox:
        override_settings(installation.address())
        world = vendors.connect_account(sandbox)
        with installation.run() as running:
            world.web = http_client(running.url)
            world.enable_xero_webhook()
            world.backfill()
            dispose_engine()
            # Idle means that nothing has happened for a while.
            time.sleep(IDLE_SECONDS)
            idle = running.read_memory()
            samples = _sample_under_load(running, _Load(world), load_seconds)
    return _figures(idle, samples, load_seconds)


def _sample_under_load(running: Installation, load: _Load, seconds: float) -> list[dict[str, Memory]]:
    samples, started = [], time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        load.run_until(started + elapsed + SAMPLE_SECONDS)
        samples.append(running.read_memory())
    return samples


def _figures(idle: dict[str, Memory], samples: list[dict[str, Memory]], seconds: float) -> list[Figure]:
    count = max(int(len(samples) * COMPARED_SHARE), 1)
    warm_up = int(len(samples) * WARM_UP_SHARE)
    warm, last = samples[warm_up : warm_up + count], samples[-count:]
    before, after = median(map(_grown_mib, warm)), median(map(_grown_mib, last))
    cache = f"{warm[0][POSTGRES].shared:.0f} to {last[-1][POSTGRES].shared:.0f} MiB"
    load = f"{CHANGES_PER_SECOND:g} changes and {CHANGES_PER_SECOND * READS_PER_CHANGE:g} reads per second"
    growth = at_most(
        f"growth of its memory under load, {load} for {seconds:.0f} s",
        [after / before],
        GOAL_GROWTH,
        "times",
        baseline="the same after the warm-up",
        note="without PostgreSQL's buffer cache, which fills up to its limit",
    )
    details = {"ours": f"{after:.0f} MiB", "baseline": f"{before:.0f} MiB", "buffer cache": cache}
    return [
        at_most(
            "memory of a small installation, idle",
            [total_mib(idle)],
            GOAL_IDLE_MIB,
            "MiB",
            miss_reason="web, worker and scheduler each have their own copy of the libraries, SQLAlchemy 15 MiB, redis,"
            " psycopg and pydantic 4 to 6 each, and a worker's database connections keep 5 to 10 MiB each",
            **describe(idle),
        ),
        replace(growth, details={**details, **describe(samples[-1])}),
    ]


def _grown_mib(parts: dict[str, Memory]) -> float:
    """What must not grow: everything but PostgreSQL's shared memory."""
    return total_mib(parts) - parts[POSTGRES].shared
