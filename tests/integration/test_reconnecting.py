"""Lost connections: calls stop, the admin is notified, and everything continues after reconnecting."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from cli.findings import describe_finding
from services import account_status, connect
from store.accounts import xero_grants
from store.db.database import transaction
from tests.support.processes import Processes, patina
from tests.support.serving import wait_until
from tests.support.world import World
from worker.vendors.errors import AuthorizationLostError
from worker.vendors.sync_types import RunKind
from worker.vendors.xero import oauth


def grant_of(world: World) -> int:
    with transaction() as session:
        return int(session.execute(text("SELECT id FROM xero_grant ORDER BY id DESC LIMIT 1")).scalar_one())


def findings_of(world: World) -> tuple[str, ...]:
    """What is wrong with the account, while all processes run."""
    world.record_heartbeats()
    findings = next(account.findings for account in account_status.list_all() if account.id == world.account)
    return tuple(map(describe_finding, findings))


def test_only_the_organisation_disconnected_in_xero_stops(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    person = world.person("ann@acme.test")
    contacts = [world.contact("Acme", "ann@acme.test", organisation=number) for number in (0, 1)]
    world.settle()
    world.sandbox.simulate("disconnect", tenant=world.tenants[0])
    world.invoice(contacts[0])
    kept_invoice = world.invoice(contacts[1])
    world.settle_once()

    assert world.invoice_numbers("people", person) == [kept_invoice.number]
    assert findings_of(world) == ("Acme Sales Ltd 1 is disconnected from Xero: run `patina connect`",)
    calls = world.sandbox.calls("/xero/")
    world.settle_once()
    world.run_until_error(RunKind.CATCH_UP)
    listings = ("Contacts", "CreditNotes", "Invoices")
    assert world.sandbox.calls("/xero/") - calls == len(listings), "only the other organisation's catch-up is asked for"


def test_pending_events_continue_after_reconnecting(world: World) -> None:
    person = world.person("ann@acme.test")
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    world.sandbox.simulate("disconnect", tenant=world.tenants[0])
    waited = world.invoice(contact)
    world.settle_once()
    world.sandbox.faults(webhooks=[{"vendor": "xero", "loss": 1.0}])
    missed = world.invoice(contact)
    world.sandbox.faults()
    assert world.invoice_numbers("people", person) == []

    world.authorise(world.tenants)
    world.settle()
    world.catch_up()

    assert sorted(world.invoice_numbers("people", person)) == sorted([waited.number, missed.number])
    assert findings_of(world) == ()
    world.check()


def test_the_workers_process_pending_events_at_once(world: World, processes: Processes) -> None:
    processes += [patina("worker"), patina("scheduler")]
    person = world.person("ann@acme.test")
    contact = world.contact("Acme", "ann@acme.test")
    world.workers = True
    world.settle()
    world.sandbox.simulate("disconnect", tenant=world.tenants[0])
    invoice = world.invoice(contact)
    wait_until(lambda: findings_of(world) != (), description="the lost connection")
    world.authorise(world.tenants)
    wait_until(
        lambda: world.invoice_numbers("people", person) == [invoice.number], seconds=20, description="the invoice"
    )


def test_a_refused_copper_key_stops_the_calls_until_it_is_replaced(world: World) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    world.sandbox.faults(api=[{"vendor": "copper", "type": "status", "status": 401}])
    world.simulate_copper("update_record", type="person", id=person, emails=["new@acme.test"])
    world.settle_once()
    assert findings_of(world) == ("Copper rejected the API key: run `patina connect` with a new one",)
    world.sandbox.faults()
    calls = world.sandbox.calls("/copper/")
    world.run_until_error(RunKind.CATCH_UP)
    world.settle_once()
    assert world.sandbox.calls("/copper/") == calls, "nobody calls with a key that is refused"

    state = world.sandbox.state()["accounts"][0]
    assert connect.connect_copper(state["api_key"], state["email"]) == world.account
    invoice = world.invoice("new@acme.test")
    world.settle()
    assert world.invoice_numbers("people", person) == [invoice.number]
    assert findings_of(world) == ()


def test_a_storm_of_expired_tokens_uses_each_refresh_token_once(unconnected: World, processes: Processes) -> None:
    world = unconnected.open(organisations=3)
    world.workers = True
    processes += [patina("worker", environment={"WORKER_PROCESSES": "4", "WORKER_THREADS": "4"})]
    contacts = [world.contact("Acme", f"p{number}@acme.test", organisation=number) for number in range(3)]
    world.settle()
    for round_ in range(1, 6):
        world.sandbox.control("PUT", "clock", json={"offset_seconds": round_ * 31 * 60})
        for _ in range(4):
            for contact in contacts:
                world.invoice(contact)
        world.run(RunKind.CATCH_UP)
        world.settle()
    state = world.sandbox.state()
    assert state["max_refresh_token_uses"] == 1
    assert sum(count for path, count in state["calls"].items() if path.endswith("/connect/token")) <= 1 + 5


def test_after_a_crash_between_xeros_response_and_our_commit_the_old_token_still_works(world: World) -> None:
    with transaction() as session:
        grant = xero_grants.get(session, world.account, grant_of(world))
    oauth.refresh(grant.token)

    new_grant = oauth.get_valid_grant(world.account, grant.id, rejected_token=grant.token["access_token"])
    assert new_grant.token["refresh_token"] != grant.token["refresh_token"]
    invoice = world.invoice("ann@acme.test")
    person = world.person("ann@acme.test")
    world.settle()
    assert world.invoice_numbers("people", person) == [invoice.number]


def test_idle_grants_are_refreshed_long_before_they_expire(world: World) -> None:
    calls = world.sandbox.calls("/connect/token")
    assert oauth.refresh_idle_grants(7 * 86_400, 100) == 0
    with transaction() as session:
        session.execute(text("UPDATE xero_grant SET refreshed_at = now() - interval '8 days'"))
    assert oauth.refresh_idle_grants(7 * 86_400, 100) == 1
    assert oauth.refresh_idle_grants(7 * 86_400, 100) == 0
    assert world.sandbox.calls("/connect/token") == calls + 1


def test_a_grant_that_expired_while_idle_is_reported(world: World) -> None:
    with transaction() as session:
        session.execute(text("UPDATE xero_grant SET refreshed_at = now() - interval '8 days'"))
    world.sandbox.control("PUT", "clock", json={"offset_seconds": 61 * 86_400})
    assert oauth.refresh_idle_grants(7 * 86_400, 100) == 0
    assert "is disconnected from Xero" in findings_of(world)[0]
    with pytest.raises(AuthorizationLostError):
        oauth.get_valid_grant(world.account, grant_of(world))
