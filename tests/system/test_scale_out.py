"""Several hosts share one PostgreSQL and Redis: one host is cut off, and the others continue."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from runtime import redis_client
from runtime.servers import APPLICATION_ROLE, DATABASE, SUPERUSER, Postgres, Redis
from runtime.settings import override_settings
from store.db.database import dispose_engine
from store.db.migrations import migrate
from tests.chaos import free_port
from tests.support import hosts
from tests.support.hosts import NET, Host
from tests.support.serving import responds, wait_until
from tests.support.world import Sandbox, World

pytestmark = [
    pytest.mark.skipif(not hosts.possible(), reason="needs root and iproute2, to make network namespaces"),
    pytest.mark.timeout(400),
]
WEB = 8700
PASSWORD = "of-this-test-alone"


def start_services(host: Host, folder: Path) -> None:
    """PostgreSQL and Redis on one host, reachable by its address."""
    postgres, redis = Postgres(folder / "postgres"), Redis(folder / "redis")
    postgres.prepare()
    redis.prepare()
    with (postgres.auth_dir / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all {APPLICATION_ROLE} {NET}.0/24 scram-sha-256\n")
    host.run([*postgres.command(), "-c", f"listen_addresses={host.address}"])
    wait_until(postgres.is_ready, description="PostgreSQL")
    postgres.post_start()
    with psycopg.connect(
        f"postgresql://{SUPERUSER}@/postgres?host={postgres.socket_dir}", autocommit=True
    ) as connection:
        connection.execute(f"ALTER ROLE {APPLICATION_ROLE} PASSWORD '{PASSWORD}'")
    url = f"postgresql://{APPLICATION_ROLE}:{PASSWORD}@{host.address}/{DATABASE}"
    host.run([*redis.command(), "--bind", host.address, "--port", "6379", "--protected-mode", "no"])
    override_settings(
        {
            "DATABASE_URL": url,
            "REDIS_URL": f"redis://{host.address}:6379/0",
            # The broker of this process uses the tests' Redis, so its messages do not interfere with the hosts'.
            "REDIS_NAMESPACE": "the-test",
            # A short window: a lost budget counts as used up for a whole window.
            "RATE_LIMIT_WINDOW_SECONDS": "2",
        }
    )
    dispose_engine()
    redis_client.shared_client.clear()

    def both_answer() -> bool:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return redis_client.is_available()

    wait_until(both_answer, description="PostgreSQL and Redis")
    migrate()


@pytest.fixture
def machines(open_folder: Path, sandbox: Sandbox) -> Iterator[tuple[World, dict[str, Host]]]:
    """A host with both services, two hosts with all of Patina's processes, and a load balancer in front of them."""
    vendors, balancer = free_port(), free_port()
    there = urlsplit(sandbox.url).port or 0
    with hosts.network("services", "one", "two") as network_hosts:
        start_services(network_hosts["services"], open_folder)
        hosts.relay((f"{NET}.1", vendors), ("127.0.0.1", there))
        web_hosts = [network_hosts["one"], network_hosts["two"]]
        hosts.relay(("127.0.0.1", balancer), *((host.address, WEB) for host in web_hosts))
        override_settings({"PUBLIC_URL": f"http://127.0.0.1:{balancer}"})
        quick = {
            "REDIS_NAMESPACE": "hosts",
            "SWEEP_INTERVAL_SECONDS": "1",
            "CATCH_UP_INTERVAL_SECONDS": "2",
            "LEASE_SECONDS": "5",
            "WORKER_PROCESSES": "1",
        }
        for host in web_hosts:
            host.relay(there, f"{NET}.1:{vendors}")
            for name in ("web", "worker", "scheduler"):
                command = [sys.executable, "-m", "cli", name]
                host.run(command, {**quick, "WEB_HOST": host.address, "PORT": str(WEB)})
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=f"http://127.0.0.1:{balancer}", timeout=3, trust_env=False, limits=limits) as client:
            wait_until(lambda: all(ready(host) for host in web_hosts), seconds=180, description="both web processes")
            world = World(sandbox, client, workers=True)
            world.enable_xero_webhook()
            yield world.open(), network_hosts
        dispose_engine()
        redis_client.shared_client.clear()


def ready(host: Host) -> bool:
    return responds(f"http://{host.address}:{WEB}/readyz")


def in_the_end(true: Callable[[], bool], description: str) -> None:
    """Wait for a condition; a request that fails because of the cut counts as false."""

    def is_met() -> bool:
        try:
            return true()
        except httpx.TransportError:
            return False

    wait_until(is_met, seconds=120, description=description)


def test_each_host_in_turn_is_cut_off_and_reconnected(machines: tuple[World, dict[str, Host]]) -> None:
    world, network_hosts = machines
    person = world.person("ann@acme.test")
    numbers = [world.invoice("ann@acme.test").number]
    in_the_end(lambda: world.invoice_numbers("people", person) == numbers, "the first invoice")
    for name in ("one", "two"):
        network_hosts[name].cut_off()
        numbers.insert(0, world.invoice("ann@acme.test").number)
        in_the_end(
            lambda: world.invoice_numbers("people", person) == numbers, f"an invoice while host {name} is cut off"
        )
        added = world.person("ann@acme.test")
        in_the_end(lambda: world.invoice_numbers("people", added) == numbers, f"a person while host {name} is cut off")  # noqa: B023
        network_hosts[name].heal()
        in_the_end(lambda: ready(network_hosts[name]), f"host {name}, healed")  # noqa: B023
    world.check()


def test_all_hosts_recover_when_cut_off_services_return(machines: tuple[World, dict[str, Host]]) -> None:
    world, network_hosts = machines
    person = world.person("ann@acme.test")
    numbers = [world.invoice("ann@acme.test").number]
    in_the_end(lambda: world.invoice_numbers("people", person) == numbers, "the first invoice")
    network_hosts["services"].cut_off()
    response = httpx.get(f"http://{network_hosts['one'].address}:{WEB}/readyz", timeout=20, trust_env=False)
    assert response.status_code == 503
    numbers.insert(0, world.invoice("ann@acme.test").number)
    network_hosts["services"].heal()
    in_the_end(lambda: world.invoice_numbers("people", person) == numbers, "what changed meanwhile")
    in_the_end(lambda: all(ready(network_hosts[name]) for name in ("one", "two")), "both hosts")
    world.check()
