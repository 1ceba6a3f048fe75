"""A working credential that does not open everything: what it lacks is named, everything else goes on."""

from __future__ import annotations

from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from sqlalchemy import text

from runtime.settings import override, settings
from store import accounts, inbox, mirror, refusals
from store.database import transaction
from store.models import RecordType
from store.runs import Run
from terminal import doctor
from terminal.words import problem
from tests.test_grants import wrong
from tests.test_pages import sign_in
from tests.test_project import patina
from tests.world import World
from worker import overview, relations, sync
from worker.budget import Purpose
from worker.copper.client import connected
from worker.errors import EndpointRefusedError, ReconnectNeededError
from worker.steps import Kind
from worker.xero import client as xero
from worker.xero import scopes

WITHOUT_INVOICES = "offline_access accounting.contacts.read accounting.settings.read"
INVOICES = "accounting.invoices.read"
LACKING = (
    f"Acme Sales Ltd 1 lacks the permission {INVOICES}, so its invoices aren't updated:"
    " reconnect Xero with `patina connect` and allow it"
)


def authorise(world: World, granted: str | None = None) -> None:
    """Connect Xero anew by an authorisation with these scopes (None: all that are needed)."""
    asked = settings().xero_scopes
    override({"XERO_SCOPES": granted or asked})
    world.authorise(world.tenants)
    override({"XERO_SCOPES": asked})


def run_sql(statement: str) -> None:
    with transaction() as session:
        session.execute(text(statement))


def let_time_pass_since_the_refusal() -> None:
    run_sql("UPDATE refused_endpoint SET refused_at = refused_at - interval '2 days'")


def notes(world: World) -> tuple[str, ...]:
    findings = next(account.notes for account in overview.everything() if account.id == world.account)
    return tuple(problem(finding) for finding in findings)


def work_off(world: World) -> list[Run]:
    """Take the steps of all runs that are under way."""
    for run in world.runs():
        while run.state == "running" and sync.step(run.account_id, run.id).more:
            pass
    return world.runs()


def quarantined(world: World) -> int:
    with transaction() as session:
        return inbox.quarantined_count(session, world.account)


def contact_names(world: World) -> set[str]:
    with transaction() as session:
        return set(session.execute(text("SELECT name FROM xero_contact")).scalars())


# Xero


def test_events_of_what_is_not_permitted_wait_while_everything_else_goes_on(unconnected: World) -> None:
    override({"EVENT_ATTEMPTS": "2"})
    world = unconnected.open(organisations=2)
    person = world.person("ann@acme.test")
    contacts = [world.contact("Ann", "ann@acme.test", organisation=number) for number in (0, 1)]
    world.settle()
    other = world.tenants.pop()
    authorise(world, WITHOUT_INVOICES)
    world.tenants.append(other)
    run_sql("DELETE FROM refused_endpoint")

    waiting, shown = world.invoice(contacts[0]), world.invoice(contacts[1])
    world.sandbox.act("change_contact", contact=contacts[0], name="Ann Renamed")
    for _ in range(4):
        world.settle_without_end()
        run_sql("UPDATE inbox SET not_before = now() WHERE state = 'pending'")

    assert world.shown("people", person) == [shown.number]
    assert "Ann Renamed" in contact_names(world)
    assert quarantined(world) == 0
    assert wrong(world) == (LACKING,)
    calls = world.sandbox.calls("/Invoices")
    world.settle_without_end()
    assert world.sandbox.calls("/Invoices") == calls, "nobody asks again and again for what is refused"

    authorise(world)
    work_off(world)
    world.settle()
    assert sorted(world.shown("people", person)) == sorted([waiting.number, shown.number])
    assert wrong(world) == ()
    world.check()


def test_a_catch_up_reads_contacts_although_invoices_are_not_permitted(world: World) -> None:
    contact = world.contact("Ann", "ann@acme.test")
    person = world.person("ann@acme.test")
    world.settle()
    authorise(world, WITHOUT_INVOICES)
    run_sql("DELETE FROM refused_endpoint")
    world.sandbox.faults(webhooks=[{"vendor": "xero", "lose": 1.0}])
    world.sandbox.act("change_contact", contact=contact, name="Ann Renamed")
    missed = world.invoice(contact)

    world.catch_up()
    assert "Ann Renamed" in contact_names(world)
    assert wrong(world) == (LACKING,)
    authorise(world)
    work_off(world)
    assert world.shown("people", person) == [missed.number]


def test_a_permission_that_comes_back_by_itself_is_noticed_and_made_up_for(world: World) -> None:
    person, contact = world.person("ann@acme.test"), world.contact("Ann", "ann@acme.test")
    world.settle()
    with transaction() as session:
        organisation = accounts.organisations(session, world.account)[0]
        refusals.record(session, world.account, organisation.id, "Invoices")
    world.sandbox.faults(webhooks=[{"vendor": "xero", "lose": 1.0}])
    missed = world.invoice(contact)
    world.catch_up()
    assert world.shown("people", person) == []
    assert wrong(world) == (LACKING,)

    let_time_pass_since_the_refusal()
    world.catch_up()
    assert world.shown("people", person) == [missed.number]
    assert wrong(world) == ()


def test_an_account_that_was_connected_without_a_permission_hears_of_it_at_once_and_fills_later(
    unconnected: World,
) -> None:
    world = unconnected
    override({"XERO_SCOPES": WITHOUT_INVOICES})
    world.open()
    contact = world.contact("Ann", "ann@acme.test")
    invoice = world.invoice(contact)
    world.settle_without_end()
    assert world.sandbox.calls("/Invoices") == 0, "what was granted is known from the token answer"
    (missing,) = next(one.missing for one in overview.everything()[0].sources if one.organisation_id)
    assert missing == INVOICES
    assert wrong(world)[0].startswith("Acme Sales Ltd 1 lacks the permission")
    world.run(Kind.BACKFILL)
    world.catch_up()
    assert contact_names(world) == {"Ann"}

    override({"XERO_SCOPES": f"{WITHOUT_INVOICES} {INVOICES}"})
    world.authorise(world.tenants)
    work_off(world)
    with transaction() as session:
        assert mirror.count(session, world.account)[1] == 1
        assert accounts.organisations(session, world.account)[0].invoices_seen_to is not None
    world.person("ann@acme.test")
    world.settle()
    assert invoice.number
    world.check()


def test_status_and_doctor_and_the_settings_name_the_permission_and_the_way_to_it(world: World) -> None:
    authorise(world, WITHOUT_INVOICES)
    told = patina("status")
    assert (told.returncode, "All well" in told.stdout) == (1, False)
    assert INVOICES in " ".join(told.stdout.split())
    run_sql("DELETE FROM refused_endpoint")

    finding = next(one for one in doctor.examine() if one.what.endswith("Acme Sales Ltd 1"))
    assert (finding.well, finding.said) == (False, f"the permission {INVOICES} is missing")
    assert finding.todo == f"Reconnect Xero and allow {INVOICES}."

    admin = sign_in(world)
    for path in ("/settings", "/status"):
        page = admin.open(path).text
        assert f"Permission missing: {INVOICES}" in page
        assert "All well" not in page
        assert 'href="/connect/xero"' in page


@pytest.mark.parametrize("broad", ["accounting.transactions.read", "accounting.transactions", "accounting.invoices"])
def test_any_scope_that_opens_invoices_will_do(broad: str) -> None:
    assert scopes.missing([*WITHOUT_INVOICES.split(), broad]) == ()
    assert scopes.missing(WITHOUT_INVOICES.split()) == ("Invoices",)
    assert scopes.missing(None) == (), "what is not known is not missing"


@pytest.mark.parametrize(
    "token", ["opaque", "", "a.b.c", "a.bnVsbA.c", "a.W10.c", f"a.{'W' * 30_000}.c", "a.eyJzdWIiOiAxfQ.c", "é.é.é"]
)
def test_a_token_that_is_no_readable_jwt_says_nothing(token: str) -> None:
    found = scopes.identity({"access_token": token, "scope": "a b"})
    assert (found.user_id, found.auth_event_id, found.scopes) == (None, None, ("a", "b"))


def test_changes_are_asked_for_since_a_moment_with_its_zone(world: World) -> None:
    asked: list[str | None] = []

    class Recorder(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["If-Modified-Since"])
            self.send_response(304)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Recorder) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with transaction() as session:
            organisation = accounts.organisations(session, world.account)[0]
        override({"XERO_API_URL": f"http://127.0.0.1:{server.server_port}"})
        xero.XeroClient(organisation, Purpose.EVENTS).invoices(1, since=datetime(2026, 11, 25, 8, 18, 3, 9, tzinfo=UTC))
        server.shutdown()
    assert asked == ["2026-11-25T08:18:03Z"]


# Copper


def refuse(world: World, *paths: str, status: int = 401) -> None:
    world.sandbox.faults(api=[{"vendor": "copper", "kind": "status", "status": status, "path": one} for one in paths])


@pytest.mark.parametrize("status", [401, 403, 404])
def test_leads_that_are_not_in_the_plan_are_left_out_and_the_rest_goes_on(world: World, status: int) -> None:
    person, lead = world.person("ann@acme.test"), world.lead("lee@acme.test")
    invoice, of_lead = world.invoice("new@acme.test"), world.invoice("moved@acme.test")
    world.settle()
    refuse(world, "/leads/search", status=status)
    world.copper_act("change_record", type="lead", id=lead, emails=["moved@acme.test"])
    world.copper_act("change_record", type="person", id=person, emails=["new@acme.test"])
    world.settle_without_end()
    world.catch_up()
    assert world.reconcile() == {}

    assert world.shown("people", person) == [invoice.number]
    assert wrong(world) == ()
    (note,) = notes(world)
    assert note.startswith("Copper refuses leads to this API key")
    assert f"Note: {note}" in " ".join(patina("status").stdout.split())
    assert quarantined(world) == 0
    calls = world.sandbox.calls("/leads/search")
    world.catch_up()
    assert world.sandbox.calls("/leads/search") == calls

    world.sandbox.faults()
    let_time_pass_since_the_refusal()
    run_sql("DELETE FROM inbox WHERE state = 'pending'")
    world.catch_up()
    assert world.shown("leads", lead) == [of_lead.number], "all leads are read again"
    assert notes(world) == ()
    world.check()


def test_opportunities_that_are_refused_end_no_run_and_are_something_wrong(world: World) -> None:
    world.settle()
    refuse(world, "/opportunities/search")
    with transaction() as session:
        before = accounts.copper_state(session, world.account)
    world.sandbox.control("PUT", "clock", json={"ahead": 3_600})
    world.catch_up()
    with transaction() as session:
        after = accounts.copper_state(session, world.account)
    assert wrong(world)[0].startswith("Copper refuses opportunities to this API key")
    assert before is not None
    assert after is not None
    assert before.records_seen_to is not None
    assert after.records_seen_to is not None
    assert after.records_seen_to > before.records_seen_to, "the next catch-up does not begin at the same place"
    assert not after.lost


def test_relations_that_are_refused_leave_people_and_records_alone(world: World) -> None:
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    deal = world.opportunity(person=person)
    invoice = world.invoice("ann@acme.test")
    refuse(world, "/related")
    world.settle()
    relations.rotate(world.account)
    world.run(Kind.BACKFILL)
    assert world.shown("opportunities", deal) == [invoice.number]
    assert wrong(world)[0].startswith("Copper refuses opportunities/related to this API key")
    assert quarantined(world) == 0


def test_a_key_that_copper_refuses_everywhere_is_dead_after_one_question(world: World) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    refuse(world, "/copper/")
    asked = world.sandbox.calls("/users/me")
    world.copper_act("change_record", type="person", id=person, emails=["new@acme.test"])
    world.settle_without_end()
    with pytest.raises(ReconnectNeededError):
        connected(world.account, Purpose.EVENTS)
    assert world.sandbox.calls("/users/me") == asked + 1
    assert wrong(world) == ("Copper rejected the API key: run `patina connect` with a new one",)


def test_teams_that_are_refused_leave_the_settings_usable(world: World) -> None:
    admin = sign_in(world)
    refuse(world, "/users/search")
    page = admin.open("/settings")
    assert page.status_code == 200
    assert "load teams from Copper" in page.text
    assert wrong(world) == ()
    world.sandbox.faults()
    let_time_pass_since_the_refusal()
    assert "load teams from Copper" not in admin.open("/settings").text
    assert notes(world) == ()


def test_an_account_whose_plan_has_no_webhooks_is_connected_and_says_what_it_lacks(unconnected: World) -> None:
    unconnected.sandbox.faults(api=[{"vendor": "copper", "kind": "status", "status": 403, "path": "/webhooks"}])
    world = unconnected.open()
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    world.catch_up()
    assert world.shown("people", person) == [invoice.number]
    assert wrong(world)[0].startswith("Copper refuses webhooks to this API key")


def test_one_record_that_the_key_may_not_see_says_nothing_of_its_type(world: World) -> None:
    ann, bob = world.person("ann@acme.test"), world.person("bob@acme.test")
    world.settle()
    world.copper_act("delete_record", type="person", id=ann)
    refuse(world, f"/people/{ann}", status=403)
    client = connected(world.account, Purpose.EVENTS)
    found = client.records(RecordType.PERSON, [ann, bob])
    assert [one.id for one in found.items] == [bob]
    assert (found.gone, list(found.unreadable)) == ([], [str(ann)])
    assert (wrong(world), notes(world)) == ((), ())


@pytest.mark.parametrize("kind", ["refuse", "ignore"])
def test_what_changed_is_found_when_copper_refuses_or_ignores_the_filter_for_it(world: World, kind: str) -> None:
    people = [world.person(f"p{number}@acme.test") for number in range(450)]
    invoice = world.invoice("new@acme.test")
    world.settle()
    world.pass_time()
    world.catch_up()
    filters = [{"plural": "people", "filter": "minimum_modified_date", "kind": kind}]
    world.sandbox.faults(filters=filters, webhooks=[{"vendor": "copper", "lose": 1.0}])
    world.pass_time(5)
    changed = [people[3], people[-1], *people[100:330]]
    for one in changed:
        world.copper_act("change_record", type="person", id=one, name="touched")
    world.copper_act("change_record", type="person", id=people[3], emails=["new@acme.test"])
    before = world.sandbox.calls("/people/search")

    world.catch_up()
    assert world.shown("people", people[3]) == [invoice.number]
    assert world.sandbox.calls("/people/search") - before == 3, "one that is refused, two pages of what changed"
    with transaction() as session:
        touched = session.execute(text("SELECT count(*) FROM crm_record WHERE name = 'touched'")).scalar_one()
    assert touched == len(set(changed))

    before = world.sandbox.calls("/people/search")
    world.catch_up()
    assert world.sandbox.calls("/people/search") - before == 2, "the refusal is remembered"
    assert (wrong(world), notes(world)) == ((), ())


def test_a_reading_by_change_that_stops_in_the_middle_goes_on_where_it_was(world: World) -> None:
    people = [world.person(f"p{number}@acme.test") for number in range(410)]
    world.settle()
    world.pass_time()
    world.catch_up()
    filters = [{"plural": "people", "filter": "minimum_modified_date", "kind": "refuse"}]
    world.sandbox.faults(filters=filters, webhooks=[{"vendor": "copper", "lose": 1.0}])
    world.pass_time(5)
    for one in people:
        world.copper_act("change_record", type="person", id=one, name="touched")
    run = next(one for one in sync.begin(world.account, Kind.CATCH_UP) if not one.organisation_id)
    sync.step(world.account, run.id)
    assert world.runs([run.id])[0].cursor["by_change"] == 2
    world.sandbox.faults(
        api=[{"vendor": "copper", "kind": "status", "status": 503, "path": "/people", "times": 4}], filters=filters
    )
    sync.step(world.account, run.id)
    assert world.runs([run.id])[0].cursor["by_change"] == 2
    run_sql("UPDATE sync_run SET not_before = now()")
    work_off(world)
    with transaction() as session:
        touched = session.execute(text("SELECT count(*) FROM crm_record WHERE name = 'touched'")).scalar_one()
    assert touched == 410


def test_a_refused_endpoint_says_which(world: World) -> None:
    refuse(world, "/companies/search", status=403)
    with pytest.raises(EndpointRefusedError, match="refuses companies") as refused:
        connected(world.account, Purpose.EVENTS).records(RecordType.COMPANY, [1])
    assert refused.value.endpoint == "companies"
