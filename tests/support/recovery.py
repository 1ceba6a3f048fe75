"""Whether an installation recovers from faults: everything is back, idle, and has every acknowledged event."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from tests.support.world import World

RECOVERY_SECONDS = 120.0
DELIVERY = "delivery of all webhooks"
"""The step of `wait_until_idle` that depends on the schedule by which the vendor repeats a delivery."""


class NotRecoveredError(SystemExit):
    """What did not happen in time; ends a command with this message and exit code 1."""


def eventually(condition: Callable[[], bool], seconds: float, description: str) -> None:
    """Wait until a condition is true; errors of services that are still down count as false."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
            last_error: object = "the condition is false"
        except Exception as error:
            last_error = error
        if time.monotonic() > deadline:
            raise NotRecoveredError(f"failed: {description} did not happen within {seconds:.0f} s ({last_error})")
        time.sleep(0.1)


def wait_until_idle(world: World, is_ready: Callable[[], bool] | None = None) -> dict[str, float]:
    """Wait until all services are back, a catch-up has fetched what webhooks missed, and nothing is pending.

    `is_ready` replaces the question to /readyz, which a load balancer may not forward. Returns how many seconds each
    of these took, after those before it.
    """
    now = datetime.now(UTC)

    def caught_up() -> bool:
        runs = world.runs()
        sources = {run.organisation_id for run in runs}
        caught_up_sources = {
            run.organisation_id
            for run in runs
            if run.kind == "catch_up" and run.started_at > now and run.state == "done"
        }
        return sources == caught_up_sources

    is_ready = is_ready or (lambda: world.web.get("/readyz").status_code == 200)
    steps: dict[str, Callable[[], bool]] = {
        "the web process": is_ready,
        DELIVERY: lambda: world.sandbox.state()["pending_deliveries"] == 0,
        "a catch-up": caught_up,
        "an idle installation": world.is_idle,
    }
    waited = {}
    for description, condition in steps.items():
        started = time.monotonic()
        eventually(condition, RECOVERY_SECONDS, description)
        waited[description] = time.monotonic() - started
    return waited


def missing_events(world: World) -> list[tuple[str, ...]]:
    """The acknowledged events that are not in the inbox."""
    from store.db.database import transaction
    from webhooks.payloads import copper_event_key

    acknowledged = world.sandbox.control("GET", "acknowledged-events")
    with transaction() as session:
        rows = session.execute(
            text("SELECT category, event_type, resource_id, occurred_at, dedupe_key FROM inbox")
        ).all()
    xero = {(row[0], row[1], row[2], f"{row[3]:%Y-%m-%dT%H:%M:%S.%f}"[:23]) for row in rows if row[3]}
    copper = {bytes(row[4]).hex() for row in rows}
    return [
        tuple(event)
        for event in acknowledged
        if (
            copper_event_key(event[4], int(event[3])) not in copper
            if event[0] == "copper"
            else (event[1], event[2], event[3].lower(), event[4][:23]) not in xero
        )
    ]
