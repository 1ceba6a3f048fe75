"""Who sees which invoices: Copper's own rules, case by case, through webhooks and over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from store import accounts, mirror
from store.database import transaction
from store.mirror import ContactRow, InvoiceRow
from tests.world import World
from worker import projecting


def test_a_person_sees_the_invoices_of_their_address(world: World) -> None:
    ann = world.person("ann@acme.test")
    bob = world.person("bob@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()

    assert world.shown("people", ann) == [invoice.number]
    assert world.shown("people", bob) == []
    world.check()


def test_a_lead_sees_the_invoices_of_its_address(world: World) -> None:
    lead = world.lead("lee@acme.test")
    invoice = world.invoice("lee@acme.test")
    world.settle()

    assert world.shown("leads", lead) == [invoice.number]
    assert world.shown("people", lead) == []


def test_a_company_sees_the_invoices_of_all_its_people(world: World) -> None:
    company = world.company()
    world.person("ann@acme.test", company=company)
    world.person("bob@acme.test", company=company)
    world.person("eve@else.test")
    first = world.invoice("ann@acme.test")
    second = world.invoice("bob@acme.test")
    world.invoice("eve@else.test")
    world.settle()

    assert sorted(world.shown("companies", company)) == sorted([first.number, second.number])
    world.check()


def test_an_opportunity_sees_its_people_and_the_people_of_its_companies(world: World) -> None:
    company, other = world.company(), world.company()
    world.person("ann@acme.test", company=company)
    world.person("bob@other.test", company=other)
    eve = world.person("eve@else.test")
    world.person("zoe@nobody.test")
    deal = world.opportunity(company=company, person=eve)
    world.relate(deal, "company", other)
    numbers = [world.invoice(f"{name}.test").number for name in ("ann@acme", "bob@other", "eve@else")]
    world.invoice("zoe@nobody.test")
    world.settle()

    assert sorted(world.shown("opportunities", deal)) == sorted(numbers)
    world.check()


def test_an_invoice_moves_when_its_contact_takes_another_address(world: World) -> None:
    ann, bob = world.person("ann@acme.test"), world.person("bob@acme.test")
    invoice = world.invoice("ann@acme.test", total="120.00")
    world.settle()
    assert world.shown("people", ann) == [invoice.number]

    world.sandbox.act("change_contact", contact=invoice.contact, email="bob@acme.test")
    world.settle()

    assert world.shown("people", ann) == []
    assert world.shown("people", bob) == [invoice.number]


def test_a_person_who_takes_another_address_loses_and_gains(world: World) -> None:
    company = world.company()
    ann = world.person("ann@acme.test", company=company)
    deal = world.opportunity(company=company)
    old, new = world.invoice("ann@acme.test"), world.invoice("ann@new.test")
    world.settle()
    assert world.shown("opportunities", deal) == [old.number]

    world.copper_act("change_record", type="person", id=ann, emails=["ann@new.test"])
    world.settle()

    for plural, record in (("people", ann), ("companies", company), ("opportunities", deal)):
        assert world.shown(plural, record) == [new.number]


def test_a_person_who_moves_takes_their_invoices_along(world: World) -> None:
    old, new = world.company(), world.company()
    ann = world.person("ann@acme.test", company=old)
    deal = world.opportunity(company=new)
    invoice = world.invoice("ann@acme.test")
    world.settle()
    assert world.shown("companies", old) == [invoice.number]

    world.copper_act("move_person", person=ann, company=new)
    world.settle()

    assert world.shown("companies", old) == []
    assert world.shown("companies", new) == [invoice.number]
    assert world.shown("opportunities", deal) == [invoice.number]


def test_the_same_address_on_a_lead_and_a_person_shows_on_both(world: World) -> None:
    lead, person = world.lead("ann@acme.test"), world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()

    assert world.shown("leads", lead) == world.shown("people", person) == [invoice.number]


def test_capitals_and_spaces_do_not_matter(world: World) -> None:
    person = world.person(" Ann@ACME.test ")
    invoice = world.invoice(world.contact("Acme", "aNN@acme.TEST"))
    world.settle()

    assert world.shown("people", person) == [invoice.number]


def test_plus_signs_and_dots_do_matter(world: World) -> None:
    person = world.person("ann+billing@acme.test")
    world.invoice("ann@acme.test")
    world.settle()

    assert world.shown("people", person) == []


def test_a_contact_persons_address_counts(world: World) -> None:
    person = world.person("eve@acme.test")
    invoice = world.invoice(world.contact("Acme", "office@acme.test", ["eve@acme.test"]))
    world.settle()

    assert world.shown("people", person) == [invoice.number]


def test_two_contacts_with_one_address_both_count_and_nothing_shows_twice(world: World) -> None:
    person = world.person("ann@acme.test", "ann@home.test")
    first = world.invoice(world.contact("Acme", "ann@acme.test", ["ann@home.test"]))
    second = world.invoice(world.contact("Acme again", "ann@acme.test"))
    world.settle()

    assert sorted(world.shown("people", person)) == sorted([first.number, second.number])


def test_what_is_no_address_matches_nothing(world: World) -> None:
    person = world.person("n/a")
    world.invoice(world.contact("Acme", "n/a"))
    world.settle()

    assert world.shown("people", person) == []


def test_deleted_invoices_never_show_and_drafts_and_voided_ones_do(world: World) -> None:
    person = world.person("ann@acme.test")
    draft = world.invoice("ann@acme.test", status="DRAFT")
    deleted = world.invoice("ann@acme.test", status="DRAFT")
    voided = world.invoice("ann@acme.test")
    world.sandbox.act("delete_invoice", invoice=deleted.id)
    world.sandbox.act("void_invoice", invoice=voided.id)
    world.settle()

    rows = {row["id"]: row for row in world.rows("people", person)}
    assert {key: row["status"] for key, row in rows.items()} == {draft.id: "DRAFT", voided.id: "VOIDED"}
    assert rows[draft.id]["due_date"] is None


def test_bills_show_only_where_the_account_wants_them(world: World) -> None:
    from sqlalchemy import text

    from store.database import transaction

    person = world.person("ann@acme.test")
    sale = world.invoice("ann@acme.test")
    bill = world.invoice("ann@acme.test", type="ACCPAY")
    world.settle()
    assert world.shown("people", person) == [sale.number]

    with transaction() as session:
        session.execute(text("UPDATE account SET show_bills = true"))
    rows = {row["id"]: row for row in world.rows("people", person)}
    assert rows.keys() == {sale.id, bill.id}
    assert rows[bill.id]["issuer"] == "ann@acme.test"
    assert rows[sale.id]["issuer"] == "Acme Sales Ltd 1"
    assert rows[bill.id]["number"] is None
    assert "/AccountsPayable/Edit.aspx?InvoiceID=" in rows[bill.id]["url"]


def test_a_merged_contacts_invoices_follow_the_survivor(world: World) -> None:
    ann, bob = world.person("ann@acme.test"), world.person("bob@acme.test")
    moved, stays = world.invoice("ann@acme.test"), world.invoice("bob@acme.test")
    world.settle()

    world.sandbox.act("merge_contacts", loser=moved.contact, winner=stays.contact)
    world.settle()

    assert world.shown("people", ann) == []
    assert sorted(world.shown("people", bob)) == sorted([moved.number, stays.number])
    world.check()


def test_an_archived_contacts_invoices_stay(world: World) -> None:
    ann = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.sandbox.act("archive_contact", contact=invoice.contact)
    world.settle()

    assert world.shown("people", ann) == [invoice.number]


def test_deleted_records_show_nothing_and_pass_nothing_on(world: World) -> None:
    company = world.company()
    ann = world.person("ann@acme.test", company=company)
    bob = world.person("bob@acme.test", company=company)
    deal = world.opportunity(company=company, person=ann)
    world.invoice("ann@acme.test")
    kept = world.invoice("bob@acme.test")
    world.settle()
    assert len(world.shown("opportunities", deal)) == 2

    world.copper_act("delete_record", type="person", id=ann)
    world.settle()
    assert world.shown("people", ann) == []
    assert world.shown("companies", company) == world.shown("opportunities", deal) == [kept.number]

    world.copper_act("delete_record", type="company", id=company)
    world.settle()
    assert world.shown("companies", company) == world.shown("opportunities", deal) == []
    assert world.shown("people", bob) == [kept.number]

    later = world.invoice("bob@acme.test")
    world.settle()
    assert set(world.shown("people", bob)) == {kept.number, later.number}
    assert world.shown("companies", company) == world.shown("opportunities", deal) == [], "nor what comes later"
    world.reconcile()
    world.check()


def test_a_converted_lead_hands_its_invoices_to_what_it_became(world: World) -> None:
    lead = world.lead("lee@acme.test")
    invoice = world.invoice("lee@acme.test")
    world.settle()
    made = world.copper_act("convert_lead", lead=lead, company="Acme", opportunity="A deal")
    world.settle()

    assert world.shown("leads", lead) == []
    for plural, key in (("people", "person"), ("companies", "company"), ("opportunities", "opportunity")):
        assert world.shown(plural, made[key]) == [invoice.number]


def test_several_organisations_on_one_account_show_side_by_side(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    person = world.person("ann@acme.test")
    first = world.invoice(world.contact("Acme", "ann@acme.test", organisation=0))
    second = world.invoice(world.contact("Acme", "ann@acme.test", organisation=1))
    world.settle()

    rows = {row["id"]: row["issuer"] for row in world.rows("people", person)}
    assert rows == {first.id: "Acme Sales Ltd 1", second.id: "Acme Sales Ltd 2"}
    world.check()


def test_one_contact_id_in_two_organisations_is_two_contacts(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    people = [world.person("ann@acme.test"), world.person("bob@acme.test")]
    world.settle()
    at, same = datetime.now(UTC), UUID(int=5)
    with transaction() as session:
        found = [one.id for one in accounts.organisations(session, world.account)]
        for number, (organisation, email) in enumerate(zip(found, ("ann@acme.test", "bob@acme.test"), strict=True)):
            contact = ContactRow(
                contact_id=same, name="Acme", status="ACTIVE", merged_to=None, updated_at=at, emails={email: email}
            )
            invoice = InvoiceRow(
                invoice_id=UUID(int=10 + number),
                contact_id=same,
                type="ACCREC",
                status="AUTHORISED",
                number=f"OF-{email}",
                issue_date=None,
                due_date=None,
                total=Decimal(1),
                balance=Decimal(1),
                currency="NZD",
                created_at=at,
                created_source="issue_date",
                updated_at=at,
            )
            mirror.upsert_contacts(session, world.account, organisation, [contact], at)
            mirror.upsert_invoices(session, world.account, organisation, [invoice], at)
    projecting.project(world.account)
    assert [world.shown("people", person) for person in people] == [["OF-ann@acme.test"], ["OF-bob@acme.test"]]


def test_one_organisation_on_two_accounts_reaches_both_and_nothing_else(unconnected: World) -> None:
    first = unconnected.open()
    second = World(first.sandbox, first.web).open(name="Other Sales")
    second.authorise(first.tenants)
    second.tenants = [*second.tenants, *first.tenants]
    second.backfill()
    ann = first.person("ann@acme.test")
    also_ann = second.person("ann@acme.test")
    shared = first.invoice("ann@acme.test")
    own = second.invoice("ann@acme.test")
    first.settle()
    second.settle()

    assert first.shown("people", ann) == [shared.number]
    assert {row["id"] for row in second.rows("people", also_ann)} == {shared.id, own.id}
    assert second.shown("people", ann) == []
    first.check()
    second.check()


def test_an_invoice_of_a_contact_never_heard_of_brings_its_contact_along(world: World) -> None:
    person = world.person("ann@acme.test")
    world.sandbox.faults(webhooks=[{"vendor": "xero", "lose": 1.0}])
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    world.sandbox.faults()
    invoice = world.invoice(contact)
    world.settle()

    assert world.shown("people", person) == [invoice.number]
