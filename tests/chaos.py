"""Chaos: `make chaos ARGS="--rounds 50 --seed 1"`.

Under load from the sandbox, kills web, worker, scheduler, Redis (its data wiped, too) and PostgreSQL at random moments,
one or two at a time; then lets everything come back by itself, waits until it is quiet, and holds what is shown against
what the sandbox holds. Exit 0 only when nothing was lost and no row is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
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

from runtime.servers import KINDS
from runtime.settings import override
from sandbox import server

if TYPE_CHECKING:
    from tests.world import World

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS, HEAL_SECONDS = 30.0, 120.0
STOPPED_SECONDS = 7.0
PROCESSES = ("web", "worker", "worker-2", "scheduler")
SERVICES = ("redis", "postgres")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Stage:
    """Everything that runs, started again when it ends, as a supervisor does it."""

    home: Path
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    slow_stops: list[str] = field(default_factory=list)

    def start(self, name: str, *words: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self.children[name] = subprocess.Popen(
                [sys.executable, "-m", "cli", name.partition("-")[0], *words],
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

    def stop_for_a_while(self, name: str) -> None:
        """Longer than the broker's heartbeat and the events' leases: others take over, and then it wakes up."""
        self.signal_group(name, signal.SIGSTOP)
        time.sleep(STOPPED_SECONDS)
        self.signal_group(name, signal.SIGCONT)

    def deploy(self, name: str) -> None:
        """SIGTERM: it drains and ends within 30 s."""
        began = time.monotonic()
        self.children[name].terminate()
        try:
            self.children[name].wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.slow_stops.append(f"{name} {time.monotonic() - began:.0f} s")
            self.signal_group(name, signal.SIGKILL)
            self.children[name].wait()
        self.start(name)

    def kill_server(self, kind: str, how: signal.Signals) -> None:
        """The server's own process; its owner starts it again."""
        running = KINDS[kind](self.home / kind).running()
        if running is not None:
            with suppress(psutil.NoSuchProcess):
                running.send_signal(how)

    def wipe_redis(self) -> None:
        """All that Redis knew is gone: its data, in memory and on disk."""
        from worker.broker import client

        with suppress(Exception):
            client().flushall()
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


def strikes(stage: Stage, dice: random.Random, only: str) -> list[tuple[str, Callable[[], None]]]:
    """One or two things to happen at once, to different victims."""
    possible: list[tuple[str, str, Callable[[], None]]] = []
    for name in PROCESSES:
        possible += [
            (name, f"kill {name}", lambda name=name: stage.kill(name)),  # type: ignore[misc]
            (name, f"stop {name}", lambda name=name: stage.stop_for_a_while(name)),  # type: ignore[misc]
            (name, f"deploy {name}", lambda name=name: stage.deploy(name)),  # type: ignore[misc]
        ]
    possible += [
        ("redis", "kill redis", lambda: stage.kill_server("redis", signal.SIGKILL)),
        ("redis", "wipe redis", stage.wipe_redis),
        ("postgres", "stop postgres at once", lambda: stage.kill_server("postgres", signal.SIGQUIT)),
        ("postgres", "stop postgres at once", lambda: stage.kill_server("postgres", signal.SIGQUIT)),
    ]
    possible = [one for one in possible if only in one[1]]
    chosen: dict[str, tuple[str, Callable[[], None]]] = {}
    for victim, what, strike in dice.sample(possible, len(possible)):
        chosen.setdefault(victim, (what, strike))
        if len(chosen) == dice.choice((1, 2)):
            break
    return list(chosen.values())[:2]


@dataclass
class Load:
    """Users of both vendors, at work until told to stop."""

    world: World
    dice: random.Random
    people: list[int] = field(default_factory=list)
    companies: list[int] = field(default_factory=list)
    invoices: list[str] = field(default_factory=list)
    acts: int = 0

    def one(self) -> None:
        """Do one thing."""
        world, dice = self.world, self.dice
        self.acts += 1
        kind = dice.random()
        if len(self.people) < 8 or kind < 0.08:
            address = f"p{dice.randrange(30)}@acme.test"
            self.people.append(world.person(address, company=dice.choice(self.companies) if self.companies else None))
        elif len(self.companies) < 4 or kind < 0.12:
            company = world.company()
            self.companies.append(company)
            world.opportunity(company=company)
        elif len(self.invoices) < 10 or kind < 0.4:
            self.invoices.append(world.invoice(f"p{dice.randrange(30)}@acme.test").id)
        elif kind < 0.6:
            world.sandbox.act(
                "change_invoice", invoice=dice.choice(self.invoices), total=f"{dice.randrange(500, 900)}.00"
            )
        elif kind < 0.8:
            person = dice.choice(self.people)
            world.copper_act("change_record", type="person", id=person, emails=[f"p{dice.randrange(30)}@acme.test"])
        else:
            world.copper_act("move_person", person=dice.choice(self.people), company=dice.choice(self.companies))

    @contextmanager
    def under(self, pause: float) -> Iterator[None]:
        """Load while the block lasts; an error of the sandbox itself ends it."""
        stop, failed = threading.Event(), []

        def work() -> None:
            try:
                while not stop.wait(self.dice.uniform(0, pause)):
                    self.one()
            except Exception as error:
                failed.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        try:
            yield
        finally:
            stop.set()
            worker.join()
        if failed:
            raise failed[0]


def eventually(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something is true; errors of what is still down count as not yet."""
    until = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
            last: object = "not yet"
        except Exception as error:
            last = error
        if time.monotonic() > until:
            raise SystemExit(f"chaos failed: {what} did not come within {seconds:.0f} s ({last})")
        time.sleep(0.1)


def become_quiet(world: World) -> None:
    """Wait until everything is back, a catch-up has found what Copper sent once or not at all, and nothing waits."""
    from datetime import UTC, datetime

    now = datetime.now(UTC)

    def caught_up() -> bool:
        known = world.runs()
        sources = {one.organisation_id for one in known}
        new = {
            one.organisation_id
            for one in known
            if one.kind == "catch_up" and one.started_at > now and one.state == "done"
        }
        return sources == new

    eventually(lambda: world.web.get("/readyz").status_code == 200, HEAL_SECONDS, "the web process")
    eventually(lambda: world.sandbox.state()["waiting"] == 0, HEAL_SECONDS, "delivery of all webhooks")
    eventually(caught_up, HEAL_SECONDS, "a catch-up")
    eventually(world.quiet, HEAL_SECONDS, "quiet")


class Round:
    """Strikes, and what must be true afterwards."""

    def __init__(self, stage: Stage, world: World, load: Load, dice: random.Random, loud: bool, only: str) -> None:
        self.loud, self.only = loud, only
        self.stage, self.world, self.load, self.dice = stage, world, load, dice
        self.kills: list[str] = []
        self.slowest = 0.0
        self.lost = self.wrong = 0

    def play(self) -> None:
        """One round."""
        with self.load.under(0.03):
            time.sleep(self.dice.uniform(0.2, 1.5))
            at_once = []
            struck = []
            for what, strike in strikes(self.stage, self.dice, self.only):
                self.kills.append(what)
                struck.append(what)
                at_once.append(threading.Thread(target=strike))
            for one in at_once:
                one.start()
            time.sleep(self.dice.uniform(0.0, 1.0))
            for one in at_once:
                one.join()
        healed = time.monotonic()
        become_quiet(self.world)
        took = time.monotonic() - healed
        self.slowest = max(self.slowest, took)
        if self.loud:
            print(f"{took:6.1f} s  {', '.join(struck)}", file=sys.stderr)
        self._compare()

    def _compare(self) -> None:
        """Every acknowledged event is in the inbox, and every record shows what the vendors hold."""
        self.lost += len(self._missing_events())
        found = self.world.compare()
        self.wrong += found.missing + found.stale + found.extra + found.balances
        try:
            self.world.check()
        except AssertionError as error:
            self.wrong += 1
            print(f"wrong after {', '.join(self.kills[-2:])}: {str(error)[:1500]}", file=sys.stderr)

    def _missing_events(self) -> list[tuple[str, ...]]:
        """Acknowledged events of which the inbox knows nothing."""
        from sqlalchemy import text

        from store.database import transaction
        from webhooks.payloads import copper_key

        told = self.world.sandbox.control("GET", "acknowledged")
        with transaction() as session:
            rows = session.execute(text("SELECT kind, event, resource_id, occurred_at, dedupe_key FROM inbox")).all()
        xero = {(row[0], row[1], row[2], f"{row[3]:%Y-%m-%dT%H:%M:%S.%f}"[:23]) for row in rows if row[3]}
        copper = {bytes(row[4]).hex() for row in rows}
        return [
            tuple(one)
            for one in told
            if (
                copper_key(one[4], int(one[3])) not in copper
                if one[0] == "copper"
                else (one[1], one[2], one[3].lower(), one[4][:23]) not in xero
            )
        ]


def settle_settings(home: Path) -> tuple[int, int]:
    """The settings of all processes; returns the ports of the web process and of the sandbox."""
    web, vendors = free_port(), free_port()
    override(
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
            "WORKER_THREADS": "4",
            "SWEEP_SECONDS": "1",
            "LEASE_SECONDS": "5",
            "CATCH_UP_SECONDS": "3",
            # The vendors' minute would hide how fast we recover: it is five seconds here, with room for many calls.
            "LIMIT_WINDOW_SECONDS": "5",
            "XERO_MINUTE_LIMIT": "500",
            "XERO_CONCURRENT_LIMIT": "20",
            "XERO_DAY_LIMIT": "1000000",
            "COPPER_MINUTE_LIMIT": "2000",
            "COPPER_NOTIFICATIONS_MINUTE_LIMIT": "1000000",
            "COPPER_NOTIFICATIONS_DAY_LIMIT": "100000000",
            # Comparing reads every record after every round.
            "API_MINUTE_LIMIT": "1000000",
            "LOG_LEVEL": "warning",
            "LOG_FORMAT": "json",
            "CONNECT_TIMEOUT": "2",
            "READ_TIMEOUT": "5",
        }
    )
    return web, vendors


def open_stage(home: Path, more: dict[str, str] | None = None) -> tuple[Stage, World]:
    """Start everything, with some settings of one's own, and connect an account."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    web, vendors = settle_settings(home)
    override(more or {})
    from runtime import embedded
    from store.database import migrate
    from tests.world import Sandbox, World

    embedded.database_url()
    embedded.redis_url()
    migrate()
    stage = Stage(home)
    stage.start("sandbox", "--port", str(vendors), "--size", "0", "--no-limits")
    for name in PROCESSES:
        stage.start(name)
    sandbox = Sandbox(f"http://127.0.0.1:{vendors}")
    eventually(lambda: bool(sandbox.state()), 30, "the sandbox")
    client = httpx.Client(base_url=f"http://127.0.0.1:{web}", timeout=10, trust_env=False)
    eventually(lambda: client.get("/readyz").status_code == 200, 60, "the web process")
    sandbox.control("PUT", "clock", json={"speed": 20})
    world = World(sandbox, client, workers=True)
    world.listen()
    return stage, world.open(name="Chaos")


def main() -> int:
    """Play the rounds; the last line says how it went."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--rounds", type=int, default=50)
    reader.add_argument("--seed", type=int, default=1)
    reader.add_argument("--only", default="", help="strikes whose name has this word in it")
    reader.add_argument("--loud", action="store_true", help="a line a round")
    chosen = reader.parse_args()
    dice = random.Random(chosen.seed)
    stage, world = open_stage(ROOT / ".patina" / "chaos")
    one = Round(stage, world, Load(world, dice), dice, chosen.loud, chosen.only)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns) as bar:
            task = bar.add_task("chaos", total=chosen.rounds)
            for _ in range(chosen.rounds):
                one.play()
                bar.update(task, advance=1, description=one.kills[-1][:24].ljust(24))
        events = len(world.sandbox.control("GET", "acknowledged"))
    finally:
        stage.close()
    well = not (one.lost or one.wrong or stage.slow_stops)
    for slow in stage.slow_stops:
        print(f"did not end within {STOP_SECONDS:.0f} s of SIGTERM: {slow}", file=sys.stderr)
    print(
        f"chaos {'ok' if well else 'failed'}: rounds {chosen.rounds}, kills {len(one.kills)}, events {events}, "
        f"lost {one.lost}, wrong rows {one.wrong}, slowest recovery {one.slowest:.1f} s"
    )
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
