"""Catch-up, reconciliation and what they cost: the store becomes right, whatever the vendors do not tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from runtime.settings import override
from store import due, runs
from store.database import transaction
from store.due import Unseen
from store.models import RecordType
from store.runs import StepLostError
from tests.processes import Processes, patina
from tests.serving import wait_until
from tests.world import World
from worker import history, relations, sync
from worker.steps import Kind

DEAF = [{"vendor": one, "lose": 1.0} for one in ("xero", "copper")]
BOOKS = "GET /xero/api.xro/2.0"
CRM = "POST /copper/developer_api/v1"


def deafen(world: World) -> None:
    """From now on every webhook is lost."""
    world.settle()
    world.sandbox.faults(webhooks=DEAF)


def spent(world: World, act: Callable[[], object]) -> dict[str, int]:
    """The vendors' calls that something cost, by path."""
    before = world.sandbox.state()["calls"]
    act()
    after = world.sandbox.state()["calls"]
    return {path: count - before.get(path, 0) for path, count in after.items() if count != before.get(path, 0)}


def execute(statement: str, **values: Any) -> None:
    with transaction() as session:
        session.execute(text(statement), values)


def test_an_idle_catch_up_costs_two_xero_calls_and_one_search_a_type(world: World) -> None:
    world.opportunity(person=world.person("ann@acme.test"))
    world.invoice("ann@acme.test")
    world.settle()
    world.pass_time()
    world.catch_up()

    assert spent(world, world.catch_up) == {
        f"{BOOKS}/Contacts": 1,
        f"{BOOKS}/Invoices": 1,
        f"{CRM}/people/search": 1,
        f"{CRM}/leads/search": 1,
        f"{CRM}/companies/search": 1,
        f"{CRM}/opportunities/search": 1,
    }


def test_a_catch_up_finds_what_lost_webhooks_told(world: World) -> None:
    ann, bob = world.person("ann@acme.test"), world.person("bob@acme.test")
    invoice = world.invoice("ann@acme.test")
    deafen(world)
    world.sandbox.act("pay_invoice", invoice=invoice.id, amount="15.00")
    world.sandbox.act("change_contact", contact=invoice.contact, email="bob@acme.test")
    lead = world.lead("bob@acme.test")
    world.copper_act("change_record", type="person", id=ann, emails=["ann@new.test"])
    made = world.invoice("ann@new.test")
    deal = world.opportunity(person=bob)
    world.settle()
    assert world.shown("people", ann) == [invoice.number]

    world.catch_up()

    assert world.shown("people", ann) == [made.number]
    assert world.shown("leads", lead) == world.shown("opportunities", deal) == [invoice.number]
    assert world.rows("people", bob)[0]["balance_due"] == "100.00"
    world.check()


def test_a_payment_or_credit_note_of_which_no_webhook_tells_is_found(world: World) -> None:
    ann = world.person("ann@acme.test")
    paid, credited = world.invoice("ann@acme.test"), world.invoice("ann@acme.test")
    world.settle()
    world.sandbox.act("pay_invoice", invoice=paid.id, webhook=False)
    world.sandbox.act("credit_invoice", invoice=credited.id, amount="15.00", webhook=False)
    world.catch_up()

    rows = {row["id"]: (row["status"], row["balance_due"]) for row in world.rows("people", ann)}
    assert rows == {paid.id: ("PAID", "0.00"), credited.id: ("AUTHORISED", "100.00")}


def test_a_catch_up_follows_a_merge_that_moved_invoices_untouched(world: World) -> None:
    ann, bob = world.person("ann@acme.test"), world.person("bob@acme.test")
    moved, stays = world.invoice("ann@acme.test"), world.invoice("bob@acme.test")
    deafen(world)
    world.pass_time()
    world.catch_up()
    world.sandbox.act("merge_contacts", loser=moved.contact, winner=stays.contact)
    world.catch_up()

    assert world.shown("people", ann) == []
    assert sorted(world.shown("people", bob)) == sorted([moved.number, stays.number])
    world.check()
    assert spent(world, world.catch_up)[f"{BOOKS}/Invoices"] == 1, "a merge that is known is not followed again"


def test_a_catch_up_pages_under_changes_and_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.xero.client.PAGE_SIZE", 5)
    monkeypatch.setattr("worker.copper.client.PAGE_SIZE", 5)
    monkeypatch.setattr("worker.copper.stages.PAGE_SIZE", 5)
    deafen(world)
    people = [world.person(f"p{number}@acme.test") for number in range(23)]
    invoices = [world.invoice(f"p{number}@acme.test") for number in range(23)]
    began = sync.begin(world.account, Kind.CATCH_UP)
    world.pass_time(0.1)
    for number, run in enumerate(began * 12):
        sync.step(run.account_id, run.id)
        if number < 8:
            world.sandbox.act("pay_invoice", invoice=invoices[-1 - number].id)
        if number < 4:
            world.copper_act("delete_record", type="person", id=people[number])
    assert {run.state for run in world.runs([run.id for run in began])} == {"done"}
    world.catch_up()
    shown = [number for number in range(4, 23) if world.shown("people", people[number]) == [invoices[number].number]]
    assert shown == list(range(4, 23))
    assert world.rows("people", people[22])[0]["status"] == "PAID"


def test_more_records_than_copper_lets_anybody_page_through_are_all_read(world: World) -> None:
    world.sandbox.control("PUT", "limits", json={"on": False, "reachable": 400})
    deafen(world)
    for start in range(0, 900, 180):
        world.sandbox.control("PUT", "clock", json={"ahead": start / 10})
        for number in range(start, start + 180):
            world.person(f"p{number}@acme.test")
    invoice = world.invoice("p899@acme.test")
    world.backfill()
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM crm_record WHERE NOT gone")).scalar_one() == 900
    world.check_rows()
    assert invoice.number


def test_a_second_with_more_records_than_a_page_is_read_page_by_page(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.copper.client.PAGE_SIZE", 5)
    monkeypatch.setattr("worker.copper.stages.PAGE_SIZE", 5)
    deafen(world)
    for number in range(20):
        world.person(f"p{number}@acme.test")
    world.backfill()
    with transaction() as session:
        people = text("SELECT count(*) FROM crm_record WHERE record_type = 'person' AND NOT gone")
        assert session.execute(people).scalar_one() == 20
    world.check_rows()


@pytest.mark.parametrize(("people", "calls"), [(0, 1), (199, 1), (200, 2), (398, 2), (399, 3)])
def test_copper_pages_cost_the_arithmetic(world: World, people: int, calls: int) -> None:
    deafen(world)
    for number in range(people):
        world.sandbox.control("PUT", "clock", json={"ahead": number})
        world.person(f"p{number}@x.test")
    world.settle()
    assert spent(world, world.backfill)[f"{CRM}/people/search"] == calls == 1 + max(people - 1, 0) // 199


def test_xero_pages_cost_the_arithmetic(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.xero.client.PAGE_SIZE", 10)
    deafen(world)
    for number in range(31):
        world.invoice(f"p{number % 20}@acme.test")
    assert {path: count for path, count in spent(world, world.backfill).items() if path.startswith(BOOKS)} == {
        f"{BOOKS}/Organisation": 1,
        f"{BOOKS}/Contacts": 2,
        f"{BOOKS}/Invoices": 4,
    }


def test_a_thousand_events_on_two_hundred_invoices_cost_six_calls_at_most(world: World) -> None:
    contact = world.contact("Acme", "ann@acme.test")
    made = [world.invoice(contact) for _ in range(200)]
    world.settle()

    def burst() -> None:
        for total in range(200, 205):
            for one in made:
                world.sandbox.act("change_invoice", invoice=one.id, total=f"{total}.00")
        wait_until(lambda: world.sandbox.state()["waiting"] == 0)
        world.settle()

    calls = spent(world, burst)
    assert calls[f"{BOOKS}/Invoices"] <= 6
    with transaction() as session:
        assert session.execute(text("SELECT DISTINCT total FROM record_invoice")).scalars().all() in ([204], [])
    world.check()


def test_a_page_that_always_fails_ends_its_run_and_an_outage_does_not(world: World) -> None:
    override({"EVENT_ATTEMPTS": "2"})
    for status, state in ((503, "running"), (500, "failed")):
        world.sandbox.faults(api=[{"vendor": "xero", "path": "/Contacts", "kind": "status", "status": status}])
        run = next(one for one in sync.begin(world.account, Kind.CATCH_UP) if one.organisation_id)
        for _ in range(3):
            sync.step(run.account_id, run.id)
            execute("UPDATE sync_run SET not_before = now()")
        assert world.runs([run.id])[0].state == state
    world.sandbox.faults()
    world.catch_up()


# Reconciliation


def drifted(world: World, break_it: Callable[[], object]) -> dict[str, dict[str, int]]:
    """Break something, and see it found by a dry run that changes nothing, then found and repaired."""
    world.settle()
    world.pass_time()
    assert world.reconcile(dry=True) == {}
    break_it()
    before = dump()
    found = world.reconcile(dry=True)
    assert dump() == before, "a dry run writes nothing"
    assert world.reconcile() == found
    assert world.reconcile(dry=True) == {}
    world.check_rows()
    return found


def dump() -> list[Any]:
    tables = ("invoice", "xero_contact", "xero_contact_email", "crm_record", "crm_record_email", "crm_relation")
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
    ("statement", "found"),
    [
        ("UPDATE invoice SET balance = 7 WHERE number LIKE '%1'", {"invoices": CHANGED, "rows": {"stale": 3}}),
        ("DELETE FROM invoice WHERE number LIKE '%1'", {"invoices": {"missing": 1}, "rows": {"extra": 3}}),
        (
            "INSERT INTO invoice SELECT account_id, organisation_id, '00000000-0000-4000-8000-000000000001',"
            " contact_id, type, status, 'FALSE', issue_date, due_date, total, balance, currency, created_at,"
            " created_source, updated_at, fetched_at, changed_at FROM invoice WHERE number LIKE '%1'",
            {"invoices": {"extra": 1}, "rows": {"missing": 3}},
        ),
        (
            "UPDATE invoice SET balance = 7, updated_at = 'infinity' WHERE number LIKE '%1'",
            {"invoices": CHANGED, "rows": {"stale": 3}},
        ),
        ("UPDATE xero_contact SET name = 'Wrong' WHERE name LIKE 'ann%'", {"contacts": CHANGED}),
        ("DELETE FROM xero_contact_email WHERE email LIKE 'bob%'", {"contacts": CHANGED, "rows": {"extra": 2}}),
        ("UPDATE crm_record SET name = 'Wrong' WHERE record_type = 'lead'", {"leads": CHANGED}),
        ("DELETE FROM crm_record_email WHERE email LIKE 'lee%'", {"leads": CHANGED}),
        (
            "DELETE FROM crm_relation WHERE record_type = 'person'",
            {"people": CHANGED, "rows": {"extra": 3}},
        ),
        ("DELETE FROM crm_record WHERE record_type = 'company'", {"companies": {"missing": 1}, "rows": {"extra": 3}}),
        (
            "INSERT INTO crm_record (account_id, record_type, record_id, name, updated_at, fetched_at, changed_at)"
            " SELECT id, 'lead', 77, 'False', now(), 'epoch', now() FROM account",
            {"leads": {"extra": 1}},
        ),
        ("DELETE FROM crm_relation WHERE source = 'related' AND related_type = 'person'", {"relations": CHANGED}),
        ("DELETE FROM record_invoice WHERE record_type = 'company'", {"rows": {"missing": 3}}),
        ("UPDATE record_invoice SET balance = 1 WHERE record_type = 'company'", {"rows": {"stale": 3}}),
        (
            "INSERT INTO record_invoice SELECT account_id, 'lead', 5, created_at, invoice_id, organisation_id, type,"
            " status, number, issuer, issue_date, due_date, total, balance, currency, created_source, short_code"
            " FROM record_invoice WHERE record_type = 'company'",
            {"rows": {"extra": 3}},
        ),
    ],
    ids=range(15),
)
def test_drift_of_every_kind_is_found_counted_right_and_repaired(
    small: World, statement: str, found: dict[str, dict[str, int]]
) -> None:
    told = drifted(small, lambda: execute(statement))
    assert told == {kind: {"missing": 0, "stale": 0, "extra": 0, **rows} for kind, rows in found.items()}


def test_what_changed_a_moment_ago_is_no_drift_its_event_may_be_on_its_way(small: World) -> None:
    deafen(small)
    small.invoice("ann@acme.test")
    small.lead("new@acme.test")
    assert small.reconcile(dry=True) == {}
    small.pass_time()
    found = small.reconcile(dry=True)
    assert found["invoices"]["missing"] == found["leads"]["missing"] == 1


@pytest.mark.parametrize("kind", list(Kind))
def test_a_run_of_any_kind_goes_on_from_its_last_page_after_a_kill_at_any_step(small: World, kind: Kind) -> None:
    small.pass_time()
    small.catch_up()
    deafen(small)
    for number in range(25):
        small.opportunity(person=small.person(f"p{number}@acme.test"))
        small.invoice(f"p{number}@acme.test")
    calls = spent(small, lambda: kill_at_every_step(small, kind))
    assert max(calls.values()) <= 2, "no page is fetched more than twice"
    if kind is not Kind.DRY_RUN:
        small.check_rows()


def kill_at_every_step(world: World, kind: Kind) -> None:
    """Each page is fetched by a worker that dies before it commits, then by another one."""
    for run in sync.begin(world.account, kind):
        for _ in range(80):
            with transaction() as session:
                taken = runs.take(session, run.account_id, run.id, 60)
            if taken is None:
                break
            sync._fetch(taken[0])
            execute("UPDATE sync_run SET leased_until = now() - interval '1 s' WHERE lease_id IS NOT NULL")
            sync.step(run.account_id, run.id)
    assert all(run.state == "done" for run in world.runs())


def test_two_runs_of_a_kind_are_one_and_workers_on_the_same_run_do_no_harm(small: World) -> None:
    first = sync.begin(small.account, Kind.RECONCILIATION)
    assert [run.id for run in sync.begin(small.account, Kind.RECONCILIATION)] == [run.id for run in first]
    stepped = [sync.step(run.account_id, run.id) for run in first * 20]
    assert stepped
    assert {run.state for run in small.runs([run.id for run in first])} == {"done"}
    small.check()


def test_a_run_whose_lease_ran_out_is_taken_again_and_the_first_holder_cannot_write(small: World) -> None:
    run = sync.begin(small.account, Kind.CATCH_UP)[0]
    page: dict[str, Any] = {"stage": run.stage, "cursor": {}, "counts": {}, "drift": None, "state": "running"}
    with transaction() as session:
        first = runs.take(session, run.account_id, run.id, 60)
        assert first is not None
        assert runs.take(session, run.account_id, run.id, 60) is None
    execute("UPDATE sync_run SET leased_until = now() - interval '1 s' WHERE id = :id", id=run.id)
    with transaction() as session:
        second = runs.take(session, run.account_id, run.id, 60)
    assert second is not None
    with transaction() as session:
        with pytest.raises(StepLostError):
            runs.advance(session, first[0], first[1], **page)
        assert runs.put_back(session, first[0], first[1], error="x", delay=0, most=1, free=False) is None
        runs.advance(session, second[0], second[1], **page)


def test_a_renamed_organisation_shows_after_reconciliation(small: World) -> None:
    company = next(iter(small.rows_of("company")))
    small.sandbox.act("rename_organisation", tenant=small.tenants[0], name="New Name Ltd", short_code="!NEW")
    small.reconcile()
    rows = small.rows("companies", company)
    assert {row["issuer"] for row in rows} == {"New Name Ltd"}
    assert all("shortcode=!NEW" in row["url"] for row in rows)


def test_a_forgotten_contacts_invoices_leave_every_record(world: World) -> None:
    ann = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    assert world.shown("people", ann) == [invoice.number]
    world.sandbox.act("forget_contact", contact=invoice.contact)
    world.settle()
    assert world.shown("people", ann) == []
    world.check()


def test_an_invoice_that_moves_to_another_contact_is_followed(world: World) -> None:
    ann, bob = world.person("ann@acme.test"), world.person("bob@acme.test")
    invoice = world.invoice("ann@acme.test")
    other = world.contact("Bob", "bob@acme.test")
    world.settle()
    world.sandbox.act("change_invoice", invoice=invoice.id, contact=other)
    world.settle()
    assert (world.shown("people", ann), world.shown("people", bob)) == ([], [invoice.number])
    world.check()


@pytest.mark.parametrize("kind", ["person", "company"])
def test_merged_records_hand_their_invoices_to_the_survivor(world: World, kind: str) -> None:
    loser, winner = (world._record(kind) for _ in range(2))
    if kind == "person":
        world.copper_act("change_record", type="person", id=loser, emails=["ann@acme.test"])
    else:
        world.person("ann@acme.test", company=loser)
    invoice = world.invoice("ann@acme.test")
    deal = world.opportunity(**{kind: loser})
    world.settle()
    world.copper_act("merge_records", type=kind, loser=loser, winner=winner)
    world.settle()
    plural = {"person": "people", "company": "companies"}[kind]
    assert world.shown(plural, loser) == []
    world.reconcile()
    assert world.shown(plural, winner) == world.shown("opportunities", deal) == [invoice.number]
    world.check()


# Relations


def test_relations_that_nobody_reports_are_found_by_rotation(world: World) -> None:
    override({"RELATIONS_AGE_SECONDS": "0"})
    company, other = world.company(), world.company()
    ann = world.person("ann@acme.test")
    bob = world.person("bob@acme.test", company=company)
    deal = world.opportunity()
    first, second = world.invoice("ann@acme.test"), world.invoice("bob@acme.test")
    world.settle()
    world.copper_act("relate", type="person", id=ann, to_type="company", to_id=company)
    world.copper_act("relate", type="person", id=bob, to_type="company", to_id=other)
    world.copper_act("relate", type="opportunity", id=deal, to_type="company", to_id=company)
    world.settle()
    assert world.shown("companies", company) == [second.number]
    assert world.shown("opportunities", deal) == []

    relations.rotate(world.account)

    assert world.shown("companies", company) == world.shown("opportunities", deal) == [first.number]
    assert world.shown("companies", other) == [second.number]
    world.check()


def test_rotation_begins_with_the_longest_unread_and_keeps_to_its_calls(world: World) -> None:
    override({"RELATIONS_AGE_SECONDS": "0", "ROTATION_CALLS": "8"})
    deals = [world.opportunity() for _ in range(12)]
    world.settle()
    seen: set[int] = set()
    for _ in range(2):
        calls = spent(world, lambda: relations.rotate(world.account))
        assert sum(calls.values()) <= 8
        seen |= {int(path.split("/")[-2]) for path in calls if path.endswith("/related")}
    assert seen == set(deals)
    override({"RELATIONS_AGE_SECONDS": "", "ROTATION_CALLS": ""})
    assert relations.rotate(world.account) == 0, "what was read lately is left alone"


@pytest.mark.timeout(90)
def test_a_record_that_somebody_reads_is_refreshed_in_the_background(world: World, processes: Processes) -> None:
    override({"RELATIONS_AGE_SECONDS": "0"})
    processes += [patina("worker")]
    company = world.company()
    ann, deal = world.person("ann@acme.test"), world.opportunity()
    invoice = world.invoice("ann@acme.test")
    world.settle()
    world.copper_act("relate", type="person", id=ann, to_type="company", to_id=company)
    world.copper_act("relate", type="opportunity", id=deal, to_type="company", to_id=company)

    assert world.shown("companies", company) == [], "the read itself never waits"
    wait_until(lambda: world.shown("companies", company) == [invoice.number], what="the refreshed company")
    wait_until(lambda: world.shown("opportunities", deal) == [invoice.number], what="the refreshed opportunity")
    override({"RELATIONS_AGE_SECONDS": ""})
    world.check()


# Created dates


def test_history_gives_the_newest_invoices_their_true_created_date(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Acme", "ann@acme.test")
    deafen(world)
    world.invoice(contact, issued="2020-01-05")
    new = world.invoice(contact)
    world.catch_up()
    assert {row["created_at_source"] for row in world.rows("people", ann)} == {"issue_date"}
    with transaction() as session:
        organisation = session.execute(text("SELECT id FROM xero_organisation")).scalar_one()

    assert history.look_up(world.account, organisation) == 1
    sources = {row["id"]: row["created_at_source"] for row in world.rows("people", ann)}
    assert sources.pop(new.id) == "history"
    assert set(sources.values()) == {"issue_date"}, "an old invoice is not worth a call"
    assert history.look_up(world.account, organisation) == 0
    world.check()


def test_history_waits_when_no_budget_is_to_spare(world: World) -> None:
    deafen(world)
    for _ in range(6):
        world.invoice("ann@acme.test")
    world.catch_up()
    with transaction() as session:
        organisation = session.execute(text("SELECT id FROM xero_organisation")).scalar_one()
        spent_today = session.execute(text("SELECT sum(calls) FROM call_meter WHERE organisation_id > 0")).scalar_one()
    override({"XERO_DAY_LIMIT": str(2 * (spent_today + 2))})
    assert history.look_up(world.account, organisation) == 2


def test_rows_that_a_dry_run_has_seen_are_not_looked_at_again(small: World) -> None:
    what = Unseen(run=-1, since=small.runs()[0].started_at, limit=10)
    with transaction() as session:
        assert due.unseen_records(session, small.account, RecordType.LEAD, what, 0) == []
    calls = spent(small, lambda: small.reconcile(dry=True))
    assert not [path for path in calls if path.startswith("GET") and "/leads/" in path]
