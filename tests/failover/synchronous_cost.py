"""What `synchronous_mode` costs: acknowledged deliveries a second with and without it, in turns in one run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median

import psycopg

from bench import ingestion, load
from tests.failover.cluster import WEB, WORKERS, Cluster
from tests.support.recovery import eventually
from tests.support.world import World

ROUNDS = 3
SECONDS = 3.0
CHANGE_SECONDS = 30.0
INVOICES = 20


@dataclass
class Cost:
    """Deliveries a second of several senders, and the median milliseconds of a single one, by mode."""

    rates: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    milliseconds: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})

    def __str__(self) -> str:
        rates = {mode: median(values) for mode, values in self.rates.items()}
        times = {mode: median(values) for mode, values in self.milliseconds.items()}
        return (
            f"synchronous_mode: {rates[True]:.0f} deliveries a second with it, {rates[False]:.0f} without (ratio"
            f" {rates[True] / rates[False]:.2f}); one at a time: median {times[True]:.1f} and {times[False]:.1f} ms"
        )


def measure(cluster: Cluster, world: World) -> Cost:
    """Measure both modes in turns. Workers are stopped meanwhile, because both modes would share the CPUs with them."""
    invoices = [world.invoice("cost@acme.test").id for _ in range(INVOICES)]
    url = f"http://{cluster.addresses[WEB[0]]}:8700"
    cost = Cost()
    for name in WORKERS:
        cluster.machines[name].freeze()
    try:
        for _ in range(ROUNDS):
            for mode in (True, False):
                _switch(cluster, is_synchronous=mode)
                cost.rates[mode].append(_post(url, world.tenants[0], invoices, load.CONNECTIONS).rate)
                cost.milliseconds[mode].append(_post(url, world.tenants[0], invoices, 1).at(0.5))
    finally:
        _switch(cluster, is_synchronous=True)
        for name in WORKERS:
            cluster.machines[name].thaw()
    return cost


def _post(url: str, tenant: str, invoices: list[str], connections: int) -> load.Load:
    """Post deliveries for some seconds; raises `RuntimeError` if one is not acknowledged."""
    result = load.run(url, _deliveries(tenant, invoices), seconds=SECONDS, connections=connections)
    if result.failed:
        raise RuntimeError(f"{result.failed} deliveries were not acknowledged")
    return result


def _switch(cluster: Cluster, *, is_synchronous: bool) -> None:
    """Turn synchronous mode on or off, and wait until the leader's commits behave so."""
    cluster.change_patroni(synchronous_mode=is_synchronous)
    url = cluster.superuser_url(cluster.roles().leader)
    with psycopg.connect(url, autocommit=True) as connection:

        def has_changed() -> bool:
            row = connection.execute("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").fetchone()
            return row is not None and bool(row[0]) == is_synchronous

        eventually(has_changed, CHANGE_SECONDS, "the change of synchronous_mode")


def _deliveries(tenant: str, invoices: list[str]) -> Callable[[], bytes]:
    """Deliveries of one event each, all different, about existing invoices."""
    start = time.time()

    def build() -> Iterator[bytes]:
        for number, invoice in zip(itertools.count(), itertools.cycle(invoices)):
            moment = datetime.fromtimestamp(start - 3_600 + number / 1_000, UTC)
            event = {
                "resourceUrl": f"https://api.xero.com/api.xro/2.0/Invoices/{invoice}",
                "resourceId": invoice,
                "tenantId": tenant,
                "tenantType": "ORGANISATION",
                "eventCategory": "INVOICE",
                "eventType": "UPDATE",
                "eventDateUtc": f"{moment:%Y-%m-%dT%H:%M:%S.%f}"[:23],
            }
            body, headers = ingestion.sign([event])
            yield load.build_request("POST", "/webhooks/xero", headers, body)

    return load.from_iterator(build())
