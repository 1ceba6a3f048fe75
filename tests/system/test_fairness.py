"""Fairness between accounts: floods and hanging vendors of one account do not affect others."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest
from sqlalchemy import text

from runtime.settings import override_settings
from store.accounts import xero_organisations
from store.db.database import account_transaction, transaction
from store.ingest import inbox
from store.ingest.inbox import SyncSource
from tests.support.processes import Processes, patina
from tests.support.serving import wait_until
from tests.support.world import World
from worker.sync import event_processor

FLOOD = 100_000
MAX_SECONDS = 5.0
# A busy machine may be slow once, but an account that waits behind a flood is slow every time.
ATTEMPTS = 3
INSERT_FLOOD = text("""
    INSERT INTO inbox (account_id, vendor, organisation_id, tenant, category, event_type, resource_id, occurred_at,
                       dedupe_key, correlation_id)
    SELECT :account, 'xero', o.id, o.tenant_id::text, 'INVOICE', 'UPDATE', gen_random_uuid()::text, now(),
           decode(md5('flood' || n), 'hex'), 'flood'
    FROM generate_series(1, :events) AS n, xero_organisation o WHERE o.account_id = :account
""")


@pytest.fixture
def two(unconnected: World, processes: Processes) -> tuple[World, World]:
    """Two accounts, and two worker processes with four threads each."""
    override_settings(
        {"XERO_CALLS_PER_MINUTE": "1000", "XERO_CALLS_PER_DAY": "1000000", "RATE_LIMIT_WINDOW_SECONDS": "1"}
    )
    first = World(unconnected.sandbox, unconnected.web).open(name="Loud")
    second = World(unconnected.sandbox, unconnected.web).open(name="Quiet")
    processes += [patina("worker", environment={"WORKER_PROCESSES": "2"}), patina("scheduler")]
    first.workers = second.workers = True
    return first, second


def open_events(world: World) -> int:
    with transaction() as session:
        return inbox.count_unfinished(session, world.account)


def seconds_until_paid(world: World, address: str) -> float:
    """The seconds until a payment is shown."""
    person = world.person(address)
    invoice = world.invoice(address)
    wait_until(
        lambda: world.invoice_numbers("people", person) == [invoice.number], description="the quiet account's invoice"
    )
    started = time.monotonic()
    world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    wait_until(lambda: world.rows("people", person)[0]["status"] == "PAID", description="the payment")
    return time.monotonic() - started


def test_a_flood_of_one_account_does_not_delay_an_event_of_another(two: tuple[World, World]) -> None:
    loud, quiet = two
    with transaction() as session:
        session.execute(INSERT_FLOOD, {"account": loud.account, "events": FLOOD})
    wait_until(lambda: open_events(loud) < FLOOD, seconds=60, description="the flood being drained")
    took = (seconds_until_paid(quiet, f"ann{number}@quiet.test") for number in range(ATTEMPTS))
    assert any(seconds < MAX_SECONDS for seconds in took)
    assert open_events(loud) > 0, "the flood was over before it could delay anything"


def test_a_job_that_ends_leaves_the_rest_of_a_flood_to_the_next(world: World) -> None:
    override_settings(
        {"XERO_CALLS_PER_MINUTE": "1000", "XERO_CALLS_PER_DAY": "1000000", "RATE_LIMIT_WINDOW_SECONDS": "1"}
    )
    with transaction() as session:
        session.execute(INSERT_FLOOD, {"account": world.account, "events": 1_500})
        source = SyncSource(world.account, xero_organisations.list_connected(session, world.account)[0].id)
    drained = event_processor.drain(source, 0.0)
    assert 0 < drained.completed < 1_500
    assert drained.retry_after == 0.0, "it goes on when the others had their turn"
    assert open_events(world) == 1_500 - drained.completed
    with transaction() as session:
        leased = session.execute(text("SELECT count(*) FROM inbox WHERE state = 'leased'")).scalar_one()
    assert leased == 0, "whoever is next may take them"


def test_the_lease_of_a_flood_is_no_nested_loop_before_the_inbox_is_analyzed(world: World) -> None:
    with transaction() as session:
        session.execute(INSERT_FLOOD, {"account": world.account, "events": 5_000})
        params = {"account": world.account, "vendor": "xero", "organisation": 1, "categories": ["INVOICE"]}
        params |= {"lease_id": uuid4(), "seconds": 60, "limit": 1_000, "max_events": 1_000, "window": 100_000}
        plan = "\n".join(session.scalars(text(f"EXPLAIN {inbox.LEASE.text}"), params))
    assert "hashed SubPlan" in plan
    assert "Nested Loop" not in plan


def test_a_vendor_that_hangs_for_one_account_does_not_block_other_accounts(two: tuple[World, World]) -> None:
    loud, quiet = two
    loud.settle()
    loud.sandbox.faults(api=[{"vendor": "xero", "path": "/Contacts", "type": "hang", "seconds": 20, "times": 30}])
    with transaction() as session:
        session.execute(INSERT_FLOOD, {"account": loud.account, "events": 10})
        session.execute(text("UPDATE inbox SET category = 'CONTACT' WHERE correlation_id = 'flood'"))
    wait_until(lambda: loud.sandbox.calls("/Contacts") > 0, description="a call that hangs")
    took = (seconds_until_known(quiet, f"lee{number}@quiet.test") for number in range(ATTEMPTS))
    assert any(seconds < MAX_SECONDS for seconds in took)


def seconds_until_known(world: World, address: str) -> float:
    """The seconds until a new person is in the mirror."""
    started = time.monotonic()
    person = world.person(address)
    wait_until(lambda: is_synced(world, person), description="the quiet account's person")
    return time.monotonic() - started


def is_synced(world: World, person: int) -> bool:
    with account_transaction(world.account) as session:
        return bool(
            session.execute(
                text("SELECT 1 FROM copper_record WHERE record_id = :p"), {"p": person}
            ).scalar_one_or_none()
        )
