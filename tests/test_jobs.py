"""Jobs: leases, put-backs, wake-ups and runs survive whatever happens between two of their steps."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from runtime.settings import override
from store import inbox, mirror, projection, runs
from store.database import transaction
from store.inbox import LeaseLostError, Source
from store.mirror import ContactRow, InvoiceRow, RecordRow
from store.models import RecordType
from tests.processes import Processes, patina
from tests.serving import wait_until
from tests.world import World
from worker import events, jobs, sync
from worker.broker import awake, broker, client, turn
from worker.errors import ReconnectNeededError
from worker.events import Drained
from worker.steps import Kind
from worker.xero import oauth


def source_of(world: World) -> Source:
    with transaction() as session:
        row = session.execute(
            text("SELECT id FROM xero_organisation WHERE account_id = :a ORDER BY id LIMIT 1"), {"a": world.account}
        ).scalar_one()
    return Source(world.account, row)


def arrive(world: World) -> None:
    wait_until(lambda: world.sandbox.state()["waiting"] == 0)


def expire_leases() -> None:
    with transaction() as session:
        session.execute(text("UPDATE inbox SET leased_until = now() - interval '1 s' WHERE state = 'leased'"))
        session.execute(text("UPDATE sync_run SET leased_until = now() - interval '1 s' WHERE lease_id IS NOT NULL"))


def test_a_lease_that_ran_out_is_taken_again_and_the_first_holder_cannot_finish(world: World) -> None:
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
    assert [one.id for one in second.events] == [one.id for one in first.events]

    with pytest.raises(LeaseLostError), transaction() as session:
        inbox.finish(session, first, [one.id for one in first.events])
    with transaction() as session:
        inbox.finish(session, second, [one.id for one in second.events])
    assert world.quiet()


def test_a_worker_that_died_after_its_lease_loses_no_event(world: World) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    arrive(world)
    with transaction() as session:
        assert inbox.lease(session, source_of(world), 60) is not None
    expire_leases()
    world.settle()

    assert world.shown("people", person) == [invoice.number]


def test_a_burst_on_the_same_invoices_costs_one_fetch_for_forty_ids(world: World) -> None:
    contact = world.contact("Acme", "ann@acme.test")
    made = [world.invoice(contact) for _ in range(45)]
    world.settle()
    before = world.sandbox.calls("/Invoices")
    for _ in range(3):
        for one in made:
            world.sandbox.act("change_invoice", invoice=one.id, total="200.00")
    arrive(world)
    world.settle()

    assert world.sandbox.calls("/Invoices") - before == 2
    world.check()


def test_a_vendor_that_says_later_puts_the_events_back_without_counting_a_try(world: World) -> None:
    world.invoice("ann@acme.test")
    arrive(world)
    world.sandbox.faults(
        api=[{"vendor": "xero", "path": "/Invoices", "kind": "status", "status": 429, "retry_after": 60}]
    )
    assert events.drain(source_of(world)) == Drained(1, 60.0), "the contact is done, its invoice waits"
    with transaction() as session:
        rows = session.execute(
            text(
                "SELECT state, attempts, not_before > now() + interval '50 s' AS later"
                " FROM inbox WHERE state = 'pending'"
            )
        ).all()
    assert {tuple(row) for row in rows} == {("pending", 0, True)}


def test_failures_that_pass_are_tried_again_within_the_call(world: World) -> None:
    person = world.person("ann@acme.test")
    for fault in ({"kind": "status", "status": 503}, {"kind": "drop"}, {"kind": "status", "status": 500}):
        world.sandbox.faults(api=[{"vendor": "xero", "path": "/Invoices", "times": 1, **fault}])
        world.invoice("ann@acme.test")
        world.settle()
    assert len(world.shown("people", person)) == 3


def test_a_poison_event_is_quarantined_alone(world: World) -> None:
    override({"EVENT_ATTEMPTS": "2"})
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    arrive(world)
    with transaction() as session:
        session.execute(
            text(
                "INSERT INTO inbox (account_id, source, organisation_id, tenant, kind, event, resource_id, dedupe_key,"
                " correlation_id) VALUES (:a, 'xero', :o, '', 'INVOICE', 'UPDATE', 'poison', 'x', '')"
            ),
            {"a": world.account, "o": source_of(world).organisation_id},
        )
    for _ in range(2):
        events.drain(source_of(world))
        with transaction() as session:
            session.execute(text("UPDATE inbox SET not_before = now()"))
    world.settle()

    assert world.shown("people", person) == [invoice.number]
    with transaction() as session:
        failed = session.execute(text("SELECT resource_id, error FROM inbox WHERE state = 'failed'")).one()
    assert failed.resource_id == "poison"
    assert "UUID" in failed.error


def test_a_deleted_record_is_not_brought_back_by_a_fetch_that_began_earlier(world: World) -> None:
    from datetime import UTC, datetime, timedelta

    from store import mirror
    from store.mirror import RecordRow
    from store.models import RecordType

    now = datetime.now(UTC)
    row = RecordRow(record_id=7, name="Ann", updated_at=now, emails={"ann@acme.test": "ann@acme.test"})
    with transaction() as session:
        mirror.bury_records(session, world.account, RecordType.PERSON, [7], now)
    with transaction() as session:
        mirror.upsert_records(session, world.account, RecordType.PERSON, [row], now - timedelta(seconds=1))
        assert session.execute(text("SELECT gone FROM crm_record WHERE record_id = 7")).scalar_one()
        assert session.execute(text("SELECT count(*) FROM crm_record_email")).scalar_one() == 0
        mirror.upsert_records(session, world.account, RecordType.PERSON, [row], now + timedelta(seconds=1))
        assert not session.execute(text("SELECT gone FROM crm_record WHERE record_id = 7")).scalar_one()


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
    """Of the writes (version, fetched, text), each answered with the text now stored, the newest must stay."""
    assert write(2, 2, "b") == "b"
    assert write(1, 3, "a") == "b", "an older version, though fetched later"
    assert write(2, 1, "c") == "b", "a tie goes to the later fetch"
    assert write(2, 3, "d") == "d"
    assert write(3, 1, "e") == "e", "a newer version, though its fetch began earlier"


def test_an_older_version_of_an_invoice_never_replaces_a_newer_one(world: World) -> None:
    now, organisation = datetime.now(UTC), source_of(world).organisation_id

    def write(version: int, fetched: int, number: str) -> str:
        row = InvoiceRow(
            invoice_id=UUID(int=5),
            contact_id=None,
            type="ACCREC",
            status="AUTHORISED",
            number=number,
            issue_date=None,
            due_date=None,
            total=Decimal(1),
            balance=Decimal(1),
            currency="NZD",
            created_at=now,
            created_source="issue_date",
            updated_at=now + timedelta(seconds=version),
        )
        with transaction() as session:
            mirror.upsert_invoices(session, world.account, organisation, [row], now + timedelta(seconds=fetched))
            return str(session.execute(text("SELECT number FROM invoice")).scalar_one())

    assert_the_newest_stays(write)


@pytest.mark.parametrize("kind", RecordType)
def test_an_older_version_of_a_record_never_replaces_a_newer_one(world: World, kind: RecordType) -> None:
    now = datetime.now(UTC)

    def write(version: int, fetched: int, name: str) -> str:
        row = RecordRow(record_id=5, name=name, updated_at=now + timedelta(seconds=version))
        with transaction() as session:
            mirror.upsert_records(session, world.account, kind, [row], now + timedelta(seconds=fetched))
            return str(session.execute(text("SELECT name FROM crm_record WHERE record_id = 5")).scalar_one())

    assert_the_newest_stays(write)


def test_two_refreshes_at_once_use_a_refresh_token_once(world: World) -> None:
    with transaction() as session:
        grant = session.execute(text("SELECT id FROM xero_grant")).scalar_one()
    stale = oauth.fresh(world.account, grant).token["access_token"]
    before = world.sandbox.calls("/connect/token")
    tokens: list[str] = []

    def refresh() -> None:
        tokens.append(oauth.fresh(world.account, grant, unlike=stale).token["access_token"])

    threads = [threading.Thread(target=refresh) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert len(tokens) == 6
    assert len(set(tokens)) == 1
    assert world.sandbox.calls("/connect/token") - before == 1


def test_a_token_that_expired_early_is_refreshed_and_the_call_goes_on(world: World) -> None:
    person = world.person("ann@acme.test")
    world.sandbox.control("PUT", "clock", json={"ahead": 31 * 60})
    invoice = world.invoice("ann@acme.test")
    world.settle()
    assert world.shown("people", person) == [invoice.number]


def test_a_dead_grant_stops_the_calls_and_says_so(world: World) -> None:
    with transaction() as session:
        grant = session.execute(text("SELECT id FROM xero_grant")).scalar_one()
    world.sandbox.control("PUT", "clock", json={"ahead": 61 * 86_400})
    world.invoice("ann@acme.test")
    world.settle_without_end()
    calls = world.sandbox.calls("/xero/")
    with pytest.raises(ReconnectNeededError):
        oauth.fresh(world.account, grant)
    assert world.sandbox.calls("/xero/") == calls

    world.authorise(world.tenants)
    with transaction() as session:
        session.execute(text("UPDATE inbox SET not_before = now()"))
    world.settle()
    assert world.compare().clean


def test_a_backfill_goes_on_from_its_last_page_after_a_kill_at_any_step(world: World) -> None:
    world.sandbox.faults(webhooks=[{"vendor": one, "lose": 1.0} for one in ("xero", "copper")])
    company = world.company()
    for number in range(25):
        world.opportunity(company=company, person=world.person(f"p{number}@acme.test", company=company))
        world.invoice(f"p{number}@acme.test")
    world.settle()
    for run in sync.begin(world.account, Kind.BACKFILL):
        for _ in range(40):
            with transaction() as session:
                taken = runs.take(session, run.account_id, run.id, 60)
            if taken is None:
                break
            expire_leases()
            sync.step(run.account_id, run.id)
    with transaction() as session:
        assert {run.state for run in runs.recent(session, world.account)} == {"done"}
    world.check()
    assert len(world.shown("companies", company)) == 25


def test_a_backfill_costs_the_page_arithmetic(world: World) -> None:
    world.sandbox.faults(webhooks=[{"vendor": one, "lose": 1.0} for one in ("xero", "copper")])
    for number in range(205):
        world.sandbox.act("make_record", type="person", name="P", emails=[f"p{number}@x.test"], account=world.copper)
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
        "GET /xero/api.xro/2.0/Invoices": 1,
    }


def test_wake_ups_coalesce_until_the_inbox_is_read(world: World) -> None:
    queue = f"{broker().namespace}:{jobs.EVENTS}"
    source = Source(987_654, 3)
    for _ in range(5):
        assert jobs.wake_source(source)
    waiting = list(client().lrange(queue, 0, -1))
    messages = client().hgetall(f"{queue}.msgs")
    mine = [one for one in waiting if b"987654" in messages[one]]
    assert len(mine) == 1
    awake("drain", source.account_id, source.organisation_id)
    jobs.wake_source(source)
    messages = client().hgetall(f"{queue}.msgs")
    assert sum(b"987654" in messages[one] for one in client().lrange(queue, 0, -1)) == 2


def test_an_id_that_xero_always_fails_on_is_quarantined_alone(world: World) -> None:
    override({"EVENT_ATTEMPTS": "2"})
    person = world.person("ann@acme.test")
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    made = [world.invoice(contact) for _ in range(6)]
    arrive(world)
    poison = made[3]
    world.sandbox.faults(
        api=[{"vendor": "xero", "path": "/Invoices", "query": poison.id, "kind": "status", "status": 500}]
    )
    for _ in range(2):
        events.drain(source_of(world))
        with transaction() as session:
            session.execute(text("UPDATE inbox SET not_before = now()"))

    assert sorted(world.shown("people", person)) == sorted(one.number for one in made if one is not poison)
    with transaction() as session:
        (failed,) = session.execute(text("SELECT resource_id FROM inbox WHERE state = 'failed'")).scalars()
    assert failed == poison.id


def test_an_outage_is_not_blamed_on_the_events(world: World) -> None:
    override({"EVENT_ATTEMPTS": "2"})
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    arrive(world)
    world.sandbox.faults(api=[{"vendor": "xero", "kind": "status", "status": 500}])
    for _ in range(3):
        assert events.drain(source_of(world)).finished == 0
        with transaction() as session:
            session.execute(text("UPDATE inbox SET not_before = now()"))
    with transaction() as session:
        assert set(session.execute(text("SELECT state FROM inbox WHERE source = 'xero'")).scalars()) == {"pending"}
    world.sandbox.faults()
    world.settle()
    assert world.shown("people", person) == [invoice.number]


def test_a_lease_of_one_event_takes_along_the_others_of_its_resource(world: World) -> None:
    contact = world.contact("Acme", "ann@acme.test")
    first, second = world.invoice(contact), world.invoice(contact)
    world.settle()
    for one in (first, second, first):
        world.sandbox.act("change_invoice", invoice=one.id, total="200.00")
        arrive(world)
    with transaction() as session:
        held = inbox.lease(session, source_of(world), 60, limit=1)
        rest = inbox.lease(session, source_of(world), 60, limit=1)
    assert held is not None
    assert rest is not None
    assert [one.resource_id for one in held.events] == [first.id, first.id]
    assert [one.resource_id for one in rest.events] == [second.id]
    expire_leases()
    world.settle()
    world.check()


def test_a_row_that_cannot_be_written_stops_none_of_those_written_with_it(world: World) -> None:
    override({"EVENT_ATTEMPTS": "1"})
    person = world.person("ann@acme.test")
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    made = [world.invoice(contact) for _ in range(90)]
    arrive(world)
    poison = made[70]
    with transaction() as session:
        session.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'not this one'; END $$"
            )
        )
        session.execute(
            text(
                "CREATE TRIGGER refuse BEFORE INSERT ON invoice FOR EACH ROW"
                f" WHEN (NEW.invoice_id = '{UUID(poison.id)}') EXECUTE FUNCTION refuse()"
            )
        )
    world.settle()

    assert sorted(world.shown("people", person)) == sorted(one.number for one in made if one is not poison)
    with transaction() as session:
        (failed,) = session.execute(text("SELECT resource_id FROM inbox WHERE state = 'failed'")).scalars()
    assert failed == poison.id


def marks(world: World) -> int:
    with transaction() as session:
        found: int = session.execute(
            text("SELECT count(*) FROM dirty WHERE account_id = :account"), {"account": world.account}
        ).scalar_one()
        return found


def stage(world: World, run: int) -> str:
    return world.runs([run])[0].stage


def projections_waiting(account: int) -> int:
    """How many messages would have the account projected."""
    queue = f"{broker().namespace}:{jobs.PROJECTION}"
    messages = client().hgetall(f"{queue}.msgs")
    waiting = [json.loads(messages[one]) for one in client().lrange(queue, 0, -1)]
    return sum(one["actor_name"] == "project" and one["args"] == [account] for one in waiting)


def test_what_a_run_brings_is_projected_beside_it_and_shown_when_it_is_over(world: World) -> None:
    world.sandbox.faults(webhooks=[{"vendor": one, "lose": 1.0} for one in ("xero", "copper")])
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    copper, xero = sync.begin(world.account, Kind.BACKFILL)
    while sync.step(xero.account_id, xero.id).more:
        pass
    assert sync.step(copper.account_id, copper.id).more, "people, and other types after them"
    assert marks(world) > 0
    assert world.shown("people", person) == []
    jobs.project.fn(world.account)
    assert world.shown("people", person) == [invoice.number], "while the run goes on"
    late = world.opportunity(person=person)
    while stage(world, copper.id) != sync.SHOWN:
        sync.step(copper.account_id, copper.id)
    assert world.shown("opportunities", late) == []
    assert not sync.step(copper.account_id, copper.id).more, "it is over when all is shown"
    assert marks(world) == 0
    assert world.shown("opportunities", late) == [invoice.number]


def test_a_run_that_is_far_ahead_projects_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "MARKS_AHEAD", 3)
    world.sandbox.faults(webhooks=[{"vendor": one, "lose": 1.0} for one in ("xero", "copper")])
    for number in range(3):
        world.person(f"p{number}@acme.test")
    world.settle()
    copper, _ = sync.begin(world.account, Kind.BACKFILL)
    assert sync.step(copper.account_id, copper.id).more
    assert marks(world) == 0


def test_one_job_at_a_time_projects_an_account_and_looks_again_for_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "STEP_SECONDS", 0.0)
    with transaction() as session:
        session.execute(
            text("INSERT INTO dirty (account_id, kind, record_id) SELECT :a, 'lead', n FROM generate_series(0, :n) n"),
            {"a": world.account, "n": projection.BATCH},
        )
    before = projections_waiting(world.account)
    with turn(f"project:{world.account}", 1) as mine:
        assert mine
        jobs.project.fn(world.account)
        assert marks(world) == projection.BATCH + 1, "left to whose turn it is"
        assert projections_waiting(world.account) == before
    jobs.project.fn(world.account)
    assert marks(world) == 1, "one batch in no time"
    assert projections_waiting(world.account) == before + 1, "and another look, as marks are left"
    jobs.project.fn(world.account)
    assert marks(world) == 0
    assert projections_waiting(world.account) == before + 1


def test_a_worker_takes_no_more_messages_of_a_queue_than_it_has_threads(
    world: World, processes: Processes, tmp_path: Path
) -> None:
    written = tmp_path / "worker.log"
    with written.open("wb") as log:
        environment = {"WORKER_THREADS": "3", "LOG_LEVEL": "info", "LOG_FORMAT": "json"}
        processes.append(patina("worker", stderr=log.fileno(), environment=environment))

    def started() -> list[dict[str, object]]:
        lines = [json.loads(line) for line in written.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "worker.started"]

    wait_until(lambda: bool(started()), what="a worker process")
    (line,) = started()
    assert (line["threads"], line["prefetch"], line["idle_ms"]) == (3, 3, 50)
