"""Manual links, balances, match details, unmatched contacts, latency, and quarantine."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import pytest
from sqlalchemy import text

from runtime.metrics import EVENT_LATENCY_BUCKETS
from store.accounts import accounts
from store.db.database import account_transaction, transaction
from store.db.enums import RecordType
from store.ingest import event_latency, inbox
from store.ingest.event_latency import HourlyLatency
from store.read_model import balances, contact_links, match_reports, projection, unmatched_contacts
from store.read_model.unmatched_contacts import ContactQuery
from tests.support.serving import wait_until
from tests.support.world import World
from worker.sync import projector


def balances_of(world: World, record_type: RecordType, record_id: int) -> list[tuple[str, str, str, int]]:
    with account_transaction(world.account) as session:
        rows = balances.list_for_record(session, world.account, record_type, record_id)
    return [(row.currency, f"{row.open:.2f}", f"{row.overdue:.2f}", row.overdue_invoices) for row in rows]


# Manual links


def test_a_contact_linked_to_a_person_reaches_company_and_opportunities(world: World) -> None:
    company = world.company()
    person, other_person = world.person("ann@acme.test", company=company), world.person("bob@acme.test")
    opportunity, direct = world.opportunity(company=company), world.opportunity(person=person)
    contact = world.contact("Acme accounts", "accounts@acme.test")
    invoice = world.invoice(contact)
    world.settle()
    assert world.invoice_numbers("people", person) == []

    world.link("person", person, contact)
    world.settle()
    for plural, record in (("people", person), ("companies", company)):
        assert world.invoice_numbers(plural, record) == [invoice.number]
    for record in (opportunity, direct):
        assert world.invoice_numbers("opportunities", record) == [invoice.number]
    assert world.invoice_numbers("people", other_person) == []
    world.check()

    world.unlink("person", person, contact)
    world.settle()
    assert world.invoice_numbers("people", person) == world.invoice_numbers("opportunities", opportunity) == []
    world.check()


def test_a_contact_linked_to_a_company_counts_as_one_of_its_people(world: World) -> None:
    company = world.company()
    opportunity, lead = world.opportunity(company=company), world.lead("x@x.test")
    contact = world.contact("Acme accounts")
    invoice = world.invoice(contact)
    world.settle()
    world.link("company", company, contact)
    world.link("lead", lead, contact)
    world.settle()
    assert (
        world.invoice_numbers("companies", company)
        == world.invoice_numbers("opportunities", opportunity)
        == [invoice.number]
    )
    assert world.invoice_numbers("leads", lead) == [invoice.number]
    world.check()


def test_an_opportunity_keeps_the_invoices_of_its_links_when_its_relations_change(world: World) -> None:
    opportunity, contact = world.opportunity(), world.contact("Acme accounts")
    invoice = world.invoice(contact)
    world.settle()
    world.link("opportunity", opportunity, contact)
    world.settle()
    assert world.invoice_numbers("opportunities", opportunity) == [invoice.number]
    world.relate(opportunity, "person", world.person("bob@acme.test"))
    world.settle()
    assert world.invoice_numbers("opportunities", opportunity) == [invoice.number]
    world.check()


@pytest.mark.parametrize("record_type", ["lead", "person", "company", "opportunity"])
def test_a_link_follows_its_record_and_its_contact(world: World, record_type: str) -> None:
    record = getattr(world, record_type)()
    other_record = world.opportunity(company=record) if record_type == "company" else world.opportunity()
    loser, winner = world.contact("Old"), world.contact("New", "new@acme.test")
    invoice = world.invoice(loser)
    world.settle()
    world.link(record_type, record, loser)
    world.settle()
    plural = RecordType(record_type).plural
    assert world.invoice_numbers(plural, record) == [invoice.number]

    world.sandbox.simulate("merge_contacts", source=loser, target=winner)
    world.links = {(record_type, record, winner)}
    world.settle()
    assert world.invoice_numbers(plural, record) == [invoice.number]
    world.check()
    world.reconcile()
    assert world.invoice_numbers(plural, record) == [invoice.number], "it survives reconciliation"

    world.simulate_copper("delete_record", type=record_type, id=record)
    world.settle()
    assert world.invoice_numbers(plural, record) == world.invoice_numbers("opportunities", other_record) == []
    world.check_rows()


def test_a_link_needs_an_existing_contact_and_an_existing_record(world: World) -> None:
    contact, person = world.contact("Acme"), world.person("ann@acme.test")
    world.settle()
    with pytest.raises(contact_links.LinkError, match="No person with ID 5"):
        world.link("person", 5, contact)
    with pytest.raises(contact_links.LinkError, match="contact isn't known"):
        world.link("person", person, "00000000-0000-4000-8000-000000000001")
    world.link("person", person, contact)
    world.link("person", person, contact)
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM contact_link")).scalar_one() == 1


# Balances


def test_balances_move_with_the_rows_and_never_mix_currencies(world: World) -> None:
    company = world.company()
    world.person("ann@acme.test", company=company)
    overdue = world.invoice("ann@acme.test", "100.00", due="2020-01-31")
    not_due = world.invoice("ann@acme.test", "50.00", due="2999-01-31")
    world.invoice("ann@acme.test", "7.00", currency="GBP", due="2020-01-31")
    world.invoice("ann@acme.test", "9.00", status="DRAFT")
    world.settle()
    assert balances_of(world, RecordType.COMPANY, company) == [
        ("GBP", "7.00", "7.00", 1),
        ("NZD", "150.00", "100.00", 1),
    ]
    world.sandbox.simulate("pay_invoice", invoice=overdue.id, amount="40.00")
    world.settle()
    assert balances_of(world, RecordType.COMPANY, company)[1] == ("NZD", "110.00", "60.00", 1)
    world.sandbox.simulate("pay_invoice", invoice=overdue.id, amount="60.00")
    world.settle()
    assert balances_of(world, RecordType.COMPANY, company)[1] == ("NZD", "50.00", "0.00", 0)
    world.check()
    world.sandbox.simulate("pay_invoice", invoice=not_due.id)
    world.settle()
    assert balances_of(world, RecordType.COMPANY, company) == [("GBP", "7.00", "7.00", 1)], "nothing owed has no row"
    world.check()


def test_a_new_day_makes_balances_overdue_without_any_event(world: World) -> None:
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "100.00", due="2020-01-31")
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE xero_organisation SET balances_as_of = '2020-01-31'"))
        session.execute(text("UPDATE record_balance SET overdue = 0, overdue_over_90 = 0, overdue_invoices = 0"))
        assert world.account in projection.accounts_pending(session), "the sweep finds it"
        assert projection.compare(session, world.account).marks == 1
    projector.project(world.account)
    assert balances_of(world, RecordType.PERSON, person) == [("NZD", "100.00", "100.00", 1)]
    assert world.compare().is_clean


def test_a_wrong_balance_is_detected_and_repaired(world: World) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE record_balance SET open = open + 1"))
    comparison = world.compare()
    assert (comparison.balances, comparison.missing, comparison.is_clean) == (1, 0, False)
    assert comparison.examples["balances"][0].endswith(", NZD")
    world.reconcile()
    assert world.compare().is_clean


# Match details


def test_every_path_from_a_record_to_its_contacts_is_explained(world: World) -> None:
    company = world.company()
    person = world.person("ann@acme.test", "old@acme.test", company=company)
    deal = world.opportunity(company=company)
    contact = world.contact("Acme", "ann@acme.test")
    invoice = world.invoice(contact)
    linked = world.contact("By hand")
    world.settle()
    world.link("company", company, linked)
    with account_transaction(world.account) as session:
        reasons = match_reports.list_reasons(session, world.account, RecordType.OPPORTUNITY, deal)
        facts = {
            (reason.record_type, reason.record_id, reason.email, reason.contact_name, reason.linked_by)
            for reason in reasons
        }
        assert facts == {
            ("company", company, None, "By hand", "Ada Admin"),
            ("person", person, "ann@acme.test", "Acme", None),
            ("person", person, "old@acme.test", None, None),
        }
        assert {reason.company_id for reason in reasons} == {company}
        response = match_reports.explain_invoice(session, world.account, RecordType.OPPORTUNITY, deal, UUID(invoice.id))
        assert response is not None
        assert response[0] == invoice.number
        assert [reason.email for reason in response[1]] == ["ann@acme.test"]
        assert match_reports.explain_invoice(session, world.account, RecordType.LEAD, 1, UUID(invoice.id)) is None
        path = response[1][0]
        assert path.organisation_id
        assert path.contact_id
        matched = (path.organisation_id, path.contact_id)
        brings = match_reports.list_contact_invoices(session, world.account, RecordType.OPPORTUNITY, [matched])
        assert [bring.number for bring in brings] == [invoice.number]


def test_near_matches_differ_by_one_edit_or_share_the_domain(world: World) -> None:
    world.person("ann@acme.test")
    typo, colleague = world.contact("Typo", "an@acme.test"), world.contact("Colleague", "zoe@acme.test")
    world.contact("Public", "bea@gmail.com")
    world.contact("Stranger", "ann@other.test")
    swapped = world.contact("Swapped", "ann@amce.test")
    matched = world.contact("Matched", "ann@acme.test")
    world.settle()
    with account_transaction(world.account) as session:
        organisation_id = session.execute(text("SELECT id FROM xero_organisation")).scalar_one()
        matches = match_reports.find_near_matches(
            session, world.account, ["ann@acme.test", "bob@gmail.com"], [(organisation_id, UUID(matched))]
        )
    facts = [(str(match.contact_id), match.is_one_edit_away) for match in matches]
    assert facts == [(swapped, True), (typo, True), (colleague, False)]


def test_unmatched_contacts_are_listed_until_they_are_linked(world: World) -> None:
    lead, empty, company = world.lead("lee@acme.test"), world.person(), world.company()
    world.person("ann@acme.test", company=company)
    world.invoice("ann@acme.test")
    stray = world.contact("Stray", "stray@else.test")
    world.invoice(stray, "500.00", due="2020-01-31")
    world.invoice(world.contact("Small"), "5.00")
    world.settle()

    def unmatched() -> tuple[list[str], list[tuple[str, int, bool]]]:
        with account_transaction(world.account) as session:
            people = unmatched_contacts.list_page(session, world.account, ContactQuery()).contacts
            records = match_reports.list_unmatched_records(session, world.account, None, 10)
        return [record.name for record in people], [
            (record.record_type, record.record_id, record.has_address) for record in records
        ]

    assert unmatched() == (["Stray", "Small"], [("lead", lead, True), ("person", empty, False)])
    world.link("lead", lead, stray)
    assert unmatched() == (["Small"], [("person", empty, False)])


# Latency


def test_latency_is_recorded_by_hour_and_reported_as_quantiles(world: World) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    with account_transaction(world.account) as session:
        hours = event_latency.latency_since(session, world.account, 24)
    assert sum(hour.events for hour in hours) >= 3
    latency = event_latency.quantile(hours, 0.5)
    assert latency is not None
    assert 0 < latency < 60
    assert event_latency.quantile([], 0.5) is None
    hour = HourlyLatency(hours[0].hour, {0: 50, len(EVENT_LATENCY_BUCKETS): 50})
    assert event_latency.quantile([hour], 0.25) == pytest.approx(0.025)
    assert event_latency.quantile([hour], 0.99) == EVENT_LATENCY_BUCKETS[-1], (
        "what is beyond the last bound counts as it"
    )


# Quarantine


def test_latency_includes_the_oldest_pending_event(world: World) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    world.invoice("ann@acme.test")
    wait_until(lambda: waiting_since() is not None, description="the second invoice's event")
    projector.project(world.account)
    with transaction() as session:
        synced_at = accounts.get_synced_at(session, world.account)
    received_at = waiting_since()
    assert synced_at is not None
    assert received_at is not None
    assert synced_at <= received_at


def test_a_catch_up_that_fetches_nothing_brings_the_rows_up_to_date_unless_marks_are_pending(world: World) -> None:
    an_hour_ago = "UPDATE account SET synced_at = now() - interval '1 hour'"
    is_current = text("SELECT synced_at > now() - interval '1 minute' FROM account WHERE id = :account")
    with transaction() as session:
        session.execute(text(an_hour_ago))
    world.catch_up()
    with transaction() as session:
        assert session.execute(is_current, {"account": world.account}).scalar_one()
        session.execute(text(an_hour_ago))
        session.execute(
            text("INSERT INTO projection_queue (account_id, entity_type, record_id) VALUES (:account, 'company', 1)"),
            {"account": world.account},
        )
    world.catch_up()
    with transaction() as session:
        assert not session.execute(is_current, {"account": world.account}).scalar_one()
    projector.project(world.account)
    with transaction() as session:
        assert session.execute(is_current, {"account": world.account}).scalar_one()


def waiting_since() -> datetime | None:
    with transaction() as session:
        at: datetime | None = session.execute(
            text("SELECT min(received_at) FROM inbox WHERE state = 'pending'")
        ).scalar_one()
    return at


def test_a_quarantined_event_is_replayed_or_dismissed(world: World) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    with transaction() as session:
        session.execute(
            text("UPDATE inbox SET state = 'failed', error = 'always', attempts = 9 WHERE category = 'person'")
        )
        session.execute(text("DELETE FROM copper_record_email"))
    with account_transaction(world.account) as session:
        (event,) = inbox.list_quarantined(session, world.account, 10)
        assert (event.resource_id, event.error, event.is_replayable) == (str(person), "always", True)
        assert inbox.replay(session, world.account, [event.id + 1])[0] == 0
        assert inbox.replay(session, world.account, [event.id])[0] == 1
    world.settle()
    with account_transaction(world.account) as session:
        assert session.execute(text("SELECT count(*) FROM copper_record_email")).scalar_one() == 1
        session.execute(text("UPDATE inbox SET state = 'failed' WHERE category = 'person'"))
        assert inbox.dismiss(session, world.account, None) == 1
        assert inbox.list_quarantined(session, world.account, 10) == []
