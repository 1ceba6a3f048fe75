"""Jobs: leases, requeued events, messages and runs survive a crash between any two steps."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from runtime.redis_client import shared_client
from runtime.settings import override_settings
from store.db.database import transaction
from store.db.enums import RecordType
from store.ingest import event_latency, inbox
from store.ingest.inbox import LeaseLostError, SyncSource
from store.mirror import mirror
from store.mirror.rows import ContactRow, RecordRow
from store.read_model import projection
from store.sync import runs
from tests.support.mirror_rows import build_invoice
from tests.support.processes import Processes, patina
from tests.support.serving import wait_until
from tests.support.world import World
from worker.jobs import actors, scheduler
from worker.jobs.broker import broker
from worker.jobs.enqueue import clear_dedup_key
from worker.jobs.locks import concurrency_slot
from worker.sync import event_processor, projector, run_processor
from worker.sync.event_processor import DrainResult
from worker.vendors.errors import AuthorizationLostError
from worker.vendors.sync_types import PROJECT_STAGE, RunKind
from worker.vendors.xero import oauth


def source_of(world: World) -> SyncSource:
    with transaction() as session:
        row = session.execute(
            text("SELECT id FROM xero_organisation WHERE account_id = :a ORDER BY id LIMIT 1"), {"a": world.account}
        ).scalar_one()
    return SyncSource(world.account, row)


def arrive(world: World) -> None:
    wait_until(lambda: world.sandbox.state()["pending_deliveries"] == 0)


def expire_leases() -> None:
    with transaction() as session:
        session.execute(text("UPDATE inbox SET leased_until = now() - interval '1 s' WHERE state = 'leased'"))
        session.execute(text("UPDATE sync_run SET leased_until = now() - interval '1 s' WHERE lease_id IS NOT NULL"))


def test_an_expired_lease_is_taken_over_and_the_first_holder_cannot_finish(world: World) -> None:
    world.invoice("ann@acme.test")
    arrive(world)
    source = source_of(world)
    with transaction() as session:
        first = inbox.lease(session, source, 60)
    assert first is not None
    with transaction() as session:
        assert inbox.lease(session, source, 60) is None
    expire_leases()
    with transaction() as session:
        second = inbox.lease(session, source, 60)
    assert second is not None
    assert [event.id for event in second.events] == [event.id for event in first.events]

    with pytest.raises(LeaseLostError), transaction() as session:
        inbox.complete(session, first, [event.id for event in first.events])
    with transaction() as session:
        inbox.complete(session, second, [event.id for event in second.events])
    assert world.is_idle()


def test_a_worker_that_dies_with_a_lease_loses_no_event(world: World) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    arrive(world)
    with transaction() as session:
        assert inbox.lease(session, source_of(world), 60) is not None
    expire_leases()
    world.settle()

    assert world.invoice_numbers("people", person) == [invoice.number]


def test_a_burst_on_the_same_invoices_costs_one_call_per_forty_ids(world: World) -> None:
    contact = world.contact("Acme", "ann@acme.test")
    invoices = [world.invoice(contact) for _ in range(45)]
    world.settle()
    before = world.sandbox.calls("/Invoices")
    for _ in range(3):
        for invoice in invoices:
            world.sandbox.simulate("update_invoice", invoice=invoice.id, total="200.00")
    arrive(world)
    world.settle()

    assert world.sandbox.calls("/Invoices") - before == 2
    world.check()


def test_a_rate_limit_response_requeues_the_events_without_counting_an_attempt(world: World) -> None:
    world.invoice("ann@acme.test")
    arrive(world)
    world.sandbox.faults(
        api=[{"vendor": "xero", "path": "/Invoices", "type": "status", "status": 429, "retry_after": 60}]
    )
    assert event_processor.drain(source_of(world)) == DrainResult(1, 60.0), "the contact is done, its invoice waits"
    with transaction() as session:
        rows = session.execute(
            text(
                "SELECT state, attempts, not_before > now() + interval '50 s' AS later"
                " FROM inbox WHERE state = 'pending'"
            )
        ).all()
    assert {tuple(row) for row in rows} == {("pending", 0, True)}


def test_transient_failures_are_retried_within_the_call(world: World) -> None:
    person = world.person("ann@acme.test")
    for fault in ({"type": "status", "status": 503}, {"type": "drop"}, {"type": "status", "status": 500}):
        world.sandbox.faults(api=[{"vendor": "xero", "path": "/Invoices", "times": 1, **fault}])
        world.invoice("ann@acme.test")
        world.settle()
    assert len(world.invoice_numbers("people", person)) == 3


def test_a_poison_event_is_quarantined_alone(world: World) -> None:
    override_settings({"EVENT_MAX_ATTEMPTS": "2"})
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    arrive(world)
    with transaction() as session:
        session.execute(
            text(
                "INSERT INTO inbox (account_id, vendor, organisation_id, tenant, category, "
                "event_type, resource_id, dedupe_key,"
                " correlation_id) VALUES (:a, 'xero', :o, '', 'INVOICE', 'UPDATE', 'poison', 'x', '')"
            ),
            {"a": world.account, "o": source_of(world).organisation_id},
        )
    for _ in range(2):
        event_processor.drain(source_of(world))
        with transaction() as session:
            session.execute(text("UPDATE inbox SET not_before = now()"))
    world.settle()

    assert world.invoice_numbers("people", person) == [invoice.number]
    with transaction() as session:
        failed = session.execute(text("SELECT resource_id, error FROM inbox WHERE state = 'failed'")).one()
    assert failed.resource_id == "poison"
    assert "UUID" in failed.error


def test_a_deleted_record_is_not_restored_by_an_earlier_fetch(world: World) -> None:
    now = datetime.now(UTC)
    row = RecordRow(record_id=7, name="Ann", updated_at=now, emails={"ann@acme.test": "ann@acme.test"})
    with transaction() as session:
        mirror.tombstone_records(session, world.account, RecordType.PERSON, [7], now)
    with transaction() as session:
        mirror.upsert_records(session, world.account, RecordType.PERSON, [row], now - timedelta(seconds=1))
        assert session.execute(text("SELECT is_deleted FROM copper_record WHERE record_id = 7")).scalar_one()
        assert session.execute(text("SELECT count(*) FROM copper_record_email")).scalar_one() == 0
        mirror.upsert_records(session, world.account, RecordType.PERSON, [row], now + timedelta(seconds=1))
        assert not session.execute(text("SELECT is_deleted FROM copper_record WHERE record_id = 7")).scalar_one()


def test_an_older_version_never_replaces_a_newer_one(world: World) -> None:
    now = datetime.now(UTC)

    def write(version: int, fetched: int, *emails: str) -> set[str]:
        row = ContactRow(
            contact_id=UUID(int=5),
            name="Acme",
            status="ACTIVE",
            merged_to=None,
            updated_at=now + timedelta(seconds=version),
            emails={email: email for email in emails},
        )
        with transaction() as session:
            mirror.upsert_contacts(session, world.account, 1, [row], now + timedelta(seconds=fetched))
            return set(session.execute(text("SELECT email FROM xero_contact_email")).scalars())

    assert write(2, 2, "b@x.test") == {"b@x.test"}
    assert write(1, 3, "a@x.test") == {"b@x.test"}, "an older version, though fetched later"
    assert write(2, 1, "c@x.test") == {"b@x.test"}, "a tie goes to the later fetch"
    assert write(2, 3, "d@x.test") == {"d@x.test"}
    assert write(3, 1, "e@x.test") == {"e@x.test"}, "a newer version, though its fetch began earlier"


def assert_the_newest_stays(write: Callable[[int, int, str], str]) -> None:
    """Of the writes (version, fetch time, text), the newest must win; `write` returns the stored text."""
    assert write(2, 2, "b") == "b"
    assert write(1, 3, "a") == "b", "an older version, though fetched later"
    assert write(2, 1, "c") == "b", "a tie goes to the later fetch"
    assert write(2, 3, "d") == "d"
    assert write(3, 1, "e") == "e", "a newer version, though its fetch began earlier"


def test_an_older_version_of_an_invoice_never_replaces_a_newer_one(world: World) -> None:
    now, organisation = datetime.now(UTC), source_of(world).organisation_id

    def write(version: int, fetched: int, number: str) -> str:
        row = build_invoice(UUID(int=5), None, now, number=number, updated_at=now + timedelta(seconds=version))
        with transaction() as session:
            mirror.upsert_invoices(session, world.account, organisation, [row], now + timedelta(seconds=fetched))
            return str(session.execute(text("SELECT number FROM xero_invoice")).scalar_one())

    assert_the_newest_stays(write)


@pytest.mark.parametrize("record_type", RecordType)
def test_an_older_version_of_a_record_never_replaces_a_newer_one(world: World, record_type: RecordType) -> None:
    now = datetime.now(UTC)

    def write(version: int, fetched: int, name: str) -> str:
        row = RecordRow(record_id=5, name=name, updated_at=now + timedelta(seconds=version))
        with transaction() as session:
            mirror.upsert_records(session, world.account, record_type, [row], now + timedelta(seconds=fetched))
            return str(session.execute(text("SELECT name FROM copper_record WHERE record_id = 5")).scalar_one())

    assert_the_newest_stays(write)


def test_concurrent_refreshes_use_a_refresh_token_once(world: World) -> None:
    with transaction() as session:
        grant = session.execute(text("SELECT id FROM xero_grant")).scalar_one()
    stale = oauth.get_valid_grant(world.account, grant).token["access_token"]
    before = world.sandbox.calls("/connect/token")
    tokens: list[str] = []

    def refresh() -> None:
        tokens.append(oauth.get_valid_grant(world.account, grant, rejected_token=stale).token["access_token"])

    threads = [threading.Thread(target=refresh) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(tokens) == 6
    assert len(set(tokens)) == 1
    assert world.sandbox.calls("/connect/token") - before == 1


def test_a_token_that_expired_early_is_refreshed_and_the_call_continues(world: World) -> None:
    person = world.person("ann@acme.test")
    world.sandbox.control("PUT", "clock", json={"offset_seconds": 31 * 60})
    invoice = world.invoice("ann@acme.test")
    world.settle()
    assert world.invoice_numbers("people", person) == [invoice.number]


def test_a_lost_grant_stops_the_calls_and_is_reported(world: World) -> None:
    with transaction() as session:
        grant = session.execute(text("SELECT id FROM xero_grant")).scalar_one()
    world.sandbox.control("PUT", "clock", json={"offset_seconds": 61 * 86_400})
    world.invoice("ann@acme.test")
    world.settle_once()
    calls = world.sandbox.calls("/xero/")
    with pytest.raises(AuthorizationLostError):
        oauth.get_valid_grant(world.account, grant)
    assert world.sandbox.calls("/xero/") == calls

    world.authorise(world.tenants)
    with transaction() as session:
        session.execute(text("UPDATE inbox SET not_before = now()"))
    world.settle()
    assert world.compare().is_clean


def test_a_backfill_resumes_from_its_last_page_after_a_kill_at_any_step(world: World) -> None:
    world.sandbox.faults(webhooks=[{"vendor": vendor, "loss": 1.0} for vendor in ("xero", "copper")])
    company = world.company()
    for number in range(25):
        world.opportunity(company=company, person=world.person(f"p{number}@acme.test", company=company))
        world.invoice(f"p{number}@acme.test")
    world.settle()
    for run in run_processor.start_account_runs(world.account, RunKind.BACKFILL):
        for _ in range(40):
            with transaction() as session:
                is_taken = runs.lease(session, run.account_id, run.id, 60)
            if is_taken is None:
                break
            expire_leases()
            run_processor.step(run.account_id, run.id)
    with transaction() as session:
        assert {run.state for run in runs.recent(session, world.account)} == {"done"}
    world.check()
    assert len(world.invoice_numbers("companies", company)) == 25


def test_a_backfill_costs_one_call_per_page(world: World) -> None:
    world.sandbox.faults(webhooks=[{"vendor": vendor, "loss": 1.0} for vendor in ("xero", "copper")])
    for number in range(205):
        if number == 100:
            # The second page begins at the second of the first one's last record, and all 205 may be of one second.
            world.advance_clock(hours=0.01)
        world.sandbox.simulate(
            "create_record", type="person", name="P", emails=[f"p{number}@x.test"], account=world.copper
        )
    for _ in range(3):
        world.opportunity()
    world.invoice("p1@x.test")
    world.settle()
    before = world.sandbox.state()["calls"]
    world.backfill()
    after = world.sandbox.state()["calls"]
    spent = {path: count - before.get(path, 0) for path, count in after.items() if count != before.get(path, 0)}
    base = "/copper/developer_api/v1"
    related = {path: count for path, count in spent.items() if path.endswith("/related")}
    assert sum(related.values()) == len(related) == 3
    assert {path: count for path, count in spent.items() if path not in related and "control" not in path} == {
        f"POST {base}/people/search": 2,
        f"POST {base}/leads/search": 1,
        f"POST {base}/companies/search": 1,
        f"POST {base}/opportunities/search": 1,
        "GET /xero/api.xro/2.0/Organisation": 1,
        "GET /xero/api.xro/2.0/Contacts": 1,
        "GET /xero/api.xro/2.0/CreditNotes": 1,
        "GET /xero/api.xro/2.0/Invoices": 1,
    }


def test_job_messages_are_deduplicated_until_the_inbox_is_read(world: World) -> None:
    queue = f"{broker().namespace}:{actors.EVENTS}"
    source = SyncSource(987_654, 3)
    for _ in range(5):
        assert actors.enqueue_drain(source)
    waiting = list(shared_client().lrange(queue, 0, -1))
    messages = shared_client().hgetall(f"{queue}.msgs")
    own_ids = [message_id for message_id in waiting if b"987654" in messages[message_id]]
    assert len(own_ids) == 1
    clear_dedup_key("drain", source.account_id, source.organisation_id)
    actors.enqueue_drain(source)
    messages = shared_client().hgetall(f"{queue}.msgs")
    assert sum(b"987654" in messages[message_id] for message_id in shared_client().lrange(queue, 0, -1)) == 2


def test_the_sweep_replaces_a_lost_message_and_adds_none_while_messages_wait(world: World) -> None:
    queue = f"{broker().namespace}:{actors.EVENTS}"
    world.invoice("ann@acme.test")
    arrive(world)
    shared_client().delete(queue)
    actors.enqueue_drain(source_of(world))
    assert shared_client().llen(queue) == 0, "the lost message's key is still there"
    scheduler.sweep()
    waiting = shared_client().llen(queue)
    assert waiting >= 1
    scheduler.sweep()
    assert shared_client().llen(queue) == waiting


def test_an_id_that_always_makes_xero_fail_is_quarantined_alone(world: World) -> None:
    override_settings({"EVENT_MAX_ATTEMPTS": "2"})
    person = world.person("ann@acme.test")
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    invoices = [world.invoice(contact) for _ in range(6)]
    arrive(world)
    poison = invoices[3]
    world.sandbox.faults(
        api=[{"vendor": "xero", "path": "/Invoices", "query": poison.id, "type": "status", "status": 500}]
    )
    for _ in range(2):
        event_processor.drain(source_of(world))
        with transaction() as session:
            session.execute(text("UPDATE inbox SET not_before = now()"))

    assert sorted(world.invoice_numbers("people", person)) == sorted(
        invoice.number for invoice in invoices if invoice is not poison
    )
    with transaction() as session:
        (failed,) = session.execute(text("SELECT resource_id FROM inbox WHERE state = 'failed'")).scalars()
    assert failed == poison.id


def test_an_outage_does_not_quarantine_events(world: World) -> None:
    override_settings({"EVENT_MAX_ATTEMPTS": "2"})
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    arrive(world)
    world.sandbox.faults(api=[{"vendor": "xero", "type": "status", "status": 500}])
    for _ in range(3):
        assert event_processor.drain(source_of(world)).completed == 0
        with transaction() as session:
            session.execute(text("UPDATE inbox SET not_before = now()"))
    with transaction() as session:
        assert set(session.execute(text("SELECT state FROM inbox WHERE vendor = 'xero'")).scalars()) == {"pending"}
    world.sandbox.faults()
    world.settle()
    assert world.invoice_numbers("people", person) == [invoice.number]


def test_a_lease_includes_all_events_of_its_resources(world: World) -> None:
    contact = world.contact("Acme", "ann@acme.test")
    first, second = world.invoice(contact), world.invoice(contact)
    world.settle()
    for batch in (first, second, first):
        world.sandbox.simulate("update_invoice", invoice=batch.id, total="200.00")
        arrive(world)
    with transaction() as session:
        lease = inbox.lease(session, source_of(world), 60, limit=1)
        remaining = inbox.lease(session, source_of(world), 60, limit=1)
    assert lease is not None
    assert remaining is not None
    assert [event.resource_id for event in lease.events] == [first.id, first.id]
    assert [event.resource_id for event in remaining.events] == [second.id]
    expire_leases()
    world.settle()
    world.check()


def test_a_row_that_cannot_be_written_does_not_affect_the_rest_of_its_batch(world: World) -> None:
    override_settings({"EVENT_MAX_ATTEMPTS": "1"})
    person = world.person("ann@acme.test")
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    invoices = [world.invoice(contact) for _ in range(90)]
    arrive(world)
    poison = invoices[70]
    with transaction() as session:
        session.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'not this one'; END $$"
            )
        )
        session.execute(
            text(
                "CREATE TRIGGER refuse BEFORE INSERT ON xero_invoice FOR EACH ROW"
                f" WHEN (NEW.invoice_id = '{UUID(poison.id)}') EXECUTE FUNCTION refuse()"
            )
        )
    world.settle()

    assert sorted(world.invoice_numbers("people", person)) == sorted(
        invoice.number for invoice in invoices if invoice is not poison
    )
    with transaction() as session:
        (failed,) = session.execute(text("SELECT resource_id FROM inbox WHERE state = 'failed'")).scalars()
    assert failed == poison.id


def marks(world: World) -> int:
    with transaction() as session:
        value: int = session.execute(
            text("SELECT count(*) FROM projection_queue WHERE account_id = :account"), {"account": world.account}
        ).scalar_one()
        return value


def stage(world: World, run: int) -> str:
    return world.runs([run])[0].stage


def projections_waiting(account: int) -> int:
    """The number of queued projection messages of the account."""
    queue = f"{broker().namespace}:{actors.PROJECTION}"
    messages = shared_client().hgetall(f"{queue}.msgs")
    waiting = [json.loads(messages[message_id]) for message_id in shared_client().lrange(queue, 0, -1)]
    return sum(message["actor_name"] == "project" and message["args"] == [account] for message in waiting)


@contextmanager
def projected_by_another_job(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float | None]]:
    """Another job projects the account during the block; the limits of the waits for it, in seconds."""
    monkeypatch.setattr(actors, "LOCK_WAIT_SECONDS", 0.3)
    monkeypatch.setattr(actors, "_busy_until", {})
    limits: list[float | None] = []
    limited_lock_wait = projection.limited_lock_wait

    def record_limit(seconds: float | None) -> AbstractContextManager[None]:
        limits.append(seconds)
        return limited_lock_wait(seconds)

    monkeypatch.setattr(projection, "limited_lock_wait", record_limit)
    with transaction() as session:
        projection.lock_account(session, world.account)
        yield limits


def test_a_drain_leaves_its_thread_while_another_job_projects_its_account_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    numbers = []
    source = source_of(world)
    with transaction() as session:
        latency_before = event_latency.latency_since(session, world.account, 2)
    with projected_by_another_job(world, monkeypatch) as limits:
        for _ in range(2):
            numbers.append(world.invoice("ann@acme.test").number)
            arrive(world)
            actors.drain.fn(source.account_id, source.organisation_id)
        assert marks(world) > 0
    assert limits == [0.3, actors.SHORT_LOCK_WAIT_SECONDS], "no thread waits again and again"
    with transaction() as session:
        states = session.execute(text("SELECT DISTINCT state FROM inbox WHERE account_id = :a"), {"a": world.account})
        assert list(states.scalars()) == ["done"], "applied, and not failed"
        latency = event_latency.latency_since(session, world.account, 2)
    assert sum(hour.events for hour in latency) >= sum(hour.events for hour in latency_before) + 2
    assert world.invoice_numbers("people", person) == []
    before = projections_waiting(world.account)
    scheduler.sweep()
    assert projections_waiting(world.account) == before + 1
    actors.project.fn(world.account)
    assert sorted(world.invoice_numbers("people", person)) == sorted(numbers)


def test_a_run_leaves_its_thread_while_another_job_projects_its_account_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_processor, "MAX_PENDING_MARKS", 1)
    analyzed: list[str] = []
    monkeypatch.setattr(mirror, "analyze", lambda _, stage: analyzed.append(stage))
    world.sandbox.faults(webhooks=[{"vendor": vendor, "loss": 1.0} for vendor in ("xero", "copper")])
    world.person("ann@acme.test")
    world.settle()
    copper, _ = run_processor.start_account_runs(world.account, RunKind.BACKFILL)
    with projected_by_another_job(world, monkeypatch):
        actors.advance_run.fn(world.account, copper.id)
        assert marks(world) > 0, "a page was stored"
        assert analyzed, "and its table analysed, because no later step does that"
    assert world.runs([copper.id])[0].attempts == 0
    while run_processor.step(copper.account_id, copper.id).has_more:
        pass
    assert marks(world) == 0


def test_rows_of_a_run_are_projected_in_parallel_and_complete_when_it_ends(world: World) -> None:
    world.sandbox.faults(webhooks=[{"vendor": vendor, "loss": 1.0} for vendor in ("xero", "copper")])
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    copper, xero = run_processor.start_account_runs(world.account, RunKind.BACKFILL)
    while run_processor.step(xero.account_id, xero.id).has_more:
        pass
    assert run_processor.step(copper.account_id, copper.id).has_more, "users"
    assert run_processor.step(copper.account_id, copper.id).has_more, "people, and other types after them"
    assert marks(world) > 0
    assert world.invoice_numbers("people", person) == []
    actors.project.fn(world.account)
    assert world.invoice_numbers("people", person) == [invoice.number], "while the run goes on"
    late_opportunity = world.opportunity(person=person)
    while stage(world, copper.id) != PROJECT_STAGE:
        run_processor.step(copper.account_id, copper.id)
    assert world.invoice_numbers("opportunities", late_opportunity) == []
    assert not run_processor.step(copper.account_id, copper.id).has_more, "it is over when all is shown"
    assert marks(world) == 0
    assert world.invoice_numbers("opportunities", late_opportunity) == [invoice.number]


def test_a_run_that_is_far_ahead_of_the_projection_projects_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_processor, "MAX_PENDING_MARKS", 3)
    world.sandbox.faults(webhooks=[{"vendor": vendor, "loss": 1.0} for vendor in ("xero", "copper")])
    for number in range(3):
        world.person(f"p{number}@acme.test")
    world.settle()
    copper, _ = run_processor.start_account_runs(world.account, RunKind.BACKFILL)
    assert run_processor.step(copper.account_id, copper.id).has_more
    assert marks(world) == 0


def test_one_job_at_a_time_projects_an_account_and_then_checks_for_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "STEP_SECONDS", 0.0)
    with transaction() as session:
        session.execute(
            text(
                "INSERT INTO projection_queue (account_id, entity_type, record_id) SELECT :a, "
                "'lead', n FROM generate_series(0, :n) n"
            ),
            {"a": world.account, "n": projector.FIRST_BATCH_SIZE},
        )
    before = projections_waiting(world.account)
    with concurrency_slot(f"project:{world.account}", 1) as has_slot:
        assert has_slot
        actors.project.fn(world.account)
        assert marks(world) == projector.FIRST_BATCH_SIZE + 1, "left to whose turn it is"
        assert projections_waiting(world.account) == before
    actors.project.fn(world.account)
    assert marks(world) == 1, "one batch in no time"
    assert projections_waiting(world.account) == before + 1, "and another look, as marks are left"
    actors.project.fn(world.account)
    assert marks(world) == 0
    assert projections_waiting(world.account) == before + 1


def test_a_worker_prefetches_no_more_messages_than_it_has_threads(
    world: World, processes: Processes, tmp_path: Path
) -> None:
    written = tmp_path / "worker.log"
    with written.open("wb") as log:
        environment = {"WORKER_THREADS": "3", "LOG_LEVEL": "info", "LOG_FORMAT": "json"}
        processes.append(patina("worker", stderr=log.fileno(), environment=environment))

    def started() -> list[dict[str, object]]:
        lines = [json.loads(line) for line in written.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "worker.started"]

    wait_until(lambda: bool(started()), description="a worker process")
    (line,) = started()
    assert (line["threads"], line["prefetch"], line["idle_ms"]) == (3, 3, 50)
