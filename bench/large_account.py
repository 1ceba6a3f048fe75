"""One company with very many invoices, people and opportunities: the latency of a payment there."""

from __future__ import annotations

import itertools
import time
from functools import partial
from uuid import UUID

import httpx

from bench import environment, vendors
from bench.figures import Figure, at_most
from bench.peak_memory import largest_peak
from bench.vendors import FIRST_RECORD_ID, SHAPES
from services import access
from tests.support.serving import wait_until
from tests.support.world import World
from worker.vendors.sync_types import RunKind

SHAPE = SHAPES["large"]
GOAL_SECONDS, GOAL_MEMORY = 2.0, 250.0
PAYMENTS = 5


def _is_paid(world: World, plural: str, record: int, invoice: int) -> bool:
    rows = {row["id"]: row["status"] for row in world.read(plural, record, limit=200).json()["invoices"]}
    return bool(rows[str(UUID(int=invoice + 1))] == "PAID")


def _measure_payment(world: World, invoice: int) -> float:
    """Seconds from a payment until the company and the last opportunity show it."""
    started = time.monotonic()
    world.sandbox.simulate("pay_invoice", invoice=UUID(int=invoice + 1))
    last_opportunity = FIRST_RECORD_ID + SHAPE.records - 1
    for plural, record in (("companies", FIRST_RECORD_ID), ("opportunities", last_opportunity)):
        wait_until(partial(_is_paid, world, plural, record, invoice), seconds=60, description="the payment")
    return time.monotonic() - started


def measure(rounds: int) -> list[Figure]:
    """Payments of the company's newest invoices, one after the other."""
    with (
        environment.empty_database(),
        vendors.run_sandbox("large") as sandbox,
        environment.start_web("cli", "web") as url,
        environment.start_process(
            "cli", "worker", variables={"WORKER_PROCESSES": "2", "WORKER_THREADS": "2"}
        ) as worker,
    ):
        world = vendors.connect_account(sandbox)
        world.key = access.create_key(world.account, "bench")
        world.web = httpx.Client(base_url=url, timeout=10, trust_env=False)
        started = time.monotonic()
        world.run(RunKind.BACKFILL, seconds=900)
        backfill_seconds = time.monotonic() - started
        world.enable_xero_webhook()
        newest = itertools.count(SHAPE.invoices - 1, -1)
        _measure_payment(world, next(newest))
        latencies = [max(_measure_payment(world, next(newest)) for _ in range(PAYMENTS)) for _ in range(rounds)]
        memory = largest_peak(worker.pid)
    description = f"{SHAPE.invoices:,} invoices, {SHAPE.people:,} people, {SHAPE.opportunities:,} opportunities"
    return [
        at_most(
            f"slowest of {PAYMENTS} payments until it is visible, on a company with {description}",
            latencies,
            GOAL_SECONDS,
            "s",
            note=f"its backfill took {backfill_seconds:.0f} s",
        ),
        at_most("peak memory of a worker process, including the backfill", [memory], GOAL_MEMORY, "MiB"),
    ]
