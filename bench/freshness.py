"""From a webhook to its row: under steady load with a vendor that takes its time, and what that costs in calls."""

from __future__ import annotations

import itertools
import random
import time
from typing import TYPE_CHECKING

import httpx
from sqlalchemy import text

from bench import intake, stage
from bench.figures import Figure, at_most
from store import freshness
from store.database import transaction
from tests.chaos import eventually, open_stage

if TYPE_CHECKING:
    from tests.world import World

SECONDS, A_SECOND, LATENCY = 60.0, 50, 0.1
PEOPLE, INVOICES = 50, 200
BURST = 1_000
GOAL_HALF, GOAL_P99, GOAL_CALLS, GOAL_BURST = 400.0, 2_000.0, 1 / 3, 1 / 150


def _calls() -> int:
    """Calls to Xero made for events."""
    with transaction() as session:
        found = session.execute(
            text("SELECT coalesce(sum(calls), 0) FROM call_meter WHERE organisation_id > 0 AND purpose = 'events'")
        )
        return int(found.scalar_one())


def _steady(world: World, invoices: list[str]) -> tuple[float, float, float]:
    """p50 and p99 in milliseconds and calls an event, of changes at a rate for a while."""
    dice, before, began = random.Random(4), _calls(), time.monotonic()
    stage.run("DELETE FROM freshness")
    for number in range(int(SECONDS * A_SECOND)):
        # At the rate that is measured.
        time.sleep(max(began + number / A_SECOND - time.monotonic(), 0))
        world.sandbox.act("change_invoice", invoice=dice.choice(invoices), total=f"{dice.randrange(100, 999)}.00")
    _settle(world)
    with transaction() as session:
        hours = freshness.since(session, world.account, 2)
    half, most = freshness.quantile(hours, 0.5), freshness.quantile(hours, 0.99)
    events = sum(hour.events for hour in hours)
    return 1_000 * (half or 0), 1_000 * (most or 0), (_calls() - before) / events


def _burst(world: World, invoices: list[str]) -> float:
    """Calls an event of a thousand events on two hundred invoices that come at once."""
    before, each = _calls(), itertools.cycle(invoices)
    with httpx.Client(base_url=world.web.base_url, trust_env=False) as client:
        for _ in range(BURST // 100):
            events = [{**intake.event(), "resourceId": next(each), "tenantId": world.tenants[0]} for _ in range(100)]
            body, headers = intake.signed(events)
            assert client.post("/webhooks/xero", content=body, headers=headers).status_code == 200
    _settle(world)
    return (_calls() - before) / BURST


def _settle(world: World) -> None:
    eventually(lambda: world.sandbox.state()["waiting"] == 0, 60, "delivery of all webhooks")
    eventually(world.quiet, 60, "quiet")


def measure(rounds: int) -> list[Figure]:
    """Steady load, then bursts."""
    everything, world = open_stage(stage.ROOT / ".patina" / "bench", {"CATCH_UP_SECONDS": "3600", "LOG_LEVEL": "error"})
    try:
        for number in range(PEOPLE):
            world.person(f"p{number}@acme.test")
        invoices = [world.invoice(f"p{number % PEOPLE}@acme.test").id for number in range(INVOICES)]
        _settle(world)
        slow = {"kind": "latency", "seconds": LATENCY}
        world.sandbox.faults(api=[{"vendor": vendor, **slow} for vendor in ("xero", "copper")])
        steady = [_steady(world, invoices) for _ in range(rounds)]
        bursts = [_burst(world, invoices) for _ in range(rounds)]
    finally:
        everything.close()
    what = f"{A_SECOND} events a second for {SECONDS:.0f} s, {1_000 * LATENCY:.0f} ms a call"
    return [
        at_most(f"p50 from webhook to row, {what}", (one[0] for one in steady), GOAL_HALF, "ms"),
        at_most("p99 of the same", (one[1] for one in steady), GOAL_P99, "ms"),
        at_most("calls an event in that run", (one[2] for one in steady), GOAL_CALLS, "calls"),
        at_most(f"calls an event of {BURST:,} on {INVOICES} invoices at once", bursts, GOAL_BURST, "calls"),
    ]
