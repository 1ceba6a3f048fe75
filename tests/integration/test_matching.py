"""The matching rules, case by case, through webhooks and over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from store.accounts import xero_organisations
from store.db.database import transaction
from store.mirror import mirror
from store.mirror.rows import ContactRow
from tests.support.mirror_rows import build_invoice
from tests.support.world import World
from worker.sync import projector


def test_a_person_sees_the_invoices_of_their_address(world: World) -> None:
    ann = world.person("ann@acme.test")
    bob = world.person("bob@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()

    assert world.invoice_numbers("people", ann) == [invoice.number]
    assert world.invoice_numbers("people", bob) == []
    world.check()


def test_a_lead_sees_the_invoices_of_its_address(world: World) -> None:
    lead = world.lead("lee@acme.test")
    invoice = world.invoice("lee@acme.test")
    world.settle()

    assert world.invoice_numbers("leads", lead) == [invoice.number]
    assert world.invoice_numbers("people", lead) == []


def test_a_company_sees_the_invoices_of_all_its_people(world: World) -> None:
    company = world.company()
    world.person("ann@acme.test", company=company)
    world.person("bob@acme.test", company=company)
    world.person("eve@else.test")
    first = world.invoice("ann@acme.test")
    second = world.invoice("bob@acme.test")
    world.invoice("eve@else.test")
    world.settle()

    assert sorted(world.invoice_numbers("companies", company)) == sorted([first.number, second.number])
    world.check()


def test_an_opportunity_sees_its_people_and_the_people_of_its_companies(world: World) -> None:
    company, other_company = world.company(), world.company()
    world.person("ann@acme.test", company=company)
    world.person("bob@other.test", company=other_company)
    eve = world.person("eve@else.test")
    world.person("zoe@nobody.test")
    deal = world.opportunity(company=company, person=eve)
    world.relate(deal, "company", other_company)
    numbers = [world.invoice(f"{name}.test").number for name in ("ann@acme", "bob@other", "eve@else")]
    world.invoice("zoe@nobody.test")
    world.settle()

    assert sorted(world.invoice_numbers("opportunities", deal)) == sorted(numbers)
    world.check()


def test_an_invoice_moves_when_its_contact_changes_its_address(world: World) -> None:
    ann, bob = world.person("ann@acme.test"), world.person("bob@acme.test")
    invoice = world.invoice("ann@acme.test", total="120.00")
    world.settle()
    assert world.invoice_numbers("people", ann) == [invoice.number]

    world.sandbox.simulate("update_contact", contact=invoice.contact, email="bob@acme.test")
    world.settle()

    assert world.invoice_numbers("people", ann) == []
    assert world.invoice_numbers("people", bob) == [invoice.number]


def test_a_person_who_changes_their_address_loses_and_gains_invoices(world: World) -> None:
    company = world.company()
    ann = world.person("ann@acme.test", company=company)
    deal = world.opportunity(company=company)
    old, new = world.invoice("ann@acme.test"), world.invoice("ann@new.test")
    world.settle()
    assert world.invoice_numbers("opportunities", deal) == [old.number]

    world.simulate_copper("update_record", type="person", id=ann, emails=["ann@new.test"])
    world.settle()

    for plural, record in (("people", ann), ("companies", company), ("opportunities", deal)):
        assert world.invoice_numbers(plural, record) == [new.number]


def test_a_person_who_moves_takes_their_invoices_along(world: World) -> None:
    old, new = world.company(), world.company()
    ann = world.person("ann@acme.test", company=old)
    deal = world.opportunity(company=new)
    invoice = world.invoice("ann@acme.test")
    world.settle()
    assert world.invoice_numbers("companies", old) == [invoice.number]

    world.simulate_copper("move_person", person=ann, company=new)
    world.settle()

    assert world.invoice_numbers("companies", old) == []
    assert world.invoice_numbers("companies", new) == [invoice.number]
    assert world.invoice_numbers("opportunities", deal) == [invoice.number]


def test_an_address_shared_by_a_lead_and_a_person_matches_both(world: World) -> None:
    lead, person = world.lead("ann@acme.test"), world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()

    assert world.invoice_numbers("leads", lead) == world.invoice_numbers("people", person) == [invoice.number]


def test_upper_case_and_spaces_do_not_matter(world: World) -> None:
    person = world.person(" Ann@ACME.test ")
    invoice = world.invoice(world.contact("Acme", "aNN@acme.TEST"))
    world.settle()

    assert world.invoice_numbers("people", person) == [invoice.number]


def test_plus_signs_and_dots_do_matter(world: World) -> None:
    person = world.person("ann+billing@acme.test")
    world.invoice("ann@acme.test")
    world.settle()

    assert world.invoice_numbers("people", person) == []


def test_the_address_of_a_contact_person_matches(world: World) -> None:
    person = world.person("eve@acme.test")
    invoice = world.invoice(world.contact("Acme", "office@acme.test", ["eve@acme.test"]))
    world.settle()

    assert world.invoice_numbers("people", person) == [invoice.number]


def test_two_contacts_with_the_same_address_both_match_without_duplicates(world: World) -> None:
    person = world.person("ann@acme.test", "ann@home.test")
    first = world.invoice(world.contact("Acme", "ann@acme.test", ["ann@home.test"]))
    second = world.invoice(world.contact("Acme again", "ann@acme.test"))
    world.settle()

    assert sorted(world.invoice_numbers("people", person)) == sorted([first.number, second.number])


def test_an_invalid_address_matches_nothing(world: World) -> None:
    person = world.person("n/a")
    world.invoice(world.contact("Acme", "n/a"))
    world.settle()

    assert world.invoice_numbers("people", person) == []


def test_deleted_invoices_are_hidden_and_drafts_and_voided_ones_are_shown(world: World) -> None:
    person = world.person("ann@acme.test")
    draft = world.invoice("ann@acme.test", status="DRAFT")
    deleted = world.invoice("ann@acme.test", status="DRAFT")
    voided = world.invoice("ann@acme.test")
    world.sandbox.simulate("delete_invoice", invoice=deleted.id)
    world.sandbox.simulate("void_invoice", invoice=voided.id)
    world.settle()

    rows = {row["id"]: row for row in world.rows("people", person)}
    assert {key: row["status"] for key, row in rows.items()} == {draft.id: "DRAFT", voided.id: "VOIDED"}
    assert rows[draft.id]["due_date"] is None


def test_bills_are_shown_only_if_the_account_enables_them(world: World) -> None:
    from sqlalchemy import text

    from store.db.database import transaction

    person = world.person("ann@acme.test")
    sale = world.invoice("ann@acme.test")
    bill = world.invoice("ann@acme.test", type="ACCPAY")
    world.settle()
    assert world.invoice_numbers("people", person) == [sale.number]

    with transaction() as session:
        session.execute(text("UPDATE account SET bill_record_types = record_types"))
    rows = {row["id"]: row for row in world.rows("people", person)}
    assert rows.keys() == {sale.id, bill.id}
    assert rows[bill.id]["issuer"] == "ann@acme.test"
    assert rows[sale.id]["issuer"] == "Acme Sales Ltd 1"
    assert rows[bill.id]["number"] is None
    assert "/AccountsPayable/Edit.aspx?InvoiceID=" in rows[bill.id]["url"]


def test_invoices_of_a_merged_contact_move_to_the_merge_target(world: World) -> None:
    ann, bob = world.person("ann@acme.test"), world.person("bob@acme.test")
    moved, stays = world.invoice("ann@acme.test"), world.invoice("bob@acme.test")
    world.settle()

    world.sandbox.simulate("merge_contacts", source=moved.contact, target=stays.contact)
    world.settle()

    assert world.invoice_numbers("people", ann) == []
    assert sorted(world.invoice_numbers("people", bob)) == sorted([moved.number, stays.number])
    world.check()


def test_invoices_of_an_archived_contact_stay(world: World) -> None:
    ann = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.sandbox.simulate("archive_contact", contact=invoice.contact)
    world.settle()

    assert world.invoice_numbers("people", ann) == [invoice.number]


def test_deleted_records_have_no_invoices_and_pass_none_on(world: World) -> None:
    company = world.company()
    ann = world.person("ann@acme.test", company=company)
    bob = world.person("bob@acme.test", company=company)
    deal = world.opportunity(company=company, person=ann)
    world.invoice("ann@acme.test")
    kept_invoice = world.invoice("bob@acme.test")
    world.settle()
    assert len(world.invoice_numbers("opportunities", deal)) == 2

    world.simulate_copper("delete_record", type="person", id=ann)
    world.settle()
    assert world.invoice_numbers("people", ann) == []
    assert (
        world.invoice_numbers("companies", company)
        == world.invoice_numbers("opportunities", deal)
        == [kept_invoice.number]
    )

    world.simulate_copper("delete_record", type="company", id=company)
    world.settle()
    assert world.invoice_numbers("companies", company) == world.invoice_numbers("opportunities", deal) == []
    assert world.invoice_numbers("people", bob) == [kept_invoice.number]

    later = world.invoice("bob@acme.test")
    world.settle()
    assert set(world.invoice_numbers("people", bob)) == {kept_invoice.number, later.number}
    assert world.invoice_numbers("companies", company) == world.invoice_numbers("opportunities", deal) == [], (
        "nor what comes later"
    )
    world.reconcile()
    world.check()


def test_a_converted_lead_passes_its_invoices_to_the_new_records(world: World) -> None:
    lead = world.lead("lee@acme.test")
    invoice = world.invoice("lee@acme.test")
    world.settle()
    converted = world.simulate_copper("convert_lead", lead=lead, company="Acme", opportunity="A deal")
    world.settle()

    assert world.invoice_numbers("leads", lead) == []
    for plural, key in (("people", "person"), ("companies", "company"), ("opportunities", "opportunity")):
        assert world.invoice_numbers(plural, converted[key]) == [invoice.number]


def test_invoices_of_several_organisations_are_shown_together(unconnected: World) -> None:
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
        organisation_ids = [
            organisation.id for organisation in xero_organisations.list_connected(session, world.account)
        ]
        for number, (organisation, email) in enumerate(
            zip(organisation_ids, ("ann@acme.test", "bob@acme.test"), strict=True)
        ):
            contact = ContactRow(
                contact_id=same, name="Acme", status="ACTIVE", merged_to=None, updated_at=at, emails={email: email}
            )
            invoice = build_invoice(UUID(int=10 + number), same, at, number=f"OF-{email}")
            mirror.upsert_contacts(session, world.account, organisation, [contact], at)
            mirror.upsert_invoices(session, world.account, organisation, [invoice], at)
    projector.project(world.account)
    assert [world.invoice_numbers("people", person) for person in people] == [
        ["OF-ann@acme.test"],
        ["OF-bob@acme.test"],
    ]


def test_an_organisation_shared_by_two_accounts_serves_both(unconnected: World) -> None:
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

    assert first.invoice_numbers("people", ann) == [shared.number]
    assert {row["id"] for row in second.rows("people", also_ann)} == {shared.id, own.id}
    assert second.invoice_numbers("people", ann) == []
    first.check()
    second.check()


def test_an_invoice_of_an_unknown_contact_fetches_the_contact(world: World) -> None:
    person = world.person("ann@acme.test")
    world.sandbox.faults(webhooks=[{"vendor": "xero", "loss": 1.0}])
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    world.sandbox.faults()
    invoice = world.invoice(contact)
    world.settle()

    assert world.invoice_numbers("people", person) == [invoice.number]
