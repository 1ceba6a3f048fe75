"""One company with more invoices, people and opportunities than any other: what a payment costs there."""

from __future__ import annotations

import itertools
import time
from functools import partial
from uuid import UUID

import httpx

from bench import backfill, stage, vendors
from bench.figures import Figure, at_most
from bench.vendors import BEFORE_RECORDS, SHAPES
from tests.serving import wait_until
from tests.world import World
from worker import connect
from worker.steps import Kind

SHAPE = SHAPES["whale"]
GOAL_SECONDS, GOAL_MEMORY = 2.0, 250.0
PAYMENTS = 5


def _paid(world: World, plural: str, record: int, invoice: int) -> bool:
    rows = {one["id"]: one["status"] for one in world.read(plural, record, limit=200).json()["invoices"]}
    return bool(rows[str(UUID(int=invoice + 1))] == "PAID")


def _visible(world: World, invoice: int) -> float:
    """Seconds from a payment until it is read on the company and on the last opportunity."""
    began = time.monotonic()
    world.sandbox.act("pay_invoice", invoice=UUID(int=invoice + 1))
    last = BEFORE_RECORDS + SHAPE.records - 1
    for plural, record in (("companies", BEFORE_RECORDS), ("opportunities", last)):
        wait_until(partial(_paid, world, plural, record, invoice), seconds=60, what="the payment")
    return time.monotonic() - began


def measure(rounds: int) -> list[Figure]:
    """Payments of the whale's newest invoices, one after the other."""
    with (
        stage.empty(),
        vendors.running("whale") as sandbox,
        stage.web("cli", "web") as url,
        stage.process("cli", "worker", environment={"WORKER_PROCESSES": "2", "WORKER_THREADS": "2"}) as worker,
    ):
        world = vendors.connected(sandbox)
        world.key = connect.make_key(world.account, "bench")
        world.web = httpx.Client(base_url=url, timeout=10, trust_env=False)
        began = time.monotonic()
        world.run(Kind.BACKFILL, seconds=900)
        took = time.monotonic() - began
        world.listen()
        newest = itertools.count(SHAPE.invoices - 1, -1)
        _visible(world, next(newest))
        seen = [max(_visible(world, next(newest)) for _ in range(PAYMENTS)) for _ in range(rounds)]
        held = backfill.memory(worker.pid)
    told = f"{SHAPE.invoices:,} invoices, {SHAPE.people:,} people, {SHAPE.opportunities:,} opportunities"
    return [
        at_most(
            f"slowest of {PAYMENTS} payments until it is read, a company with {told}",
            seen,
            GOAL_SECONDS,
            "s",
            note=f"its backfill took {took:.0f} s",
        ),
        at_most("peak memory of a worker process meanwhile, backfill included", [held], GOAL_MEMORY, "MiB"),
    ]
