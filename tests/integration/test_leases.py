"""Leases are short: they are renewed while their work goes on, and returned at once when it ends in an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from runtime.redis_client import shared_client
from runtime.settings import override_settings, settings
from store.db.database import ConnectionLostError, transaction
from store.ingest import inbox
from store.ingest.inbox import SyncSource
from store.sync import runs
from tests.support import databases
from tests.support.processes import Processes, patina
from tests.support.serving import wait_until
from tests.support.world import World
from worker.jobs.actors import broker
from worker.jobs.locks import concurrency_slot
from worker.sync import event_processor, run_processor
from worker.sync.event_processor import FailureAction
from worker.vendors.sync_types import RunKind


def source_of(world: World) -> SyncSource:
    with transaction() as session:
        organisation = session.execute(text("SELECT min(id) FROM xero_organisation")).scalar_one()
    return SyncSource(world.account, organisation)


def slow_down(world: World, path: str, seconds: float) -> None:
    world.sandbox.faults(api=[{"vendor": "xero", "type": "latency", "path": path, "seconds": seconds}])


def inbox_states() -> list[tuple[str, int]]:
    with transaction() as session:
        rows = session.execute(text("SELECT state, attempts FROM inbox ORDER BY id")).all()
    return [(row.state, row.attempts) for row in rows]


@contextmanager
def running(work: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Run `work` in a thread; yields the list that gets its error, and waits for it at the end."""
    errors: list[BaseException] = []

    def target() -> None:
        try:
            work()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    yield errors
    thread.join(60)
    assert not thread.is_alive()


def arrive(world: World) -> None:
    wait_until(lambda: world.sandbox.state()["pending_deliveries"] == 0)


def test_events_stay_leased_while_the_vendor_takes_longer_than_the_lease(world: World) -> None:
    override_settings({"LEASE_SECONDS": "3", "READ_TIMEOUT": "30"})
    person, invoice = world.person("ann@acme.test"), world.invoice("ann@acme.test")
    arrive(world)
    source = source_of(world)
    before = world.sandbox.calls("/Invoices")
    slow_down(world, "/Invoices", 7)
    with running(lambda: event_processor.drain(source)) as errors:
        time.sleep(5)
        with transaction() as session:
            assert inbox.lease(session, source, 60) is None, "another worker took the events over"
    assert errors == []
    world.sandbox.faults()
    assert world.sandbox.calls("/Invoices") - before == 1
    world.settle()
    assert world.invoice_numbers("people", person) == [invoice.number]


def test_a_run_stays_leased_while_its_page_takes_longer_than_the_lease(world: World) -> None:
    override_settings({"LEASE_SECONDS": "3", "READ_TIMEOUT": "30"})
    world.invoice("ann@acme.test")
    world.settle()
    (run, *_) = run_processor.start_source_run(source_of(world), RunKind.RECONCILIATION)
    slow_down(world, "/", 7)
    with running(lambda: run_processor.step(world.account, run.id)) as errors:
        time.sleep(5)
        with transaction() as session:
            assert runs.lease(session, world.account, run.id, 60) is None, "another worker took the run over"
    assert errors == []


def test_a_slot_stays_taken_while_its_work_takes_longer_than_the_lease(world: World) -> None:
    override_settings({"LEASE_SECONDS": "3", "READ_TIMEOUT": "30"})
    with concurrency_slot("test", 1) as is_first:
        time.sleep(5)
        with concurrency_slot("test", 1) as is_second:
            assert (is_first, is_second) == (True, False)
    with concurrency_slot("test", 1) as is_free:
        assert is_free
    with pytest.raises(ValueError, match="of the work"), concurrency_slot("test", 1):
        raise ValueError("of the work")
    with concurrency_slot("test", 1) as is_free_after_an_error:
        assert is_free_after_an_error


def test_events_whose_database_went_away_are_returned_as_soon_as_it_is_back(world: World) -> None:
    override_settings({"LEASE_SECONDS": "600"})
    person, invoice = world.person("ann@acme.test"), world.invoice("ann@acme.test")
    arrive(world)
    source = source_of(world)
    before = world.sandbox.calls("/Invoices")
    slow_down(world, "/Invoices", 1)
    with running(lambda: event_processor.drain(source)) as errors:
        wait_until(lambda: ("leased", 1) in inbox_states())
        with databases.unavailable():
            wait_until(lambda: errors, description="the error of the drain")
    assert [type(error) for error in errors] == [ConnectionLostError]
    assert world.sandbox.calls("/Invoices") - before <= 1, "an absent database is no reason to call the vendor again"
    wait_until(lambda: ("leased", 1) not in inbox_states(), seconds=10, description="the return of the lease")
    assert ("pending", 0) in inbox_states()
    world.sandbox.faults()
    world.settle()
    assert world.invoice_numbers("people", person) == [invoice.number]


def test_a_run_whose_database_went_away_continues_as_soon_as_it_is_back(world: World) -> None:
    override_settings({"LEASE_SECONDS": "600"})
    world.invoice("ann@acme.test")
    world.settle()
    (run, *_) = run_processor.start_source_run(source_of(world), RunKind.RECONCILIATION)
    slow_down(world, "/", 1)

    def is_leased() -> bool:
        with transaction() as session:
            return (
                session.execute(text("SELECT lease_id FROM sync_run WHERE id = :id"), {"id": run.id}).scalar()
                is not None
            )

    with running(lambda: run_processor.step(world.account, run.id)) as errors:
        wait_until(is_leased)
        with databases.unavailable():
            wait_until(lambda: errors, description="the error of the step")
    assert [type(error) for error in errors] == [ConnectionLostError]
    wait_until(lambda: not is_leased(), seconds=10, description="the return of the lease")
    with transaction() as session:
        attempts = session.execute(text("SELECT attempts, error FROM sync_run WHERE id = :id"), {"id": run.id}).one()
    assert tuple(attempts) == (0, None), "the page is not the cause"


def test_a_job_whose_database_went_away_is_sent_again_without_a_sweep(world: World, processes: Processes) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    processes += [patina("worker", environment={"LEASE_SECONDS": "600"})]
    first = world.invoice("ann@acme.test")
    wait_until(lambda: world.invoice_numbers("people", person) == [first.number], seconds=60)
    slow_down(world, "/Invoices", 2)
    second = world.invoice("ann@acme.test")
    wait_until(lambda: any(state == "leased" for state, _ in inbox_states()))
    with databases.unavailable():
        time.sleep(4)
    world.sandbox.faults()
    wait_until(lambda: world.invoice_numbers("people", person) == [second.number, first.number], seconds=20)


def test_a_job_is_sent_once_more_when_its_leases_have_been_returned(world: World) -> None:
    """A message that came while the database was away, or just before the return of the lease, had nothing to do."""
    override_settings({"LEASE_SECONDS": "600", "READ_TIMEOUT": "30"})
    world.invoice("ann@acme.test")
    arrive(world)
    messages = f"{settings().redis_namespace}:dramatiq:events"
    shared_client().delete(messages, f"{messages}.DQ")
    slow_down(world, "/Invoices", 3)
    source = source_of(world)
    with running(lambda: broker().get_actor("drain").fn(source.account_id, source.organisation_id)):
        wait_until(lambda: ("leased", 1) in inbox_states())
        with databases.unavailable():
            wait_until(lambda: shared_client().llen(f"{messages}.DQ") == 1, description="the delayed message")
            assert shared_client().llen(messages) == 0
    wait_until(lambda: shared_client().llen(messages) == 1, seconds=10, description="the message after the return")
    assert ("leased", 1) not in inbox_states()


@pytest.mark.parametrize("vendor_responds", [True, False])
def test_a_lost_connection_concerns_the_whole_lease(vendor_responds: bool) -> None:
    error = ConnectionLostError("SELECT 1", None, Exception("gone"))
    assert event_processor.failure_action(error, lambda: vendor_responds) is FailureAction.RAISE
