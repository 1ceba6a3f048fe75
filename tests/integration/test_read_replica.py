"""Reads from a standby: as long as it lags little, or the primary is away; otherwise from the primary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from runtime.settings import override_settings
from services import access
from store.db import read_replica
from store.db.database import dispose_engine
from store.db.migrations import migrate
from store.db.read_replica import AWAY_SECONDS, PROBE_SECONDS, ReplicaLag, replica_lag
from tests.support.commands import patina
from tests.support.serving import http_client, serving, wait_until
from tests.support.standby import Standby, primary_with_standby
from tests.support.world import Sandbox, World
from web.panel.change_listener import ChangeNotifier


@pytest.fixture
def pair(open_folder: Path) -> Iterator[Standby]:
    """A primary and its standby, in use by this process."""
    with primary_with_standby(open_folder) as pair:
        override_settings(
            {
                "DATABASE_URL": pair.address(pair.primary),
                "READ_DATABASE_URL": pair.address(pair.standby),
                "READ_MAX_LAG_SECONDS": "1000",
            }
        )
        dispose_engine()
        replica_lag.clear()
        migrate()
        yield pair
        dispose_engine()
        replica_lag.clear()


@pytest.fixture
def far(pair: Standby, sandbox: Sandbox, app: FastAPI) -> Iterator[World]:
    """A connected account whose reads the standby serves."""
    with serving(app) as url, http_client(url) as client:
        override_settings({"PUBLIC_URL": url})
        world = World(sandbox, client)
        world.enable_xero_webhook()
        world.open()
        wait_until(lambda: replica_lag().prefers_replica and replica_lag().seconds == 0)
        yield world


def caught_up() -> bool:
    return replica_lag().has_replayed(time.monotonic() - 2 * PROBE_SECONDS)


def test_reads_come_from_the_standby_until_it_lags_too_far(pair: Standby, far: World) -> None:
    person, first = far.person("ann@acme.test"), far.invoice("ann@acme.test")
    far.settle()
    wait_until(lambda: far.invoice_numbers("people", person) == [first.number])
    before = far.read("people", person).json()["synced_at"]

    pair.pause_replay()
    second = far.invoice("ann@acme.test")
    far.settle()
    assert far.invoice_numbers("people", person) == [first.number], "the standby serves reads"
    assert far.read("people", person).json()["synced_at"] == before, "the lag shows"
    wait_until(lambda: replica_lag().seconds > 1)
    override_settings({"READ_MAX_LAG_SECONDS": "1"})
    assert far.invoice_numbers("people", person) == [second.number, first.number], "the primary does"
    assert "behind; the primary serves reads" in far.web.get("/readyz").text

    pair.resume_replay()
    wait_until(lambda: replica_lag().prefers_replica)
    assert far.web.get("/readyz").text.endswith("read replica: serves reads\nready\n")
    assert far.invoice_numbers("people", person) == [second.number, first.number]


def test_while_the_primary_is_away_the_standby_serves_the_api_the_panel_and_readiness(
    pair: Standby, far: World
) -> None:
    person, invoice = far.person("ann@acme.test"), far.invoice("ann@acme.test")
    far.settle()
    wait_until(lambda: far.invoice_numbers("people", person) == [invoice.number])
    panel = {"Authorization": f"Bearer {access.create_key(far.account, 'panel', ('panel',))}"}
    path = f"/panel/records/person/{person}"
    assert invoice.number in far.web.get(path, headers=panel).text

    pair.stop_primary()
    assert far.invoice_numbers("people", person) == [invoice.number]
    wait_until(lambda: replica_lag().is_primary_away)
    assert far.invoice_numbers("people", person) == [invoice.number]
    assert invoice.number in far.web.get(path, headers=panel).text
    receivables = far.web.get("/v1/people", headers={"Authorization": f"Bearer {far.key}"})
    assert receivables.status_code == 200
    readiness = far.web.get("/readyz")
    assert (readiness.status_code, readiness.text.splitlines()[-1]) == (200, "ready for reads")

    pair.start_primary()
    wait_until(lambda: far.web.get("/readyz").text.endswith("\nready\n"))
    later = far.invoice("ann@acme.test")
    far.settle()
    wait_until(lambda: far.invoice_numbers("people", person) == [later.number, invoice.number])


def test_while_the_standby_is_away_the_primary_serves_the_reads(pair: Standby, far: World) -> None:
    person, invoice = far.person("ann@acme.test"), far.invoice("ann@acme.test")
    far.settle()
    pair.stop_standby()
    assert far.invoice_numbers("people", person) == [invoice.number]
    wait_until(lambda: replica_lag().is_replica_away)
    assert "read replica: away; the primary serves reads\nready\n" in far.web.get("/readyz").text
    assert far.invoice_numbers("people", person) == [invoice.number]
    doctor = patina("doctor")
    assert "read replica" in doctor.stdout
    assert "Can't reach PostgreSQL" in doctor.stdout
    assert "READ_DATABASE_URL" in doctor.stdout


def test_a_key_that_the_standby_does_not_know_yet_works_at_once(pair: Standby, far: World) -> None:
    person = far.person("ann@acme.test")
    far.settle()
    wait_until(caught_up)
    pair.pause_replay()
    key = patina("keys", "create", "For the CRM").stdout.strip()
    headers = {"Authorization": f"Bearer {key}"}
    assert far.web.get(f"/v1/people/{person}/invoices", headers=headers).status_code == 200
    assert far.web.get("/v1/people", headers=headers).status_code == 200
    wrong = {"Authorization": "Bearer pat_nobodys"}
    assert far.web.get(f"/v1/people/{person}/invoices", headers=wrong).status_code == 401


def test_an_export_comes_from_the_standby(pair: Standby, far: World) -> None:
    far.person("ann@acme.test")
    first = far.invoice("ann@acme.test")
    far.settle()
    wait_until(caught_up)
    pair.pause_replay()
    second = far.invoice("ann@acme.test")
    far.settle()
    headers = {"Authorization": f"Bearer {access.create_key(far.account, 'export', ('admin',))}"}
    text = far.web.get("/v1/invoices.csv", headers=headers).text
    assert first.number in text
    assert second.number not in text


def test_a_panel_is_notified_again_once_the_standby_shows_the_change() -> None:
    notified: list[int] = []

    async def run() -> None:
        lag = replica_lag()
        lag.note_primary(10, time.monotonic())
        lag.note_replica(10)
        notifier = ChangeNotifier(notified.append)
        notifier.add(7)
        assert notified == [7]
        await asyncio.sleep(0.6)
        assert notified == [7], "the standby has not replayed the change"
        lag.note_primary(20, time.monotonic())
        lag.note_replica(20)
        await asyncio.sleep(0.6)

    replica_lag.clear()
    asyncio.run(run())
    replica_lag.clear()
    assert notified == [7, 7]


def test_lag_is_the_time_since_the_newest_position_that_was_reached() -> None:
    lag = ReplicaLag()
    assert not lag.prefers_replica
    assert lag.seconds == float("inf")
    now = time.monotonic()
    for seconds_ago, position in ((30, 100), (20, 200), (10, 300)):
        lag.note_primary(position, now - seconds_ago)
    lag.note_replica(150)
    assert 29 < lag.seconds < 31
    lag.note_replica(250)
    assert 19 < lag.seconds < 21
    assert not lag.prefers_replica, "more than READ_MAX_LAG_SECONDS"
    lag.note_replica(300)
    assert lag.prefers_replica


def test_a_standby_that_is_far_behind_is_better_than_no_primary() -> None:
    lag = ReplicaLag()
    lag.note_primary(100, time.monotonic() - 60)
    lag.note_primary(200, time.monotonic() - 30)
    lag.note_replica(150)
    assert not lag.prefers_replica, "the primary answers"
    time.sleep(AWAY_SECONDS + 0.2)
    lag.note_replica(150)
    assert lag.prefers_replica


def test_without_a_standby_nothing_is_watched(database: str) -> None:
    assert asyncio.run(asyncio.wait_for(read_replica.watch(), 1)) is None
    assert not replica_lag().prefers_replica


def test_the_address_of_the_standby_is_checked_like_the_primary_s() -> None:
    refused = patina("status", READ_DATABASE_URL="mysql://u:secret@h/db")
    assert refused.returncode == 1
    assert "READ_DATABASE_URL is invalid: must start with postgresql://" in refused.stderr
    assert "secret" not in refused.stderr


def test_settings_of_the_pool_hold_for_the_standby(pair: Standby, far: World) -> None:
    far.person("ann@acme.test")
    with httpx.Client(base_url=far.web.base_url, trust_env=False) as client:
        assert client.get("/readyz").status_code == 200
    with read_replica.read_transaction() as session:
        row = session.connection().exec_driver_sql("SELECT pg_is_in_recovery(), current_setting('timezone')").one()
    assert tuple(row) == (True, "UTC")
