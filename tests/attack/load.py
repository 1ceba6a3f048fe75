"""The latency of another tenant during an attack, compared with the same measurement without it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from statistics import quantiles

import httpx

from tests.attack import bulk
from tests.attack.flood import Order, flooding
from tests.attack.resources import changing, cookies_of, panel_path
from tests.attack.site import Site

READ_MILLISECONDS, PANEL_MILLISECONDS = 50.0, 500.0
SECONDS, SETTLING_SECONDS = 40.0, 5.0
# The number of simulated users, and the requests of each per second.
READERS, PANELS, RATE = 5, 3, 2.0
SLOW_COPPER_SECONDS = 25.0


@dataclass(frozen=True)
class Waits:
    """The latency of a type of request, in milliseconds, and the number without a 200."""

    p50: float
    p99: float
    failed: int
    count: int


@dataclass(frozen=True)
class Measurement:
    """The latencies of another tenant's reads and panels."""

    read: Waits
    panel: Waits

    @property
    def is_within_bounds(self) -> bool:
        """Whether both were fast enough, and all requests succeeded."""
        is_quick = self.read.p99 <= READ_MILLISECONDS and self.panel.p99 <= PANEL_MILLISECONDS
        return is_quick and not (self.read.failed or self.panel.failed)


def measure(site: Site) -> tuple[Measurement, Measurement]:
    """Measure without an attack, and with all attacks at once."""
    tenant = site.attacker
    bulk.fill(site, tenant)
    session = cookies_of(site, tenant)
    quiet = _sample(site)
    order = Order(
        site.url,
        SECONDS + SETTLING_SECONDS + 5,
        held=1_500,
        panel_path=panel_path(tenant),
        panel_headers=tenant.panel_headers,
        pages=30,
        exports=12,
        unread=4,
        session_headers=session,
        sign_ins=45,
        keys=300,
    )
    slow = {"vendor": "copper", "type": "latency", "path": "users/me", "seconds": SLOW_COPPER_SECONDS}
    with site.faults(slow), flooding(order), changing(site, tenant):
        time.sleep(SETTLING_SECONDS)
        attacked = _sample(site)
    return quiet, attacked


def _sample(site: Site) -> Measurement:
    tenant = site.victim
    request = (f"/v1/people/{tenant.person}/invoices", tenant.key_headers)
    panel = (panel_path(tenant), tenant.panel_headers)
    with ThreadPoolExecutor(READERS + PANELS) as pool:
        reads = [pool.submit(_ask, site, *request, number / READERS) for number in range(READERS)]
        panels = [pool.submit(_ask, site, *panel, number / PANELS) for number in range(PANELS)]
        return Measurement(_waits(reads), _waits(panels))


def _ask(site: Site, path: str, headers: dict[str, str], offset: float) -> list[float | None]:
    """Send requests at a fixed rate for some seconds: the milliseconds of each response, or None if it was not a 200.

    A request counts from when it was due, so that an answer that is late makes the next one late as well.
    """
    took: list[float | None] = []
    started = time.monotonic() + offset / RATE
    with site.client(timeout=SECONDS) as client:
        for number in range(round(SECONDS * RATE)):
            due = started + number / RATE
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                is_answered = client.get(path, headers=headers).status_code == 200
            except httpx.HTTPError:
                is_answered = False
            took.append(1_000 * (time.monotonic() - due) if is_answered else None)
            if time.monotonic() - started > 2 * SECONDS:
                break
    return took


def _waits(futures: Sequence[Future[list[float | None]]]) -> Waits:
    durations = [response for future in futures for response in future.result()]
    took = [response for response in durations if response is not None]
    # A request without a response counts with the duration of the whole measurement.
    cuts = quantiles(took if len(took) > 1 else [1_000 * SECONDS] * 2, n=100, method="inclusive")
    return Waits(cuts[49], cuts[98], len(durations) - len(took), len(durations))
