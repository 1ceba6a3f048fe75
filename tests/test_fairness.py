"""One account's trouble is not another's: floods, hanging vendors, poison."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import text

from runtime.settings import override
from store import accounts, inbox
from store.database import bound, transaction
from store.inbox import Source
from tests.processes import Processes, patina
from tests.serving import wait_until
from tests.world import World
from worker import events

FLOOD = 100_000
LONGEST_SECONDS = 5.0
# A machine that is busy with other tests may be slow once; who waits behind a flood is slow every time.
TRIES = 3
POUR = text("""
    INSERT INTO inbox (account_id, source, organisation_id, tenant, kind, event, resource_id, occurred_at,
                       dedupe_key, correlation_id)
    SELECT :account, 'xero', o.id, o.tenant_id::text, 'INVOICE', 'UPDATE', gen_random_uuid()::text, now(),
           decode(md5('flood' || n), 'hex'), 'flood'
    FROM generate_series(1, :events) AS n, xero_organisation o WHERE o.account_id = :account
""")


@pytest.fixture
def two(unconnected: World, processes: Processes) -> tuple[World, World]:
    """Two accounts, and two worker processes of four threads each."""
    override({"XERO_MINUTE_LIMIT": "1000", "XERO_DAY_LIMIT": "1000000", "LIMIT_WINDOW_SECONDS": "1"})
    first = World(unconnected.sandbox, unconnected.web).open(name="Loud")
    second = World(unconnected.sandbox, unconnected.web).open(name="Quiet")
    processes += [patina("worker", environment={"WORKER_PROCESSES": "2"}), patina("scheduler")]
    first.workers = second.workers = True
    return first, second


def open_events(world: World) -> int:
    with transaction() as session:
        return inbox.open_count(session, world.account)


def seconds_until_paid(world: World, address: str) -> float:
    """How long one payment takes to show."""
    person = world.person(address)
    invoice = world.invoice(address)
    wait_until(lambda: world.shown("people", person) == [invoice.number], what="the quiet account's invoice")
    began = time.monotonic()
    world.sandbox.act("pay_invoice", invoice=invoice.id)
    wait_until(lambda: world.rows("people", person)[0]["status"] == "PAID", what="the payment")
    return time.monotonic() - began


@pytest.mark.timeout(120)
def test_one_accounts_flood_does_not_delay_anothers_single_event(two: tuple[World, World]) -> None:
    loud, quiet = two
    with transaction() as session:
        session.execute(POUR, {"account": loud.account, "events": FLOOD})
    wait_until(lambda: open_events(loud) < FLOOD, seconds=60, what="the flood being drained")
    took = (seconds_until_paid(quiet, f"ann{number}@quiet.test") for number in range(TRIES))
    assert any(seconds < LONGEST_SECONDS for seconds in took)
    assert open_events(loud) > 0, "the flood was over before it could delay anything"


def test_a_turn_that_is_over_leaves_the_rest_of_a_flood_for_the_next(world: World) -> None:
    override({"XERO_MINUTE_LIMIT": "1000", "XERO_DAY_LIMIT": "1000000", "LIMIT_WINDOW_SECONDS": "1"})
    with transaction() as session:
        session.execute(POUR, {"account": world.account, "events": 1_500})
        source = Source(world.account, accounts.organisations(session, world.account)[0].id)
    drained = events.drain(source, 0.0)
    assert 0 < drained.finished < 1_500
    assert drained.again_in == 0.0, "it goes on when the others had their turn"
    assert open_events(world) == 1_500 - drained.finished
    with transaction() as session:
        leased = session.execute(text("SELECT count(*) FROM inbox WHERE state = 'leased'")).scalar_one()
    assert leased == 0, "whoever is next may take them"


@pytest.mark.timeout(120)
def test_a_vendor_that_hangs_for_one_account_leaves_the_others_their_threads(two: tuple[World, World]) -> None:
    loud, quiet = two
    loud.settle()
    loud.sandbox.faults(api=[{"vendor": "xero", "path": "/Contacts", "kind": "hang", "seconds": 20, "times": 30}])
    with transaction() as session:
        session.execute(POUR, {"account": loud.account, "events": 10})
        session.execute(text("UPDATE inbox SET kind = 'CONTACT' WHERE correlation_id = 'flood'"))
    wait_until(lambda: loud.sandbox.calls("/Contacts") > 0, what="a call that hangs")
    took = (seconds_until_known(quiet, f"lee{number}@quiet.test") for number in range(TRIES))
    assert any(seconds < LONGEST_SECONDS for seconds in took)


def seconds_until_known(world: World, address: str) -> float:
    """How long a new person takes to be mirrored."""
    began = time.monotonic()
    person = world.person(address)
    wait_until(lambda: known(world, person), what="the quiet account's person")
    return time.monotonic() - began


def known(world: World, person: int) -> bool:
    with bound(world.account) as session:
        return bool(
            session.execute(text("SELECT 1 FROM crm_record WHERE record_id = :p"), {"p": person}).scalar_one_or_none()
        )
