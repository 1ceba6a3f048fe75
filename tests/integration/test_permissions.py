"""Credentials without some permissions: the missing permission is reported, and everything else continues."""

from __future__ import annotations

from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from sqlalchemy import text

from cli.checks import run_checks
from cli.findings import describe_problem
from runtime.settings import override_settings, settings
from services import account_status
from store.accounts import copper_credentials, refused_endpoints, xero_organisations
from store.db.database import transaction
from store.db.enums import RecordType, RunState
from store.ingest import inbox
from store.mirror import mirror
from store.sync.runs import Run
from tests.integration.test_reconnecting import findings_of
from tests.support.admin import sign_in
from tests.support.commands import patina
from tests.support.world import World
from worker.sync import relations, run_processor
from worker.vendors.copper.client import client_for_account
from worker.vendors.errors import AuthorizationLostError, EndpointRefusedError
from worker.vendors.rate_limit.budget import Priority
from worker.vendors.sync_types import RunKind
from worker.vendors.xero import client as xero
from worker.vendors.xero import scopes

WITHOUT_INVOICES = "offline_access accounting.contacts.read accounting.settings.read"
INVOICES = "accounting.invoices.read"
MISSING_PERMISSION = (
    f"Acme Sales Ltd 1 lacks the permission {INVOICES}, so its invoices aren't updated:"
    " reconnect Xero with `patina connect` and allow it"
)


def authorise(world: World, granted: str | None = None) -> None:
    """Connect Xero again with these scopes (None: all that are required)."""
    requested = settings().xero_scopes
    override_settings({"XERO_SCOPES": granted or requested})
    world.authorise(world.tenants)
    override_settings({"XERO_SCOPES": requested})


def run_sql(statement: str) -> None:
    with transaction() as session:
        session.execute(text(statement))


def let_time_pass_since_the_refusal() -> None:
    run_sql("UPDATE refused_endpoint SET refused_at = refused_at - interval '2 days'")


def notes(world: World) -> tuple[str, ...]:
    findings = next(account.optional_findings for account in account_status.list_all() if account.id == world.account)
    return tuple(describe_problem(finding) for finding in findings)


def work_off(world: World) -> list[Run]:
    """Execute the steps of all unfinished runs."""
    for run in world.runs():
        while run.state == RunState.RUNNING and run_processor.step(run.account_id, run.id).has_more:
            pass
    return world.runs()


def quarantined(world: World) -> int:
    with transaction() as session:
        return inbox.quarantined_count(session, world.account)


def contact_names(world: World) -> set[str]:
    with transaction() as session:
        return set(session.execute(text("SELECT name FROM xero_contact")).scalars())


# Xero


def test_events_without_permission_stay_pending_while_everything_else_continues(unconnected: World) -> None:
    override_settings({"EVENT_MAX_ATTEMPTS": "2"})
    world = unconnected.open(organisations=2)
    person = world.person("ann@acme.test")
    contacts = [world.contact("Ann", "ann@acme.test", organisation=number) for number in (0, 1)]
    world.settle()
    other_tenant = world.tenants.pop()
    authorise(world, WITHOUT_INVOICES)
    world.tenants.append(other_tenant)
    run_sql("DELETE FROM refused_endpoint")

    waiting, visible = world.invoice(contacts[0]), world.invoice(contacts[1])
    world.sandbox.simulate("update_contact", contact=contacts[0], name="Ann Renamed")
    for _ in range(4):
        world.settle_once()
        run_sql("UPDATE inbox SET not_before = now() WHERE state = 'pending'")

    assert world.invoice_numbers("people", person) == [visible.number]
    assert "Ann Renamed" in contact_names(world)
    assert quarantined(world) == 0
    assert findings_of(world) == (MISSING_PERMISSION,)
    calls = world.sandbox.calls("/Invoices")
    world.settle_once()
    assert world.sandbox.calls("/Invoices") == calls, "nobody asks again and again for what is refused"

    authorise(world)
    work_off(world)
    world.settle()
    assert sorted(world.invoice_numbers("people", person)) == sorted([waiting.number, visible.number])
    assert findings_of(world) == ()
    world.check()


def test_a_catch_up_reads_contacts_although_invoices_are_not_permitted(world: World) -> None:
    contact = world.contact("Ann", "ann@acme.test")
    person = world.person("ann@acme.test")
    world.settle()
    authorise(world, WITHOUT_INVOICES)
    run_sql("DELETE FROM refused_endpoint")
    world.sandbox.faults(webhooks=[{"vendor": "xero", "loss": 1.0}])
    world.sandbox.simulate("update_contact", contact=contact, name="Ann Renamed")
    missed = world.invoice(contact)

    world.catch_up()
    assert "Ann Renamed" in contact_names(world)
    assert findings_of(world) == (MISSING_PERMISSION.replace("invoices aren't", "invoices and credit notes aren't"),)
    authorise(world)
    work_off(world)
    assert world.invoice_numbers("people", person) == [missed.number]


def test_a_restored_permission_is_noticed_and_the_missed_changes_are_fetched(world: World) -> None:
    person, contact = world.person("ann@acme.test"), world.contact("Ann", "ann@acme.test")
    world.settle()
    with transaction() as session:
        organisation = xero_organisations.list_connected(session, world.account)[0]
        refused_endpoints.record(session, world.account, organisation.id, "Invoices")
    world.sandbox.faults(webhooks=[{"vendor": "xero", "loss": 1.0}])
    missed = world.invoice(contact)
    world.catch_up()
    assert world.invoice_numbers("people", person) == []
    assert findings_of(world) == (MISSING_PERMISSION,)

    let_time_pass_since_the_refusal()
    world.catch_up()
    assert world.invoice_numbers("people", person) == [missed.number]
    assert findings_of(world) == ()


def test_an_account_connected_without_a_permission_reports_it_and_is_completed_later(
    unconnected: World,
) -> None:
    world = unconnected
    override_settings({"XERO_SCOPES": WITHOUT_INVOICES})
    world.open()
    contact = world.contact("Ann", "ann@acme.test")
    invoice = world.invoice(contact)
    world.settle_once()
    assert world.sandbox.calls("/Invoices") == 0, "what was granted is known from the token answer"
    (missing,) = next(
        source.missing_scopes for source in account_status.list_all()[0].sources if source.organisation_id
    )
    assert missing == INVOICES
    assert findings_of(world)[0].startswith("Acme Sales Ltd 1 lacks the permission")
    world.run(RunKind.BACKFILL)
    world.catch_up()
    assert contact_names(world) == {"Ann"}

    override_settings({"XERO_SCOPES": f"{WITHOUT_INVOICES} {INVOICES}"})
    world.authorise(world.tenants)
    work_off(world)
    with transaction() as session:
        assert mirror.count_rows(session, world.account)[1] == 1
        assert xero_organisations.list_connected(session, world.account)[0].invoices_synced_through is not None
    world.person("ann@acme.test")
    world.settle()
    assert invoice.number
    world.check()


def test_status_doctor_and_settings_name_the_missing_permission_and_how_to_grant_it(world: World) -> None:
    authorise(world, WITHOUT_INVOICES)
    completed = patina("status")
    assert (completed.returncode, "All well" in completed.stdout) == (1, False)
    assert INVOICES in " ".join(completed.stdout.split())
    run_sql("DELETE FROM refused_endpoint")

    finding = next(result for result in run_checks() if result.name.endswith("Acme Sales Ltd 1"))
    assert (finding.ok, finding.detail) == (False, f"the permission {INVOICES} is missing")
    assert finding.hint == f"Reconnect Xero and allow {INVOICES}."

    admin = sign_in(world)
    for path in ("/settings", "/status"):
        page = admin.open(path).text
        assert f"Permission missing: {INVOICES}" in page
        assert "All well" not in page
        assert 'href="/connect/xero"' in page


@pytest.mark.parametrize("broad", ["accounting.transactions.read", "accounting.transactions", "accounting.invoices"])
def test_any_scope_that_includes_invoices_is_accepted(broad: str) -> None:
    assert scopes.missing_endpoints([*WITHOUT_INVOICES.split(), broad]) == ()
    assert scopes.missing_endpoints(WITHOUT_INVOICES.split()) == ("Invoices",)
    assert scopes.missing_endpoints(None) == (), "what is not known is not missing"


@pytest.mark.parametrize(
    "token", ["opaque", "", "a.b.c", "a.bnVsbA.c", "a.W10.c", f"a.{'W' * 30_000}.c", "a.eyJzdWIiOiAxfQ.c", "é.é.é"]
)
def test_a_token_that_is_not_a_jwt_yields_no_identity(token: str) -> None:
    identity = scopes.grant_identity({"access_token": token, "scope": "a b"})
    assert (identity.user_id, identity.auth_event_id, identity.scopes) == (None, None, ("a", "b"))


def test_if_modified_since_is_sent_with_a_time_zone(world: World) -> None:
    filters: list[str | None] = []

    class Recorder(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            filters.append(self.headers["If-Modified-Since"])
            self.send_response(304)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Recorder) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with transaction() as session:
            organisation = xero_organisations.list_connected(session, world.account)[0]
        override_settings({"XERO_API_URL": f"http://127.0.0.1:{server.server_port}"})
        xero.XeroClient(organisation, Priority.EVENTS).list_invoices(
            1, since=datetime(2026, 11, 25, 8, 18, 3, 9, tzinfo=UTC)
        )
        server.shutdown()
    assert filters == ["2026-11-25T08:18:03Z"]


# Copper


def refuse(world: World, *paths: str, status: int = 401) -> None:
    world.sandbox.faults(api=[{"vendor": "copper", "type": "status", "status": status, "path": path} for path in paths])


@pytest.mark.parametrize("status", [401, 403, 404])
def test_leads_that_are_not_in_the_plan_are_skipped_and_the_rest_continues(world: World, status: int) -> None:
    person, lead = world.person("ann@acme.test"), world.lead("lee@acme.test")
    invoice, of_lead = world.invoice("new@acme.test"), world.invoice("moved@acme.test")
    world.settle()
    refuse(world, "/leads/search", status=status)
    world.simulate_copper("update_record", type="lead", id=lead, emails=["moved@acme.test"])
    world.simulate_copper("update_record", type="person", id=person, emails=["new@acme.test"])
    world.settle_once()
    world.catch_up()
    assert world.reconcile() == {}

    assert world.invoice_numbers("people", person) == [invoice.number]
    assert findings_of(world) == ()
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
    assert world.invoice_numbers("leads", lead) == [of_lead.number], "all leads are read again"
    assert notes(world) == ()
    world.check()


def test_refused_opportunities_do_not_fail_the_run_and_make_the_account_unhealthy(world: World) -> None:
    world.settle()
    refuse(world, "/opportunities/search")
    with transaction() as session:
        before = copper_credentials.find_connection(session, world.account)
    world.sandbox.control("PUT", "clock", json={"offset_seconds": 3_600})
    world.catch_up()
    with transaction() as session:
        after = copper_credentials.find_connection(session, world.account)
    assert findings_of(world)[0].startswith("Copper refuses opportunities to this API key")
    assert before is not None
    assert after is not None
    assert before.records_synced_through is not None
    assert after.records_synced_through is not None
    assert after.records_synced_through > before.records_synced_through, (
        "the next catch-up does not begin at the same place"
    )
    assert not after.needs_reauth


def test_refused_relations_do_not_affect_people_and_records(world: World) -> None:
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    deal = world.opportunity(person=person)
    invoice = world.invoice("ann@acme.test")
    refuse(world, "/related")
    world.settle()
    relations.refresh_stale(world.account)
    world.run(RunKind.BACKFILL)
    assert world.invoice_numbers("opportunities", deal) == [invoice.number]
    assert findings_of(world)[0].startswith("Copper refuses opportunities/related to this API key")
    assert quarantined(world) == 0


def test_a_key_that_copper_refuses_everywhere_is_lost_after_one_check(world: World) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    refuse(world, "/copper/")
    calls_before = world.sandbox.calls("/users/me")
    world.simulate_copper("update_record", type="person", id=person, emails=["new@acme.test"])
    world.settle_once()
    with pytest.raises(AuthorizationLostError):
        client_for_account(world.account, Priority.EVENTS)
    assert world.sandbox.calls("/users/me") == calls_before + 1
    assert findings_of(world) == ("Copper rejected the API key: run `patina connect` with a new one",)


def test_refused_teams_leave_the_settings_usable(world: World) -> None:
    admin = sign_in(world)
    refuse(world, "/users/search")
    page = admin.open("/settings")
    assert page.status_code == 200
    assert "load teams from Copper" in page.text
    assert findings_of(world) == ()
    world.sandbox.faults()
    let_time_pass_since_the_refusal()
    assert "load teams from Copper" not in admin.open("/settings").text
    assert notes(world) == ()


def test_an_account_whose_plan_has_no_webhooks_is_connected_and_reports_it(unconnected: World) -> None:
    unconnected.sandbox.faults(api=[{"vendor": "copper", "type": "status", "status": 403, "path": "/webhooks"}])
    world = unconnected.open()
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    world.catch_up()
    assert world.invoice_numbers("people", person) == [invoice.number]
    assert findings_of(world)[0].startswith("Copper refuses webhooks to this API key")


def test_a_single_forbidden_record_does_not_mark_its_type_as_forbidden(world: World) -> None:
    ann, bob = world.person("ann@acme.test"), world.person("bob@acme.test")
    world.settle()
    world.simulate_copper("delete_record", type="person", id=ann)
    refuse(world, f"/people/{ann}", status=403)
    client = client_for_account(world.account, Priority.EVENTS)
    page = client.records_by_id(RecordType.PERSON, [ann, bob])
    assert [record.id for record in page.items] == [bob]
    assert (page.deleted_ids, list(page.unreadable)) == ([], [str(ann)])
    assert (findings_of(world), notes(world)) == ((), ())


@pytest.mark.parametrize("fault_type", ["refuse", "ignore"])
def test_changes_are_found_even_if_copper_refuses_or_ignores_the_date_filter(world: World, fault_type: str) -> None:
    people = [world.person(f"p{number}@acme.test") for number in range(450)]
    invoice = world.invoice("new@acme.test")
    world.settle()
    world.advance_clock()
    world.catch_up()
    filters = [{"plural": "people", "filter": "minimum_modified_date", "type": fault_type}]
    world.sandbox.faults(filters=filters, webhooks=[{"vendor": "copper", "loss": 1.0}])
    world.advance_clock(5)
    changed = [people[3], people[-1], *people[100:330]]
    for person_id in changed:
        world.simulate_copper("update_record", type="person", id=person_id, name="touched")
    world.simulate_copper("update_record", type="person", id=people[3], emails=["new@acme.test"])
    before = world.sandbox.calls("/people/search")

    world.catch_up()
    assert world.invoice_numbers("people", people[3]) == [invoice.number]
    assert world.sandbox.calls("/people/search") - before == 3, "one that is refused, two pages of what changed"
    with transaction() as session:
        touched = session.execute(text("SELECT count(*) FROM copper_record WHERE name = 'touched'")).scalar_one()
    assert touched == len(set(changed))

    before = world.sandbox.calls("/people/search")
    world.catch_up()
    assert world.sandbox.calls("/people/search") - before == 2, "the refusal is remembered"
    assert (findings_of(world), notes(world)) == ((), ())


def test_an_interrupted_listing_by_modification_date_resumes(world: World) -> None:
    people = [world.person(f"p{number}@acme.test") for number in range(410)]
    world.settle()
    world.advance_clock()
    world.catch_up()
    filters = [{"plural": "people", "filter": "minimum_modified_date", "type": "refuse"}]
    world.sandbox.faults(filters=filters, webhooks=[{"vendor": "copper", "loss": 1.0}])
    world.advance_clock(5)
    for person in people:
        world.simulate_copper("update_record", type="person", id=person, name="touched")
    run = next(
        run for run in run_processor.start_account_runs(world.account, RunKind.CATCH_UP) if not run.organisation_id
    )
    while "modified_page" not in world.runs([run.id])[0].cursor:
        run_processor.step(world.account, run.id)
    assert world.runs([run.id])[0].cursor["modified_page"] == 2
    world.sandbox.faults(
        api=[{"vendor": "copper", "type": "status", "status": 503, "path": "/people", "times": 4}], filters=filters
    )
    run_processor.step(world.account, run.id)
    assert world.runs([run.id])[0].cursor["modified_page"] == 2
    run_sql("UPDATE sync_run SET not_before = now()")
    work_off(world)
    with transaction() as session:
        touched = session.execute(text("SELECT count(*) FROM copper_record WHERE name = 'touched'")).scalar_one()
    assert touched == 410


def test_a_refused_endpoint_is_reported_by_name(world: World) -> None:
    refuse(world, "/companies/search", status=403)
    with pytest.raises(EndpointRefusedError, match="refuses companies") as refused:
        client_for_account(world.account, Priority.EVENTS).records_by_id(RecordType.COMPANY, [1])
    assert refused.value.endpoint == "companies"
