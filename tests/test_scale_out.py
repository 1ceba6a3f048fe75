"""Several hosts on one PostgreSQL and Redis, each with its own address: one is cut off, and the others go on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from runtime.servers import APPLICATION_ROLE, DATABASE, SUPERUSER, Postgres, Redis
from runtime.settings import override
from store.database import let_go, migrate
from tests import hosts
from tests.chaos import free_port
from tests.hosts import NET, Host
from tests.serving import answers, wait_until
from tests.world import Sandbox, World
from worker import broker

pytestmark = [
    pytest.mark.skipif(not hosts.possible(), reason="needs root and iproute2, to make network namespaces"),
    pytest.mark.timeout(400),
]
WEB = 8700
PASSWORD = "of-this-test-alone"


def start_services(host: Host, folder: Path) -> None:
    """PostgreSQL and Redis on one host, reached by its address."""
    postgres, redis = Postgres(folder / "postgres"), Redis(folder / "redis")
    postgres.prepare()
    redis.prepare()
    with (postgres.access / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all {APPLICATION_ROLE} {NET}.0/24 scram-sha-256\n")
    host.run([*postgres.command(), "-c", f"listen_addresses={host.address}"])
    wait_until(postgres.ready, what="PostgreSQL")
    postgres.settle()
    with psycopg.connect(f"postgresql://{SUPERUSER}@/postgres?host={postgres.run}", autocommit=True) as connection:
        connection.execute(f"ALTER ROLE {APPLICATION_ROLE} PASSWORD '{PASSWORD}'")
    url = f"postgresql://{APPLICATION_ROLE}:{PASSWORD}@{host.address}/{DATABASE}"
    host.run([*redis.command(), "--bind", host.address, "--port", "6379", "--protected-mode", "no"])
    override(
        {
            "DATABASE_URL": url,
            "REDIS_URL": f"redis://{host.address}:6379/0",
            # This process's own broker leads to the tests' Redis: its wake-ups must not keep the hosts' from theirs.
            "REDIS_NAMESPACE": "the-test",
            # Nor need they wait for a whole minute, as they must where they cannot know what it has used up.
            "LIMIT_WINDOW_SECONDS": "2",
        }
    )
    let_go()
    broker.client.cache_clear()

    def both_answer() -> bool:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return broker.is_reached()

    wait_until(both_answer, what="PostgreSQL and Redis")
    migrate()


@pytest.fixture
def machines(tmp_path: Path, sandbox: Sandbox) -> Iterator[tuple[World, dict[str, Host]]]:
    """A host with the two services, two with all of Patina's processes, and a balancer before those."""
    vendors, balancer = free_port(), free_port()
    there = urlsplit(sandbox.url).port or 0
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)
    with hosts.network("services", "one", "two") as made:
        start_services(made["services"], tmp_path)
        hosts.relay((f"{NET}.1", vendors), ("127.0.0.1", there))
        both = [made["one"], made["two"]]
        hosts.relay(("127.0.0.1", balancer), *((one.address, WEB) for one in both))
        override({"PUBLIC_URL": f"http://127.0.0.1:{balancer}"})
        quick = {
            "REDIS_NAMESPACE": "hosts",
            "SWEEP_SECONDS": "1",
            "CATCH_UP_SECONDS": "2",
            "LEASE_SECONDS": "5",
            "WORKER_PROCESSES": "1",
        }
        for host in both:
            host.relay(there, f"{NET}.1:{vendors}")
            for name in ("web", "worker", "scheduler"):
                words = [sys.executable, "-m", "cli", name]
                host.run(words, {**quick, "WEB_HOST": host.address, "PORT": str(WEB)})
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=f"http://127.0.0.1:{balancer}", timeout=3, trust_env=False, limits=limits) as client:
            wait_until(lambda: all(ready(host) for host in both), seconds=60, what="both web processes")
            world = World(sandbox, client, workers=True)
            world.listen()
            yield world.open(), made
        let_go()
        broker.client.cache_clear()


def ready(host: Host) -> bool:
    return answers(f"http://{host.address}:{WEB}/readyz")


def in_the_end(true: Callable[[], bool], what: str) -> None:
    """Wait; a request that the cut swallowed counts as not yet."""

    def tried() -> bool:
        try:
            return true()
        except httpx.TransportError:
            return False

    wait_until(tried, seconds=120, what=what)


def test_one_host_after_the_other_is_cut_off_and_healed(machines: tuple[World, dict[str, Host]]) -> None:
    world, made = machines
    person = world.person("ann@acme.test")
    numbers = [world.invoice("ann@acme.test").number]
    in_the_end(lambda: world.shown("people", person) == numbers, "the first invoice")
    for name in ("one", "two"):
        made[name].cut_off()
        numbers.insert(0, world.invoice("ann@acme.test").number)
        in_the_end(lambda: world.shown("people", person) == numbers, f"an invoice while host {name} is cut off")
        added = world.person("ann@acme.test")
        in_the_end(lambda: world.shown("people", added) == numbers, f"a person while host {name} is cut off")  # noqa: B023
        made[name].heal()
        in_the_end(lambda: ready(made[name]), f"host {name}, healed")  # noqa: B023
    world.check()


def test_services_that_are_cut_off_come_back_to_everybody(machines: tuple[World, dict[str, Host]]) -> None:
    world, made = machines
    person = world.person("ann@acme.test")
    numbers = [world.invoice("ann@acme.test").number]
    in_the_end(lambda: world.shown("people", person) == numbers, "the first invoice")
    made["services"].cut_off()
    told = httpx.get(f"http://{made['one'].address}:{WEB}/readyz", timeout=20, trust_env=False)
    assert told.status_code == 503
    numbers.insert(0, world.invoice("ann@acme.test").number)
    made["services"].heal()
    in_the_end(lambda: world.shown("people", person) == numbers, "what changed meanwhile")
    in_the_end(lambda: all(ready(made[name]) for name in ("one", "two")), "both hosts")
    world.check()
