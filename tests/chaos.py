"""Chaos: `make chaos ARGS="--rounds 50 --seed 1"`.

Under load from the sandbox, it kills web, worker, scheduler, Redis (sometimes wiping its data) and PostgreSQL at random
moments, one or two at a time. Then it waits until everything has recovered and is idle, and compares Patina's rows with
the sandbox's data. It exits with 0 only if no event was lost and no row is wrong.

A recovery does not include the wait for deliveries that were refused: the sandbox repeats them by Xero's schedule, and
Patina cannot hasten that.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from runtime import embedded
from runtime.servers import SERVERS
from runtime.service_urls import database_url, redis_url, start_missing_servers_with
from runtime.settings import override_settings
from sandbox import server
from tests.support.folders import emptied_for_one_run
from tests.support.load import QUICK_RECOVERY, Load
from tests.support.recovery import DELIVERY, eventually, missing_events, wait_until_idle

if TYPE_CHECKING:
    from tests.support.world import World

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS = 30.0
PAUSE_SECONDS = 7.0
PROCESSES = ("web", "worker", "worker-2", "scheduler")
SERVICES = ("redis", "postgres")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Environment:
    """The processes of an installation, restarted when they end, as a process supervisor does."""

    home: Path
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    slow_stops: list[str] = field(default_factory=list)

    def start(self, name: str, *arguments: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self.children[name] = subprocess.Popen(
                [sys.executable, "-m", "cli", name.partition("-")[0], *arguments],
                cwd=ROOT,
                env={**os.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def signal_group(self, name: str, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.children[name].pid, number)

    def kill(self, name: str) -> None:
        self.signal_group(name, signal.SIGKILL)
        self.children[name].wait()
        self.start(name)

    def pause(self, name: str) -> None:
        """Suspend a process for longer than the broker's heartbeat and the event leases, so that others take over."""
        self.signal_group(name, signal.SIGSTOP)
        time.sleep(PAUSE_SECONDS)
        self.signal_group(name, signal.SIGCONT)

    def deploy(self, name: str) -> None:
        """Restart a process with SIGTERM: it drains and exits within `STOP_SECONDS`."""
        started = time.monotonic()
        self.children[name].terminate()
        try:
            self.children[name].wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.slow_stops.append(f"{name} {time.monotonic() - started:.0f} s")
            self.signal_group(name, signal.SIGKILL)
            self.children[name].wait()
        self.start(name)

    def kill_server(self, service: str, signal_number: signal.Signals) -> None:
        """Send a signal to a server's process; its supervisor restarts it."""
        server_process = SERVERS[service](self.home / service).running_process()
        if server_process is not None:
            with suppress(psutil.NoSuchProcess):
                server_process.send_signal(signal_number)

    def wipe_redis(self) -> None:
        """Delete all data of Redis, in memory and on disk, and kill it."""
        from runtime.redis_client import shared_client

        with suppress(Exception):
            shared_client().flushall()
        self.kill_server("redis", signal.SIGKILL)

    def close(self) -> None:
        for child in self.children.values():
            with suppress(ProcessLookupError):
                child.terminate()
        for name, child in self.children.items():
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.signal_group(name, signal.SIGKILL)


def pick_faults(environment: Environment, rng: random.Random, name_filter: str) -> list[tuple[str, Callable[[], None]]]:
    """One or two faults to inject at once, into different processes."""
    possible: list[tuple[str, str, Callable[[], None]]] = []
    for name in PROCESSES:
        possible += [
            (name, f"kill {name}", lambda name=name: environment.kill(name)),  # type: ignore[misc]
            (name, f"pause {name}", lambda name=name: environment.pause(name)),  # type: ignore[misc]
            (name, f"deploy {name}", lambda name=name: environment.deploy(name)),  # type: ignore[misc]
        ]
    possible += [
        ("redis", "kill redis", lambda: environment.kill_server("redis", signal.SIGKILL)),
        ("redis", "wipe redis", environment.wipe_redis),
        ("postgres", "stop postgres at once", lambda: environment.kill_server("postgres", signal.SIGQUIT)),
        ("postgres", "stop postgres at once", lambda: environment.kill_server("postgres", signal.SIGQUIT)),
    ]
    possible = [fault for fault in possible if name_filter in fault[1]]
    selected: dict[str, tuple[str, Callable[[], None]]] = {}
    for victim, description, inject in rng.sample(possible, len(possible)):
        selected.setdefault(victim, (description, inject))
        if len(selected) == rng.choice((1, 2)):
            break
    return list(selected.values())[:2]


class Round:
    """A round of faults, and the checks after it."""

    def __init__(
        self, environment: Environment, world: World, load: Load, rng: random.Random, verbose: bool, name_filter: str
    ) -> None:
        self.verbose, self.name_filter = verbose, name_filter
        self.environment, self.world, self.load, self.rng = environment, world, load, rng
        self.kills: list[str] = []
        self.slowest = self.slowest_delivery = 0.0
        self.lost = self.wrong = 0

    def run(self) -> None:
        """Run one round."""
        with self.load.running(0.03):
            time.sleep(self.rng.uniform(0.2, 1.5))
            threads = []
            descriptions = []
            for description, inject in pick_faults(self.environment, self.rng, self.name_filter):
                self.kills.append(description)
                descriptions.append(description)
                threads.append(threading.Thread(target=inject))
            for thread in threads:
                thread.start()
            time.sleep(self.rng.uniform(0.0, 1.0))
            for thread in threads:
                thread.join()
        waited = wait_until_idle(self.world)
        self.slowest_delivery = max(self.slowest_delivery, waited[DELIVERY])
        recovery_seconds = sum(waited.values()) - waited[DELIVERY]
        self.slowest = max(self.slowest, recovery_seconds)
        if self.verbose:
            steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in waited.items())
            print(f"{recovery_seconds:6.1f} s  {', '.join(descriptions)}  ({steps})", file=sys.stderr)
        self._compare()

    def _compare(self) -> None:
        """Check that every acknowledged event is in the inbox, and every record equals the vendors' data."""
        self.lost += len(missing_events(self.world))
        comparison = self.world.compare()
        self.wrong += comparison.missing + comparison.stale + comparison.extra + comparison.balances
        try:
            self.world.check()
        except AssertionError as error:
            self.wrong += 1
            print(f"wrong after {', '.join(self.kills[-2:])}: {str(error)[:1500]}", file=sys.stderr)


def configure(home: Path) -> tuple[int, int]:
    """Set the settings of all processes; returns the ports of the web process and of the sandbox."""
    web, vendors = free_port(), free_port()
    override_settings(
        {
            **server.environment(f"http://127.0.0.1:{vendors}"),
            "PATINA_HOME": str(home),
            "EMBEDDED_SERVICES": "true",
            "DATABASE_URL": "",
            "REDIS_URL": "",
            "REDIS_NAMESPACE": "chaos",
            "PORT": str(web),
            "PUBLIC_URL": f"http://127.0.0.1:{web}",
            "WORKER_PROCESSES": "2",
            "SWEEP_INTERVAL_SECONDS": "1",
            "LEASE_SECONDS": "5",
            **QUICK_RECOVERY,
        }
    )
    start_missing_servers_with(embedded.use)
    return web, vendors


@contextmanager
def running_environment(home: Path, settings: dict[str, str] | None = None) -> Iterator[tuple[Environment, World]]:
    """All processes in an empty folder, with additional settings, and a connected account, until the block ends."""
    with emptied_for_one_run(home):
        web, vendors = configure(home)
        override_settings(settings or {})
        environment = Environment(home)
        try:
            yield environment, _start(environment, web, vendors)
        finally:
            environment.close()


def _start(environment: Environment, web: int, vendors: int) -> World:
    from store.db.migrations import migrate
    from tests.support.world import Sandbox, World

    database_url()
    redis_url()
    migrate()
    environment.start("sandbox", "--port", str(vendors), "--size", "0", "--no-limits")
    for name in PROCESSES:
        environment.start(name)
    sandbox = Sandbox(f"http://127.0.0.1:{vendors}")
    eventually(lambda: bool(sandbox.state()), 30, "the sandbox")
    client = httpx.Client(base_url=f"http://127.0.0.1:{web}", timeout=10, trust_env=False)
    eventually(lambda: client.get("/readyz").status_code == 200, 60, "the web process")
    sandbox.control("PUT", "clock", json={"speed": 20})
    world = World(sandbox, client, workers=True)
    world.enable_xero_webhook()
    return world.open(name="Chaos")


def main() -> int:
    """Run the rounds; the last line of the output is the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="only faults whose name contains this word")
    parser.add_argument("--log-level", default="warning", help="of all processes (default: warning)")
    parser.add_argument("--verbose", action="store_true", help="print a line per round")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        running_environment(ROOT / ".patina" / "chaos", {"LOG_LEVEL": arguments.log_level}) as (environment, world),
        Progress(*columns) as bar,
    ):
        round_ = Round(environment, world, Load(world, rng), rng, arguments.verbose, arguments.only)
        task = bar.add_task("chaos", total=arguments.rounds)
        for _ in range(arguments.rounds):
            round_.run()
            bar.update(task, advance=1, description=round_.kills[-1][:24].ljust(24))
        events = len(world.sandbox.control("GET", "acknowledged-events"))
    passed = not (round_.lost or round_.wrong or environment.slow_stops)
    for slow_stop in environment.slow_stops:
        print(f"did not exit within {STOP_SECONDS:.0f} s of SIGTERM: {slow_stop}", file=sys.stderr)
    print(
        f"chaos {'ok' if passed else 'failed'}: rounds {arguments.rounds}, kills {len(round_.kills)}, events {events}, "
        f"lost {round_.lost}, wrong rows {round_.wrong}, slowest recovery {round_.slowest:.1f} s, "
        f"longest wait for a repeated delivery {round_.slowest_delivery:.1f} s"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
