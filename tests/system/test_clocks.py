"""Hosts whose clocks are wrong: nothing is lost or repeated, because stored times follow the database's clock."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from store.db.database import transaction
from tests.chaos import free_port
from tests.support.processes import ROOT, Processes, patina, terminate
from tests.support.serving import http_client, responds, wait_until
from tests.support.world import Sandbox, World

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (Debian: libfaketime)")
SLEEP = ROOT / "tests" / "support" / "faketime"
AHEAD, BEHIND = timedelta(minutes=7), timedelta(minutes=-6)
DAY_CHANGE_SECONDS = 30
SAME_SECOND_ATTEMPTS = 5


class FalseClock:
    """A clock that is wrong by a time that can be changed while the processes run."""

    def __init__(self, file: Path, offset: timedelta) -> None:
        self.file = file
        self.jump(offset)

    def jump(self, offset: timedelta) -> None:
        new_path = self.file.with_suffix(".new")
        new_path.write_text(f"{offset.total_seconds():+.0f}s\n")
        new_path.rename(self.file)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to have this clock. Waits are not affected, as with a real clock."""
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_CACHE_DURATION": "1",
            "NO_FAKE_STAT": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
            "PYTHONPATH": str(SLEEP),
        }


@pytest.fixture
def clocks(tmp_path: Path) -> Iterator[FalseClock]:
    """New clocks, without end."""

    def make() -> Iterator[FalseClock]:
        for number in itertools.count():
            yield FalseClock(tmp_path / f"clock-{number}", timedelta())

    return make()


def daylight_saving_starts_in(seconds: float) -> str:
    """A time zone (POSIX) whose clocks go forward an hour in some seconds."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    day = moment.timetuple().tm_yday
    # Julian days without 29 February.
    is_leap = moment.year % 4 == 0
    day -= 1 if is_leap and day > 59 else 0
    end = day % 365 + 1
    return f"STD0DST,J{day}/{moment:%H:%M:%S},J{end}/23"


def set_vendor_time(sandbox: Sandbox, moment: datetime) -> None:
    sandbox.control("PUT", "clock", json={"offset_seconds": (moment - datetime.now(UTC)).total_seconds()})


def change_address(world: World, person: int, email: str) -> int:
    """Change a person's address; returns when Copper says that the person was last modified."""
    world.simulate_copper("update_record", type="person", id=person, emails=[email])
    data = world.sandbox.control("GET", "world", params={"account": world.copper})
    (record,) = [record for record in data["records"]["person"] if record["id"] == person]
    return int(record["modified"])


def test_a_later_fetch_counts_even_if_its_worker_s_clock_is_behind(
    world: World, processes: Processes, clocks: Iterator[FalseClock]
) -> None:
    """Copper's times are whole seconds: of two changes within one, the state that was fetched later counts."""
    ann, bob = world.invoice("ann@acme.test"), world.invoice("bob@acme.test")
    person = world.person("zoe@acme.test")
    world.settle()
    world.workers = True
    for number in range(SAME_SECOND_ATTEMPTS):
        moment = (datetime.now(UTC) + timedelta(hours=number + 1)).replace(microsecond=0)
        modified_at = []
        for offset, email, invoice in ((AHEAD, "ann@acme.test", ann), (BEHIND, "bob@acme.test", bob)):
            clock = next(clocks)
            clock.jump(offset)
            worker = patina("worker", environment=clock.environment)
            processes.append(worker)
            set_vendor_time(world.sandbox, moment)
            modified_at.append(change_address(world, person, email))
            world.settle()
            terminate([worker])
            numbers = world.invoice_numbers("people", person)
            assert numbers == [invoice.number], f"with a clock that is wrong by {offset}"
        if len(set(modified_at)) == 1:
            return
    pytest.fail("no two changes were made within a second")


@pytest.mark.long(seconds=40)
def test_clocks_that_differ_jump_and_change_to_daylight_saving_lose_and_repeat_nothing(
    world: World, processes: Processes, clocks: Iterator[FalseClock]
) -> None:
    world.settle()
    world.workers = True
    # A scheduler whose clock is an hour ahead must not believe that the night has come.
    next_hour = (datetime.now(UTC) + timedelta(hours=1)).hour
    settings = {"RECONCILE_HOUR": str(next_hour), "RECONCILE_SPREAD_HOURS": "0", "SWEEP_INTERVAL_SECONDS": "1"}
    settings["TZ"] = daylight_saving_starts_in(DAY_CHANGE_SECONDS)
    started_at = time.monotonic()
    ahead, behind, jumping = next(clocks), next(clocks), next(clocks)
    ahead.jump(AHEAD)
    behind.jump(BEHIND)
    ports = [free_port(), free_port()]
    for clock, port in zip((ahead, behind), ports, strict=True):
        processes.append(patina("web", environment={**settings, **clock.environment, "PORT": str(port)}))
    for clock in (ahead, jumping):
        processes.append(patina("worker", environment={**settings, **clock.environment}))
    processes.append(patina("scheduler", environment={**settings, **jumping.environment}))
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    wait_until(lambda: all(responds(f"{url}/readyz") for url in urls), seconds=120, description="both web processes")
    before = count_runs()
    webs = [http_client(url) for url in urls]
    act_while_clocks_jump(world, webs, jumping, started_at + DAY_CHANGE_SECONDS + 5)
    for web in webs:
        world.web = web
        world.settle()
        world.check_rows()
    assert count_runs() == before, "no run was started, neither early nor again"
    assert most_attempts() <= 1, "no event was applied twice"
    world.check()


def act_while_clocks_jump(world: World, webs: list[httpx.Client], clock: FalseClock, deadline: float) -> None:
    """Change data until a moment, while a clock jumps and the webhooks go to one web process after the other."""
    people = [world.person(f"p{number}@acme.test") for number in range(4)]
    invoices = [world.invoice(f"p{number}@acme.test").id for number in range(4)]
    jumps = itertools.cycle((timedelta(hours=1), AHEAD, timedelta(hours=-2), BEHIND, timedelta()))
    for number in itertools.count():
        clock.jump(next(jumps))
        world.web = webs[number % 2]
        world.move_xero_webhook()
        world.sandbox.simulate("update_invoice", invoice=invoices[number % 4], total=f"{500 + number}.00")
        world.simulate_copper(
            "update_record", type="person", id=people[number % 4], emails=[f"p{number // 4 % 4}@acme.test"]
        )
        if number % 5 == 0:
            world.settle()
        if time.monotonic() > deadline:
            return


def count_runs() -> dict[str, int]:
    """The runs by kind."""
    with transaction() as session:
        rows = session.execute(text("SELECT kind, count(*) FROM sync_run GROUP BY kind")).all()
    return {row[0]: row[1] for row in rows}


def most_attempts() -> int:
    """The attempts of the event that needed most."""
    with transaction() as session:
        return int(session.execute(text("SELECT coalesce(max(attempts), 0) FROM inbox")).scalar_one())
