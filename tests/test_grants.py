"""Connections that end: calls stop, the admin hears of it, and everything goes on by itself after reconnecting."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from store import accounts
from store.database import transaction
from terminal.words import finding_text
from tests.processes import Processes, patina
from tests.serving import wait_until
from tests.world import World
from worker import connect, overview
from worker.errors import ReconnectNeededError
from worker.steps import Kind
from worker.xero import oauth


def grant_of(world: World) -> int:
    with transaction() as session:
        return int(session.execute(text("SELECT id FROM xero_grant ORDER BY id DESC LIMIT 1")).scalar_one())


def wrong(world: World) -> tuple[str, ...]:
    findings = next(one.findings for one in overview.everything() if one.id == world.account)
    return tuple(map(finding_text, findings))


def test_an_organisation_that_is_disconnected_inside_xero_stops_alone(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    person = world.person("ann@acme.test")
    contacts = [world.contact("Acme", "ann@acme.test", organisation=number) for number in (0, 1)]
    world.settle()
    world.sandbox.act("disconnect", tenant=world.tenants[0])
    world.invoice(contacts[0])
    kept = world.invoice(contacts[1])
    world.settle_without_end()

    assert world.shown("people", person) == [kept.number]
    assert wrong(world) == ("Acme Sales Ltd 1 is disconnected from Xero: run `patina connect`",)
    calls = world.sandbox.calls("/xero/")
    world.settle_without_end()
    world.run_once(Kind.CATCH_UP)
    organisation = world.sandbox.calls("/xero/") - calls
    assert organisation == 2, "only the other organisation's catch-up is asked for"


def test_what_waited_goes_on_by_itself_after_reconnecting(world: World) -> None:
    person = world.person("ann@acme.test")
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    world.sandbox.act("disconnect", tenant=world.tenants[0])
    waited = world.invoice(contact)
    world.settle_without_end()
    world.sandbox.faults(webhooks=[{"vendor": "xero", "lose": 1.0}])
    missed = world.invoice(contact)
    world.sandbox.faults()
    assert world.shown("people", person) == []

    world.authorise(world.tenants)
    world.settle()
    world.catch_up()

    assert sorted(world.shown("people", person)) == sorted([waited.number, missed.number])
    assert wrong(world) == ()
    world.check()


@pytest.mark.timeout(90)
def test_the_workers_take_up_what_waited_at_once(world: World, processes: Processes) -> None:
    processes += [patina("worker"), patina("scheduler")]
    person = world.person("ann@acme.test")
    contact = world.contact("Acme", "ann@acme.test")
    world.workers = True
    world.settle()
    world.sandbox.act("disconnect", tenant=world.tenants[0])
    invoice = world.invoice(contact)
    wait_until(lambda: wrong(world) != (), what="the lost connection")
    world.authorise(world.tenants)
    wait_until(lambda: world.shown("people", person) == [invoice.number], seconds=20, what="the invoice")


def test_a_refused_copper_key_stops_the_calls_until_a_new_one_comes(world: World) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    world.sandbox.faults(api=[{"vendor": "copper", "kind": "status", "status": 401}])
    world.copper_act("change_record", type="person", id=person, emails=["new@acme.test"])
    world.settle_without_end()
    assert wrong(world) == ("Copper rejected the API key: run `patina connect` with a new one",)
    world.sandbox.faults()
    calls = world.sandbox.calls("/copper/")
    world.run_once(Kind.CATCH_UP)
    world.settle_without_end()
    assert world.sandbox.calls("/copper/") == calls, "nobody calls with a key that is refused"

    state = world.sandbox.state()["accounts"][0]
    assert connect.connect_copper(state["api_key"], state["email"]) == world.account
    invoice = world.invoice("new@acme.test")
    world.settle()
    assert world.shown("people", person) == [invoice.number]
    assert wrong(world) == ()


@pytest.mark.timeout(120)
def test_a_storm_of_expired_tokens_uses_each_refresh_token_once(unconnected: World, processes: Processes) -> None:
    world = unconnected.open(organisations=3)
    world.workers = True
    processes += [patina("worker", environment={"WORKER_PROCESSES": "4", "WORKER_THREADS": "4"})]
    contacts = [world.contact("Acme", f"p{number}@acme.test", organisation=number) for number in range(3)]
    world.settle()
    for round_ in range(1, 6):
        world.sandbox.control("PUT", "clock", json={"ahead": round_ * 31 * 60})
        for _ in range(4):
            for contact in contacts:
                world.invoice(contact)
        world.run(Kind.CATCH_UP)
        world.settle()
    state = world.sandbox.state()
    assert state["most_uses_of_a_refresh_token"] == 1
    assert sum(count for path, count in state["calls"].items() if path.endswith("/connect/token")) <= 1 + 5


def test_a_crash_between_xeros_answer_and_our_commit_is_healed_by_the_old_token(world: World) -> None:
    with transaction() as session:
        held = accounts.grant(session, world.account, grant_of(world))
    oauth.refresh(held.token)

    fresh = oauth.fresh(world.account, held.id, unlike=held.token["access_token"])
    assert fresh.token["refresh_token"] != held.token["refresh_token"]
    invoice = world.invoice("ann@acme.test")
    person = world.person("ann@acme.test")
    world.settle()
    assert world.shown("people", person) == [invoice.number]


def test_idle_grants_are_refreshed_long_before_they_end(world: World) -> None:
    calls = world.sandbox.calls("/connect/token")
    assert oauth.keep_alive(7 * 86_400, 100) == 0
    with transaction() as session:
        session.execute(text("UPDATE xero_grant SET refreshed_at = now() - interval '8 days'"))
    assert oauth.keep_alive(7 * 86_400, 100) == 1
    assert oauth.keep_alive(7 * 86_400, 100) == 0
    assert world.sandbox.calls("/connect/token") == calls + 1


def test_a_grant_that_ended_while_idle_is_told_of(world: World) -> None:
    with transaction() as session:
        session.execute(text("UPDATE xero_grant SET refreshed_at = now() - interval '8 days'"))
    world.sandbox.control("PUT", "clock", json={"ahead": 61 * 86_400})
    assert oauth.keep_alive(7 * 86_400, 100) == 0
    assert "is disconnected from Xero" in wrong(world)[0]
    with pytest.raises(ReconnectNeededError):
        oauth.fresh(world.account, grant_of(world))
