"""Catch-up and reconciliation: their results without webhooks, and their cost in calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from runtime.settings import override_settings
from store.db.database import transaction
from store.db.enums import RecordType, RunState
from store.sync import refresh_candidates, runs
from store.sync.refresh_candidates import UnseenQuery
from store.sync.runs import RunLeaseLostError
from tests.support.processes import Processes, patina
from tests.support.serving import wait_until
from tests.support.world import World
from worker.sync import created_dates, relations, run_processor
from worker.vendors.sync_types import RunKind

LOSE_ALL_WEBHOOKS = [{"vendor": vendor, "loss": 1.0} for vendor in ("xero", "copper")]
BOOKS = "GET /xero/api.xro/2.0"
CRM = "POST /copper/developer_api/v1"


def deafen(world: World) -> None:
    """Lose every webhook from now on."""
    world.settle()
    world.sandbox.faults(webhooks=LOSE_ALL_WEBHOOKS)


def spent(world: World, act: Callable[[], object]) -> dict[str, int]:
    """The vendor calls of an action, by path."""
    before = world.sandbox.state()["calls"]
    act()
    after = world.sandbox.state()["calls"]
    return {path: count - before.get(path, 0) for path, count in after.items() if count != before.get(path, 0)}


def execute(statement: str, **values: Any) -> None:
    with transaction() as session:
        session.execute(text(statement), values)


def test_an_idle_catch_up_costs_one_xero_call_per_listing_and_one_search_per_type(world: World) -> None:
    world.opportunity(person=world.person("ann@acme.test"))
    world.invoice("ann@acme.test")
    world.settle()
    world.advance_clock()
    world.catch_up()

    assert spent(world, world.catch_up) == {
        f"{BOOKS}/Contacts": 1,
        f"{BOOKS}/CreditNotes": 1,
        f"{BOOKS}/Invoices": 1,
        f"{CRM}/people/search": 1,
        f"{CRM}/leads/search": 1,
        f"{CRM}/companies/search": 1,
        f"{CRM}/opportunities/search": 1,
    }


def test_a_catch_up_finds_changes_of_lost_webhooks(world: World) -> None:
    ann, bob = world.person("ann@acme.test"), world.person("bob@acme.test")
    invoice = world.invoice("ann@acme.test")
    deafen(world)
    world.sandbox.simulate("pay_invoice", invoice=invoice.id, amount="15.00")
    world.sandbox.simulate("update_contact", contact=invoice.contact, email="bob@acme.test")
    lead = world.lead("bob@acme.test")
    world.simulate_copper("update_record", type="person", id=ann, emails=["ann@new.test"])
    new_invoice = world.invoice("ann@new.test")
    deal = world.opportunity(person=bob)
    world.settle()
    assert world.invoice_numbers("people", ann) == [invoice.number]

    world.catch_up()

    assert world.invoice_numbers("people", ann) == [new_invoice.number]
    assert world.invoice_numbers("leads", lead) == world.invoice_numbers("opportunities", deal) == [invoice.number]
    assert world.rows("people", bob)[0]["balance_due"] == "100.00"
    world.check()


def test_a_payment_or_credit_note_without_a_webhook_is_found(world: World) -> None:
    ann = world.person("ann@acme.test")
    paid, credited = world.invoice("ann@acme.test"), world.invoice("ann@acme.test")
    world.settle()
    world.sandbox.simulate("pay_invoice", invoice=paid.id, webhook=False)
    world.sandbox.simulate("credit_invoice", invoice=credited.id, amount="15.00", webhook=False)
    world.catch_up()

    rows = {(row["type"], row["number"]): (row["status"], row["balance_due"]) for row in world.rows("people", ann)}
    assert rows == {
        ("ACCREC", paid.number): ("PAID", "0.00"),
        ("ACCREC", credited.number): ("AUTHORISED", "100.00"),
        ("ACCRECCREDIT", "CN-0001"): ("PAID", "0.00"),
    }


def test_a_catch_up_follows_a_merge_that_does_not_modify_invoices(world: World) -> None:
    ann, bob = world.person("ann@acme.test"), world.person("bob@acme.test")
    moved, stays = world.invoice("ann@acme.test"), world.invoice("bob@acme.test")
    deafen(world)
    world.advance_clock()
    world.catch_up()
    world.sandbox.simulate("merge_contacts", source=moved.contact, target=stays.contact)
    world.catch_up()

    assert world.invoice_numbers("people", ann) == []
    assert sorted(world.invoice_numbers("people", bob)) == sorted([moved.number, stays.number])
    world.check()
    assert spent(world, world.catch_up)[f"{BOOKS}/Invoices"] == 1, "a merge that is known is not followed again"


def test_a_catch_up_loses_nothing_when_data_changes_between_pages(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.vendors.xero.client.PAGE_SIZE", 5)
    monkeypatch.setattr("worker.vendors.copper.client.PAGE_SIZE", 5)
    monkeypatch.setattr("worker.vendors.copper.stages.PAGE_SIZE", 5)
    deafen(world)
    people = [world.person(f"p{number}@acme.test") for number in range(23)]
    invoices = [world.invoice(f"p{number}@acme.test") for number in range(23)]
    started_runs = run_processor.start_account_runs(world.account, RunKind.CATCH_UP)
    world.advance_clock(0.1)
    for number, run in enumerate(started_runs * 15):
        run_processor.step(run.account_id, run.id)
        if number < 8:
            world.sandbox.simulate("pay_invoice", invoice=invoices[-1 - number].id)
        if number < 4:
            world.simulate_copper("delete_record", type="person", id=people[number])
    assert {run.state for run in world.runs([run.id for run in started_runs])} == {"done"}
    world.catch_up()
    lines = [
        number
        for number in range(4, 23)
        if world.invoice_numbers("people", people[number]) == [invoices[number].number]
    ]
    assert lines == list(range(4, 23))
    assert world.rows("people", people[22])[0]["status"] == "PAID"


def test_more_records_than_coppers_search_limit_are_all_fetched(world: World) -> None:
    world.sandbox.control("PUT", "limits", json={"enabled": False, "max_search_results": 400})
    deafen(world)
    for start in range(0, 900, 180):
        world.sandbox.control("PUT", "clock", json={"offset_seconds": start / 10})
        for number in range(start, start + 180):
            world.person(f"p{number}@acme.test")
    invoice = world.invoice("p899@acme.test")
    world.backfill()
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM copper_record WHERE NOT is_deleted")).scalar_one() == 900
    world.check_rows()
    assert invoice.number


def test_records_of_one_second_that_exceed_a_page_are_all_fetched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.vendors.copper.client.PAGE_SIZE", 5)
    monkeypatch.setattr("worker.vendors.copper.stages.PAGE_SIZE", 5)
    deafen(world)
    for number in range(20):
        world.person(f"p{number}@acme.test")
    world.backfill()
    with transaction() as session:
        people = text("SELECT count(*) FROM copper_record WHERE record_type = 'person' AND NOT is_deleted")
        assert session.execute(people).scalar_one() == 20
    world.check_rows()


@pytest.mark.parametrize(("people", "calls"), [(0, 1), (199, 1), (200, 2), (398, 2), (399, 3)])
def test_copper_listings_cost_one_call_per_page(world: World, people: int, calls: int) -> None:
    deafen(world)
    for number in range(people):
        world.sandbox.control("PUT", "clock", json={"offset_seconds": number})
        world.person(f"p{number}@x.test")
    world.settle()
    assert spent(world, world.backfill)[f"{CRM}/people/search"] == calls == 1 + max(people - 1, 0) // 199


def test_xero_listings_cost_one_call_per_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.vendors.xero.client.PAGE_SIZE", 10)
    deafen(world)
    for number in range(31):
        world.invoice(f"p{number % 20}@acme.test")
    assert {path: count for path, count in spent(world, world.backfill).items() if path.startswith(BOOKS)} == {
        f"{BOOKS}/Organisation": 1,
        f"{BOOKS}/Contacts": 2,
        f"{BOOKS}/CreditNotes": 1,
        f"{BOOKS}/Invoices": 4,
    }


def test_a_thousand_events_on_two_hundred_invoices_cost_six_calls_at_most(world: World) -> None:
    contact = world.contact("Acme", "ann@acme.test")
    invoices = [world.invoice(contact) for _ in range(200)]
    world.settle()

    def burst() -> None:
        for total in range(200, 205):
            for invoice in invoices:
                world.sandbox.simulate("update_invoice", invoice=invoice.id, total=f"{total}.00")
        wait_until(lambda: world.sandbox.state()["pending_deliveries"] == 0)
        world.settle()

    calls = spent(world, burst)
    assert calls[f"{BOOKS}/Invoices"] <= 6
    with transaction() as session:
        assert session.execute(text("SELECT DISTINCT total FROM record_invoice")).scalars().all() in ([204], [])
    world.check()


def test_a_page_that_always_fails_ends_its_run_but_an_outage_does_not(world: World) -> None:
    override_settings({"EVENT_MAX_ATTEMPTS": "2"})
    for status, state in ((503, "running"), (500, "failed")):
        world.sandbox.faults(api=[{"vendor": "xero", "path": "/Contacts", "type": "status", "status": status}])
        run = next(
            run for run in run_processor.start_account_runs(world.account, RunKind.CATCH_UP) if run.organisation_id
        )
        for _ in range(3):
            run_processor.step(run.account_id, run.id)
            execute("UPDATE sync_run SET not_before = now()")
        assert world.runs([run.id])[0].state == state
    world.sandbox.faults()
    world.catch_up()


# Reconciliation


def drifted(world: World, break_it: Callable[[], object]) -> dict[str, dict[str, int]]:
    """Cause drift, detect it by a dry run that changes nothing, then detect and repair it."""
    world.settle()
    world.advance_clock()
    assert world.reconcile(dry=True) == {}
    break_it()
    before = dump()
    drift = world.reconcile(dry=True)
    assert dump() == before, "a dry run writes nothing"
    assert world.reconcile() == drift
    assert world.reconcile(dry=True) == {}
    world.check_rows()
    return drift


def dump() -> list[Any]:
    tables = (
        "xero_invoice",
        "xero_contact",
        "xero_contact_email",
        "copper_record",
        "copper_record_email",
        "copper_relation",
    )
    with transaction() as session:
        return [
            sorted(session.execute(text(f"SELECT t::text FROM {table} t")).scalars())
            for table in (*tables, "record_invoice")
        ]


@pytest.fixture
def small(world: World) -> World:
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    deal = world.opportunity(company=company, person=world.person("bob@acme.test"))
    world.lead("lee@acme.test")
    world.relate(deal, "person", person)
    for _ in range(3):
        world.invoice("ann@acme.test")
    world.invoice("bob@acme.test")
    world.settle()
    return world


CHANGED = {"missing": 0, "stale": 1, "extra": 0}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "UPDATE xero_invoice SET balance = 7 WHERE number LIKE '%1'",
            {"invoices": CHANGED, "read_model": {"stale": 3}},
        ),
        ("DELETE FROM xero_invoice WHERE number LIKE '%1'", {"invoices": {"missing": 1}, "read_model": {"extra": 3}}),
        (
            "INSERT INTO xero_invoice (account_id, organisation_id, invoice_id, contact_id, type, status, number,"
            " issue_date, due_date, total, balance, currency, created_at, created_source, updated_at, fetched_at,"
            " changed_at) SELECT account_id, organisation_id, '00000000-0000-4000-8000-000000000001', contact_id,"
            " type, status, 'FALSE', issue_date, due_date, total, balance, currency, created_at,"
            " created_source, updated_at, fetched_at, changed_at FROM xero_invoice WHERE number LIKE '%1'",
            {"invoices": {"extra": 1}, "read_model": {"missing": 3}},
        ),
        (
            "UPDATE xero_invoice SET balance = 7, updated_at = 'infinity' WHERE number LIKE '%1'",
            {"invoices": CHANGED, "read_model": {"stale": 3}},
        ),
        ("UPDATE xero_contact SET name = 'Wrong' WHERE name LIKE 'ann%'", {"contacts": CHANGED}),
        ("DELETE FROM xero_contact_email WHERE email LIKE 'bob%'", {"contacts": CHANGED, "read_model": {"extra": 2}}),
        ("UPDATE copper_record SET name = 'Wrong' WHERE record_type = 'lead'", {"leads": CHANGED}),
        ("DELETE FROM copper_record_email WHERE email LIKE 'lee%'", {"leads": CHANGED}),
        (
            "DELETE FROM copper_relation WHERE record_type = 'person'",
            {"people": CHANGED, "read_model": {"extra": 3}},
        ),
        (
            "DELETE FROM copper_record WHERE record_type = 'company'",
            {"companies": {"missing": 1}, "read_model": {"extra": 3}},
        ),
        (
            "INSERT INTO copper_record (account_id, record_type, record_id, name, updated_at, fetched_at, changed_at)"
            " SELECT id, 'lead', 77, 'False', now(), 'epoch', now() FROM account",
            {"leads": {"extra": 1}},
        ),
        ("DELETE FROM copper_relation WHERE origin = 'related' AND related_type = 'person'", {"relations": CHANGED}),
        ("DELETE FROM record_invoice WHERE record_type = 'company'", {"read_model": {"missing": 3}}),
        ("UPDATE record_invoice SET balance = 1 WHERE record_type = 'company'", {"read_model": {"stale": 3}}),
        (
            "INSERT INTO record_invoice SELECT account_id, 'lead', 5, created_at, invoice_id, organisation_id, type,"
            " status, number, issuer, issue_date, due_date, total, balance, currency, created_source, short_code"
            " FROM record_invoice WHERE record_type = 'company'",
            {"read_model": {"extra": 3}},
        ),
    ],
    ids=range(15),
)
def test_every_type_of_drift_is_found_counted_and_repaired(
    small: World, statement: str, expected: dict[str, dict[str, int]]
) -> None:
    drift = drifted(small, lambda: execute(statement))
    assert drift == {
        record_type: {"missing": 0, "stale": 0, "extra": 0, **rows} for record_type, rows in expected.items()
    }


def test_recent_changes_are_not_drift_because_their_event_may_be_in_transit(small: World) -> None:
    deafen(small)
    small.invoice("ann@acme.test")
    small.lead("new@acme.test")
    assert small.reconcile(dry=True) == {}
    small.advance_clock()
    drift = small.reconcile(dry=True)
    assert drift["invoices"]["missing"] == drift["leads"]["missing"] == 1


@pytest.mark.parametrize("run_kind", list(RunKind))
def test_a_run_of_any_type_resumes_from_its_last_page_after_a_kill_at_any_step(small: World, run_kind: RunKind) -> None:
    small.advance_clock()
    small.catch_up()
    deafen(small)
    for number in range(25):
        small.opportunity(person=small.person(f"p{number}@acme.test"))
        small.invoice(f"p{number}@acme.test")
    calls = spent(small, lambda: kill_at_every_step(small, run_kind))
    assert max(calls.values()) <= 2, "no page is fetched more than twice"
    if run_kind is not RunKind.DRY_RUN:
        small.check_rows()


def kill_at_every_step(world: World, run_kind: RunKind) -> None:
    """Each page is fetched by a worker that dies before its commit, and then by another one."""
    for run in run_processor.start_account_runs(world.account, run_kind):
        for _ in range(80):
            with transaction() as session:
                is_taken = runs.lease(session, run.account_id, run.id, 60)
            if is_taken is None:
                break
            run_processor._fetch_pages(is_taken[0])
            execute("UPDATE sync_run SET leased_until = now() - interval '1 s' WHERE lease_id IS NOT NULL")
            run_processor.step(run.account_id, run.id)
    assert all(run.state == RunState.DONE for run in world.runs())


def test_two_runs_of_a_type_are_one_and_concurrent_workers_on_it_are_safe(small: World) -> None:
    first = run_processor.start_account_runs(small.account, RunKind.RECONCILIATION)
    assert [run.id for run in run_processor.start_account_runs(small.account, RunKind.RECONCILIATION)] == [
        run.id for run in first
    ]
    stepped = [run_processor.step(run.account_id, run.id) for run in first * 20]
    assert stepped
    assert {run.state for run in small.runs([run.id for run in first])} == {"done"}
    small.check()


def test_an_expired_run_lease_is_taken_over_and_the_first_holder_cannot_write(small: World) -> None:
    run = run_processor.start_account_runs(small.account, RunKind.CATCH_UP)[0]
    page: dict[str, Any] = {"stage": run.stage, "cursor": {}, "counts": {}, "drift": None, "state": RunState.RUNNING}
    with transaction() as session:
        first = runs.lease(session, run.account_id, run.id, 60)
        assert first is not None
        assert runs.lease(session, run.account_id, run.id, 60) is None
    execute("UPDATE sync_run SET leased_until = now() - interval '1 s' WHERE id = :id", id=run.id)
    with transaction() as session:
        second = runs.lease(session, run.account_id, run.id, 60)
    assert second is not None
    with transaction() as session:
        with pytest.raises(RunLeaseLostError):
            runs.advance(session, first[0], first[1], **page)
        assert runs.release(session, first[0], first[1], error="x", delay=0, max_attempts=1, count_attempt=True) is None
        runs.advance(session, second[0], second[1], **page)


def test_a_renamed_organisation_is_shown_after_reconciliation(small: World) -> None:
    company = next(iter(small.record_ids("company")))
    small.sandbox.simulate("rename_organisation", tenant=small.tenants[0], name="New Name Ltd", short_code="!NEW")
    small.reconcile()
    rows = small.rows("companies", company)
    assert {row["issuer"] for row in rows} == {"New Name Ltd"}
    assert all("shortcode=!NEW" in row["url"] for row in rows)


def test_invoices_of_an_erased_contact_leave_every_record(world: World) -> None:
    ann = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    assert world.invoice_numbers("people", ann) == [invoice.number]
    world.sandbox.simulate("erase_contact", contact=invoice.contact)
    world.settle()
    assert world.invoice_numbers("people", ann) == []
    world.check()


def test_an_invoice_follows_its_new_contact(world: World) -> None:
    ann, bob = world.person("ann@acme.test"), world.person("bob@acme.test")
    invoice = world.invoice("ann@acme.test")
    other_contact = world.contact("Bob", "bob@acme.test")
    world.settle()
    world.sandbox.simulate("update_invoice", invoice=invoice.id, contact=other_contact)
    world.settle()
    assert (world.invoice_numbers("people", ann), world.invoice_numbers("people", bob)) == ([], [invoice.number])
    world.check()


@pytest.mark.parametrize("record_type", ["person", "company"])
def test_invoices_of_merged_records_move_to_the_surviving_record(world: World, record_type: str) -> None:
    loser, winner = (world._record(record_type) for _ in range(2))
    if record_type == "person":
        world.simulate_copper("update_record", type="person", id=loser, emails=["ann@acme.test"])
    else:
        world.person("ann@acme.test", company=loser)
    invoice = world.invoice("ann@acme.test")
    deal = world.opportunity(**{record_type: loser})
    world.settle()
    world.simulate_copper("merge_records", type=record_type, source=loser, target=winner)
    world.settle()
    plural = {"person": "people", "company": "companies"}[record_type]
    assert world.invoice_numbers(plural, loser) == []
    world.reconcile()
    assert world.invoice_numbers(plural, winner) == world.invoice_numbers("opportunities", deal) == [invoice.number]
    world.check()


# Relations


def test_unreported_relations_are_found_by_the_relations_refresh(world: World) -> None:
    override_settings({"RELATIONS_MAX_AGE_SECONDS": "0"})
    company, other_company = world.company(), world.company()
    ann = world.person("ann@acme.test")
    bob = world.person("bob@acme.test", company=company)
    deal = world.opportunity()
    first, second = world.invoice("ann@acme.test"), world.invoice("bob@acme.test")
    world.settle()
    world.simulate_copper("relate", type="person", id=ann, to_type="company", to_id=company)
    world.simulate_copper("relate", type="person", id=bob, to_type="company", to_id=other_company)
    world.simulate_copper("relate", type="opportunity", id=deal, to_type="company", to_id=company)
    world.settle()
    assert world.invoice_numbers("companies", company) == [second.number]
    assert world.invoice_numbers("opportunities", deal) == []

    relations.refresh_stale(world.account)

    assert world.invoice_numbers("companies", company) == world.invoice_numbers("opportunities", deal) == [first.number]
    assert world.invoice_numbers("companies", other_company) == [second.number]
    world.check()


def test_the_relations_refresh_starts_with_the_oldest_and_stays_within_its_budget(world: World) -> None:
    override_settings({"RELATIONS_MAX_AGE_SECONDS": "0", "RELATIONS_REFRESH_MAX_CALLS": "8"})
    deals = [world.opportunity() for _ in range(12)]
    world.settle()
    fetched: set[int] = set()
    for _ in range(2):
        calls = spent(world, lambda: relations.refresh_stale(world.account))
        assert sum(calls.values()) <= 8
        fetched |= {int(path.split("/")[-2]) for path in calls if path.endswith("/related")}
    assert fetched == set(deals)
    override_settings({"RELATIONS_MAX_AGE_SECONDS": "", "RELATIONS_REFRESH_MAX_CALLS": ""})
    assert relations.refresh_stale(world.account) == 0, "what was read lately is left alone"


def test_a_viewed_record_is_refreshed_in_the_background(world: World, processes: Processes) -> None:
    override_settings({"RELATIONS_MAX_AGE_SECONDS": "0"})
    processes += [patina("worker")]
    company = world.company()
    ann, deal = world.person("ann@acme.test"), world.opportunity()
    invoice = world.invoice("ann@acme.test")
    world.settle()
    world.simulate_copper("relate", type="person", id=ann, to_type="company", to_id=company)
    world.simulate_copper("relate", type="opportunity", id=deal, to_type="company", to_id=company)

    assert world.invoice_numbers("companies", company) == [], "the read itself never waits"
    wait_until(
        lambda: world.invoice_numbers("companies", company) == [invoice.number], description="the refreshed company"
    )
    wait_until(
        lambda: world.invoice_numbers("opportunities", deal) == [invoice.number],
        description="the refreshed opportunity",
    )
    override_settings({"RELATIONS_MAX_AGE_SECONDS": ""})
    world.check()


# Created dates


def test_the_history_lookup_gives_the_newest_invoices_their_true_created_date(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Acme", "ann@acme.test")
    deafen(world)
    world.invoice(contact, issued="2020-01-05")
    new = world.invoice(contact)
    world.catch_up()
    assert {row["created_at_source"] for row in world.rows("people", ann)} == {"issue_date"}
    with transaction() as session:
        organisation = session.execute(text("SELECT id FROM xero_organisation")).scalar_one()

    assert created_dates.backfill(world.account, organisation) == 1
    sources = {row["id"]: row["created_at_source"] for row in world.rows("people", ann)}
    assert sources.pop(new.id) == "history"
    assert set(sources.values()) == {"issue_date"}, "an old invoice is not worth a call"
    assert created_dates.backfill(world.account, organisation) == 0
    world.check()


def test_the_history_lookup_waits_for_spare_budget(world: World) -> None:
    deafen(world)
    for _ in range(6):
        world.invoice("ann@acme.test")
    world.catch_up()
    with transaction() as session:
        organisation = session.execute(text("SELECT id FROM xero_organisation")).scalar_one()
        spent_today = session.execute(text("SELECT sum(calls) FROM api_usage WHERE organisation_id > 0")).scalar_one()
    override_settings({"XERO_CALLS_PER_DAY": str(2 * (spent_today + 2))})
    assert created_dates.backfill(world.account, organisation) == 2


def test_rows_seen_by_a_dry_run_are_not_checked_again(small: World) -> None:
    query = UnseenQuery(run_id=-1, since=small.runs()[0].started_at, limit=10)
    with transaction() as session:
        assert refresh_candidates.unseen_record_ids(session, small.account, RecordType.LEAD, query, 0) == []
    calls = spent(small, lambda: small.reconcile(dry=True))
    assert not [path for path in calls if path.startswith("GET") and "/leads/" in path]
