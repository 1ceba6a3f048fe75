"""What an admin is told: why an invoice is here, what matches nobody, who owes; links by hand; freshness."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import text

from store import accounts, balances, freshness, inbox, links, matching, projection
from store.database import bound, transaction
from store.freshness import BOUNDS, Hour
from store.models import RecordType
from tests.serving import wait_until
from tests.world import World
from worker import projecting


def balances_of(world: World, kind: RecordType, record_id: int) -> list[tuple[str, str, str, int]]:
    with bound(world.account) as session:
        found = balances.of_record(session, world.account, kind, record_id)
    return [(one.currency, f"{one.open:.2f}", f"{one.overdue:.2f}", one.overdue_invoices) for one in found]


# Links by hand


def test_a_contact_linked_to_a_person_reaches_company_and_opportunities(world: World) -> None:
    company = world.company()
    person, other = world.person("ann@acme.test", company=company), world.person("bob@acme.test")
    opportunity, direct = world.opportunity(company=company), world.opportunity(person=person)
    contact = world.contact("Acme accounts", "accounts@acme.test")
    invoice = world.invoice(contact)
    world.settle()
    assert world.shown("people", person) == []

    world.link("person", person, contact)
    world.settle()
    for plural, record in (("people", person), ("companies", company)):
        assert world.shown(plural, record) == [invoice.number]
    for record in (opportunity, direct):
        assert world.shown("opportunities", record) == [invoice.number]
    assert world.shown("people", other) == []
    world.check()

    world.unlink("person", person, contact)
    world.settle()
    assert world.shown("people", person) == world.shown("opportunities", opportunity) == []
    world.check()


def test_a_contact_linked_to_a_company_is_as_an_address_of_one_of_its_people(world: World) -> None:
    company = world.company()
    opportunity, lead = world.opportunity(company=company), world.lead("x@x.test")
    contact = world.contact("Acme accounts")
    invoice = world.invoice(contact)
    world.settle()
    world.link("company", company, contact)
    world.link("lead", lead, contact)
    world.settle()
    assert world.shown("companies", company) == world.shown("opportunities", opportunity) == [invoice.number]
    assert world.shown("leads", lead) == [invoice.number]
    world.check()


@pytest.mark.parametrize("kind", ["lead", "person", "company"])
def test_a_link_follows_its_record_and_its_contact(world: World, kind: str) -> None:
    record = getattr(world, kind)()
    other = world.opportunity(company=record) if kind == "company" else world.opportunity()
    loser, winner = world.contact("Old"), world.contact("New", "new@acme.test")
    invoice = world.invoice(loser)
    world.settle()
    world.link(kind, record, loser)
    world.settle()
    plural = RecordType(kind).plural
    assert world.shown(plural, record) == [invoice.number]

    world.sandbox.act("merge_contacts", loser=loser, winner=winner)
    world.links = {(kind, record, winner)}
    world.settle()
    assert world.shown(plural, record) == [invoice.number]
    world.check()
    world.reconcile()
    assert world.shown(plural, record) == [invoice.number], "it survives reconciliation"

    world.copper_act("delete_record", type=kind, id=record)
    world.settle()
    assert world.shown(plural, record) == world.shown("opportunities", other) == []
    world.check_rows()


def test_a_link_needs_both_ends_and_no_opportunity(world: World) -> None:
    contact, person, deal = world.contact("Acme"), world.person("ann@acme.test"), world.opportunity()
    world.settle()
    with pytest.raises(links.LinkError, match="opportunity shows those of its people"):
        world.link("opportunity", deal, contact)
    with pytest.raises(links.LinkError, match="No person with ID 5"):
        world.link("person", 5, contact)
    with pytest.raises(links.LinkError, match="contact isn't known"):
        world.link("person", person, "00000000-0000-4000-8000-000000000001")
    world.link("person", person, contact)
    world.link("person", person, contact)
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM contact_link")).scalar_one() == 1


# Balances


def test_balances_move_with_the_rows_and_never_mix_currencies(world: World) -> None:
    company = world.company()
    world.person("ann@acme.test", company=company)
    late = world.invoice("ann@acme.test", "100.00", due="2020-01-31")
    other = world.invoice("ann@acme.test", "50.00", due="2999-01-31")
    world.invoice("ann@acme.test", "7.00", currency="GBP", due="2020-01-31")
    world.invoice("ann@acme.test", "9.00", status="DRAFT")
    world.settle()
    assert balances_of(world, RecordType.COMPANY, company) == [
        ("GBP", "7.00", "7.00", 1),
        ("NZD", "150.00", "100.00", 1),
    ]
    world.sandbox.act("pay_invoice", invoice=late.id, amount="40.00")
    world.settle()
    assert balances_of(world, RecordType.COMPANY, company)[1] == ("NZD", "110.00", "60.00", 1)
    world.sandbox.act("pay_invoice", invoice=late.id, amount="60.00")
    world.settle()
    assert balances_of(world, RecordType.COMPANY, company)[1] == ("NZD", "50.00", "0.00", 0)
    world.check()
    world.sandbox.act("pay_invoice", invoice=other.id)
    world.settle()
    assert balances_of(world, RecordType.COMPANY, company) == [("GBP", "7.00", "7.00", 1)], "nothing owed has no row"
    world.check()


def test_a_new_day_makes_what_was_due_overdue_without_any_event(world: World) -> None:
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "100.00", due="2020-01-31")
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE xero_organisation SET balances_on = '2020-01-31'"))
        session.execute(text("UPDATE record_balance SET overdue = 0, overdue_invoices = 0"))
        assert world.account in projection.waiting(session), "the sweep finds it"
        assert projection.compare(session, world.account).marks == 1
    projecting.project(world.account)
    assert balances_of(world, RecordType.PERSON, person) == [("NZD", "100.00", "100.00", 1)]
    assert world.compare().clean


def test_a_balance_that_went_wrong_is_seen_and_healed(world: World) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE record_balance SET open = open + 1"))
    found = world.compare()
    assert (found.balances, found.missing, found.clean) == (1, 0, False)
    assert found.examples["balances"][0].endswith(", NZD")
    world.reconcile()
    assert world.compare().clean


def test_records_are_ranked_by_what_they_owe_page_by_page(world: World) -> None:
    for number in range(7):
        world.person(f"p{number}@acme.test")
        world.invoice(f"p{number}@acme.test", f"{100 + number}.00", due="2020-01-31" if number < 3 else "2999-01-01")
    world.settle()
    with bound(world.account) as session:
        assert balances.currencies(session, world.account, RecordType.PERSON) == ["NZD"]

        def page(sort: balances.Sort, after: balances.Place | None) -> list[balances.RankedRecord]:
            chosen = {"currency": "NZD", "sort": sort, "after": after, "limit": 4}
            return list(balances.ranked(session, world.account, RecordType.PERSON, **chosen))  # type: ignore[arg-type]

        first = page("open", None)
        rest = page("open", balances.Place(first[-1].open, first[-1].record_id))
        assert [one.open for one in first + rest] == [Decimal(106 - number) for number in range(7)]
        late = page("overdue", None)
        assert [int(one.overdue) for one in late] == [102, 101, 100, 0]
        assert first[0].name == "A person"


# Why


def test_every_way_from_a_record_to_its_contacts_is_told(world: World) -> None:
    company = world.company()
    person = world.person("ann@acme.test", "old@acme.test", company=company)
    deal = world.opportunity(company=company)
    contact = world.contact("Acme", "ann@acme.test")
    invoice = world.invoice(contact)
    linked = world.contact("By hand")
    world.settle()
    world.link("company", company, linked)
    with bound(world.account) as session:
        found = matching.reasons(session, world.account, RecordType.OPPORTUNITY, deal)
        told = {(one.record_type, one.record_id, one.email, one.contact_name, one.linked_by) for one in found}
        assert told == {
            ("company", company, None, "By hand", "Ada Admin"),
            ("person", person, "ann@acme.test", "Acme", None),
            ("person", person, "old@acme.test", None, None),
        }
        assert {one.company_id for one in found} == {company}
        answer = matching.why(session, world.account, RecordType.OPPORTUNITY, deal, UUID(invoice.id))
        assert answer is not None
        assert answer[0] == invoice.number
        assert [one.email for one in answer[1]] == ["ann@acme.test"]
        assert matching.why(session, world.account, RecordType.LEAD, 1, UUID(invoice.id)) is None
        way = answer[1][0]
        assert way.organisation_id
        assert way.contact_id
        brings = matching.invoices_of(session, world.account, [(way.organisation_id, way.contact_id)])
        assert [one.number for one in brings] == [invoice.number]


def test_near_misses_are_one_character_off_or_at_the_same_domain(world: World) -> None:
    world.person("ann@acme.test")
    typo, colleague = world.contact("Typo", "an@acme.test"), world.contact("Colleague", "zoe@acme.test")
    world.contact("Public", "bea@gmail.com")
    world.contact("Stranger", "ann@other.test")
    swapped = world.contact("Swapped", "ann@amce.test")
    matched = world.contact("Matched", "ann@acme.test")
    world.settle()
    with bound(world.account) as session:
        place = session.execute(text("SELECT id FROM xero_organisation")).scalar_one()
        found = matching.near_misses(
            session, world.account, ["ann@acme.test", "bob@gmail.com"], [(place, UUID(matched))]
        )
    told = [(str(one.contact_id), one.one_off) for one in found]
    assert told == [(swapped, True), (typo, True), (colleague, False)]


def test_what_matches_nobody_is_listed_until_it_is_linked(world: World) -> None:
    lead, empty, company = world.lead("lee@acme.test"), world.person(), world.company()
    world.person("ann@acme.test", company=company)
    world.invoice("ann@acme.test")
    stray = world.contact("Stray", "stray@else.test")
    world.invoice(stray, "500.00", due="2020-01-31")
    world.invoice(world.contact("Small"), "5.00")
    world.settle()

    def listed() -> tuple[list[str], list[tuple[str, int, bool]]]:
        with bound(world.account) as session:
            people = matching.unmatched_contacts(session, world.account, None, 10)
            records = matching.unmatched_records(session, world.account, None, 10)
        return [one.name for one in people], [(one.record_type, one.record_id, one.has_address) for one in records]

    assert listed() == (["Stray", "Small"], [("lead", lead, True), ("person", empty, False)])
    world.link("lead", lead, stray)
    assert listed() == (["Small"], [("person", empty, False)])


# Freshness


def test_freshness_is_counted_by_the_hour_and_told_as_quantiles(world: World) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    with bound(world.account) as session:
        hours = freshness.since(session, world.account, 24)
    assert sum(hour.events for hour in hours) >= 3
    told = freshness.quantile(hours, 0.5)
    assert told is not None
    assert 0 < told < 60
    assert freshness.quantile([], 0.5) is None
    hour = Hour(hours[0].at, {0: 50, len(BOUNDS): 50})
    assert freshness.quantile([hour], 0.25) == pytest.approx(0.025)
    assert freshness.quantile([hour], 0.99) == BOUNDS[-1], "what is beyond the last bound counts as it"


# Quarantine


def test_an_account_is_as_fresh_as_its_oldest_waiting_event(world: World) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    world.invoice("ann@acme.test")
    wait_until(lambda: waiting_since() is not None, what="the second invoice's event")
    projecting.project(world.account)
    with transaction() as session:
        synced_at = accounts.synced_at(session, world.account)
    received_at = waiting_since()
    assert synced_at is not None
    assert received_at is not None
    assert synced_at <= received_at


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
        session.execute(text("UPDATE inbox SET state = 'failed', error = 'always', attempts = 9 WHERE kind = 'person'"))
        session.execute(text("DELETE FROM crm_record_email"))
    with bound(world.account) as session:
        (event,) = inbox.quarantined(session, world.account, 10)
        assert (event.resource_id, event.error, event.replayable) == (str(person), "always", True)
        assert inbox.replay(session, world.account, [event.id + 1])[0] == 0
        assert inbox.replay(session, world.account, [event.id])[0] == 1
    world.settle()
    with bound(world.account) as session:
        assert session.execute(text("SELECT count(*) FROM crm_record_email")).scalar_one() == 1
        session.execute(text("UPDATE inbox SET state = 'failed' WHERE kind = 'person'"))
        assert inbox.dismiss(session, world.account, None) == 1
        assert inbox.quarantined(session, world.account, 10) == []
