"""Suggestions for unmatched contacts, and linking: one with a click, many after a look, and undone."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import text

from services import manual_links, person_erasure
from store.accounts import audit, xero_organisations
from store.db.database import account_transaction, transaction
from store.db.enums import RecordType
from store.mirror import mirror
from store.mirror.rows import ContactRow
from store.read_model import suggestions, unmatched_contacts
from store.read_model.contact_links import Link, LinkStatus
from store.read_model.unmatched_contacts import ContactQuery, UnmatchedReason
from tests.support.admin import AdminBrowser
from tests.support.world import World


def organisation_of(world: World) -> int:
    with transaction() as session:
        return xero_organisations.list_connected(session, world.account)[0].id


def suggested(world: World, contact: str) -> list[tuple[str, int, list[str]]]:
    """The suggestions for a contact: each with its record and its reasons in words."""
    key = (organisation_of(world), UUID(contact))
    with account_transaction(world.account) as session:
        found = suggestions.suggest(session, world.account, [key]).get(key, ())
    return [
        (suggestion.record_type.value, suggestion.record_id, [reason.label for reason in suggestion.reasons])
        for suggestion in found
    ]


def named(world: World, record_type: str, name: str, **fields: object) -> int:
    record = int(world.simulate_copper("create_record", type=record_type, name=name)["id"])
    for field, value in fields.items():
        world.simulate_copper("set_field", type=record_type, id=record, field=field, value=value)
    return record


def test_each_suggestion_names_its_reason(world: World) -> None:
    near = world.person("ann@acme.test")
    company = named(world, "company", "Kauri Foods Ltd")
    caller = named(world, "person", "Kim", phones=["(09) 555 1234"])
    owner = named(world, "company", "Beta", email_domain="beta.test")
    contacts = {
        "an@acme.test": world.contact("A", "an@acme.test"),
        "name": world.contact("KAURI FOODS LIMITED"),
        "phone": str(world.sandbox.simulate("create_contact", name="P", phones=["+64 9 555 1234"])["contact"]),
        "domain": world.contact("D", "office@beta.test"),
        "nothing": world.contact("Nobody", "nobody@gmail.com"),
    }
    world.settle()

    assert suggested(world, contacts["an@acme.test"]) == [
        ("person", near, ["Similar address ann@acme.test", "Same domain acme.test"])
    ]
    assert suggested(world, contacts["name"]) == [("company", company, ["Same name"])]
    assert suggested(world, contacts["phone"]) == [("person", caller, ["Same phone number"])]
    assert suggested(world, contacts["domain"]) == [("company", owner, ["Same domain beta.test"])]
    assert suggested(world, contacts["nothing"]) == []


def test_numbers_of_different_countries_are_not_the_same(world: World) -> None:
    named(world, "person", "Kim", phones=["+44 9 555 1234"])
    contact = str(world.sandbox.simulate("create_contact", name="P", phones=["+64 9 555 1234"])["contact"])
    world.settle()

    assert suggested(world, contact) == []


def test_at_most_three_are_suggested_the_most_telling_first(world: World) -> None:
    company = world.company("acme.test")
    people = [world.person(f"{name}@acme.test", company=company) for name in ("ann", "bob", "eve", "kim")]
    contact = world.contact("Acme", "anne@acme.test")
    world.settle()

    found = suggested(world, contact)
    assert [record for _, record, _ in found] == [people[0], company, *people[1:2]][: len(found)]
    assert len(found) <= 3
    assert found[0][2][0] == "Similar address ann@acme.test"


def test_deleted_records_and_public_domains_are_not_suggested(world: World) -> None:
    company = named(world, "company", "Acme", email_domain="acme.test", phones=["09 555 1234"])
    world.person("zoe@gmail.com")
    contact = str(
        world.sandbox.simulate("create_contact", name="Acme", email="a@acme.test", phones=["09 555 1234"])["contact"]
    )
    public = world.contact("Other", "someone@gmail.com")
    world.settle()
    assert [record for _, record, _ in suggested(world, contact)] == [company]

    world.simulate_copper("delete_record", type="company", id=company)
    world.settle()
    assert suggested(world, contact) == suggested(world, public) == []


def count_phones() -> tuple[int, int]:
    with transaction() as session:
        counts = session.execute(
            text("SELECT (SELECT count(*) FROM copper_record_phone), (SELECT count(*) FROM xero_contact_phone)")
        ).one()
    return int(counts[0]), int(counts[1])


def test_phones_follow_their_owners_and_an_answer_without_them_changes_nothing(world: World) -> None:
    person = named(world, "person", "Kim", phones=["09 555 1234", "021 555 9876"])
    contact = str(world.sandbox.simulate("create_contact", name="P", phones=["09 555 1234"])["contact"])
    world.settle()
    assert count_phones() == (2, 1)

    later = datetime(2100, 1, 1, tzinfo=UTC)
    row = ContactRow(
        contact_id=UUID(contact), name="P", status="ACTIVE", merged_to=None, updated_at=later, emails={}, phones=None
    )
    with transaction() as session:
        mirror.upsert_contacts(session, world.account, organisation_of(world), [row], later)
    assert count_phones() == (2, 1)
    with transaction() as session:
        mirror.tombstone_contacts(session, world.account, organisation_of(world), [UUID(contact)], later)
    world.simulate_copper("set_field", type="person", id=person, field="phones", value=["021 555 9876"])
    world.settle()
    assert count_phones() == (1, 0)


def test_reconciliation_counts_and_repairs_phones(world: World) -> None:
    named(world, "person", "Kim", phones=["09 555 1234"])
    world.sandbox.simulate("create_contact", name="P", phones=["09 555 1234", "09 555 1234"])
    world.settle()
    assert world.reconcile() == {}
    with transaction() as session:
        session.execute(text("UPDATE copper_record_phone SET phone = '95559999'"))
        session.execute(text("DELETE FROM xero_contact_phone"))
    world.advance_clock()
    stale = {"missing": 0, "stale": 1, "extra": 0}
    assert world.reconcile() == {"contacts": stale, "people": stale}
    assert count_phones() == (1, 1)
    assert world.reconcile() == {}


def test_erasing_a_person_deletes_their_phones_and_name_keys(world: World) -> None:
    person = world.person("ann@acme.test")
    world.simulate_copper("set_field", type="person", id=person, field="phones", value=["09 555 1234"])
    world.sandbox.simulate("create_contact", name="Ann", email="ann@acme.test", phones=["+64 9 555 1234"])
    world.settle()
    assert count_phones() == (1, 1)

    person_erasure.erase_by_email(world.account, "ann@acme.test", actor="test")
    assert count_phones() == (0, 0)
    with transaction() as session:
        keys = session.execute(text("SELECT name_key FROM copper_record WHERE record_id = :id"), {"id": person})
        assert list(keys.scalars()) == [""]


def contact_names(world: World, **query: object) -> list[str]:
    with account_transaction(world.account) as session:
        page = unmatched_contacts.list_page(session, world.account, ContactQuery(**query))  # type: ignore[arg-type]
    return [contact.name for contact in page.contacts]


def test_unmatched_contacts_are_one_row_each_ranked_searched_counted_and_paged(world: World) -> None:
    two_currencies = world.contact("Two", "two@acme.test")
    world.invoice(two_currencies, "10.00")
    world.invoice(two_currencies, "900.00", currency="GBP")
    for number in range(4):
        world.invoice(world.contact(f"Stray {number}"), "100.00")
    world.settle()

    with account_transaction(world.account) as session:
        page = unmatched_contacts.list_page(session, world.account, ContactQuery(limit=2))
    assert page.counts == {UnmatchedReason.NO_ADDRESS: 4, UnmatchedReason.UNKNOWN_ADDRESS: 1}
    assert page.contacts[0].name == "Two"
    assert [(amount.currency, str(amount.open)) for amount in page.contacts[0].amounts] == [
        ("GBP", "900.00"),
        ("NZD", "10.00"),
    ]
    names, after = [], None
    while ranked := _page_after(world, after):
        names += [contact.name for contact in ranked]
        after = ranked[-1].position
    assert names[0] == "Two"
    assert sorted(names[1:]) == [f"Stray {number}" for number in range(4)], "equal amounts appear once each"
    assert contact_names(world, search="TWO@acme") == ["Two"]
    assert contact_names(world, search="stray 3") == ["Stray 3"]
    assert contact_names(world, reason=UnmatchedReason.UNKNOWN_ADDRESS) == ["Two"]
    assert contact_names(world, search="%") == []


def _page_after(world: World, after: object) -> tuple[unmatched_contacts.RankedContact, ...]:
    with account_transaction(world.account) as session:
        query = ContactQuery(after=after, limit=2)  # type: ignore[arg-type]
        return unmatched_contacts.list_page(session, world.account, query).contacts


def links_in_database() -> int:
    with transaction() as session:
        return int(session.execute(text("SELECT count(*) FROM contact_link")).scalar_one())


def actions(world: World) -> list[str]:
    with account_transaction(world.account) as session:
        return [entry.action for entry in audit.latest(session, world.account)]


def test_a_suggestion_is_accepted_with_a_click_and_undone_with_another(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice(world.contact("Acme", "an@acme.test"))
    world.settle()
    page = admin.open("/unmatched")
    assert "Similar address ann@acme.test" in page.text
    value = re.findall(r'name="accept" value="([^"]+)"', page.text)[0]

    page = admin.send("/links/accept", accept=value)
    assert "1 link made" in page.text
    world.settle()
    assert world.invoice_numbers("people", person) == [invoice.number]

    assert "Already linked." in admin.send("/links/accept", accept=value).text
    batch = re.findall(r'name="batch" value="([^"]+)"', page.text)[0]
    assert "1 link removed" in admin.send("/links/undo", batch=batch).text
    assert "0 links removed" in admin.send("/links/undo", batch=batch).text, "twice does nothing"
    world.settle()
    assert world.invoice_numbers("people", person) == []
    assert actions(world)[:2] == ["contact.unlinked", "contact.linked"]


def test_many_are_listed_first_and_undone_exactly(world: World, admin: AdminBrowser) -> None:
    people = [world.person(f"ann{number}@acme{number}.test") for number in range(3)]
    for number in range(3):
        world.invoice(world.contact(f"Contact {number}", f"an{number}@acme{number}.test"))
    world.settle()
    values = sorted(set(re.findall(r'name="link" value="([^"]+)"', admin.open("/unmatched").text)))
    assert len(values) == 3
    made_before = next(value for value in values if value.endswith(f" {people[0]}"))
    admin.send("/links/accept", accept=made_before)

    review = admin.send("/links/review", {"link": values})
    assert "Link 3 contacts?" in review.text
    assert "Contact 2" in review.text
    assert "Already linked" in review.text
    assert links_in_database() == 1, "nothing is linked before the list is confirmed"
    page = admin.send("/links/batch", {"link": values})
    assert "2 links made" in page.text
    assert links_in_database() == 3

    batch = re.findall(r'name="batch" value="([^"]+)"', page.text)[0]
    admin.send("/links/undo", batch=batch)
    assert links_in_database() == 1, "a link that existed before stays"


def test_none_too_many_or_invalid_links_are_refused_and_change_nothing(world: World, admin: AdminBrowser) -> None:
    contact = world.contact("Stray")
    world.invoice(contact)
    world.settle()
    admin.open("/unmatched")
    organisation = organisation_of(world)
    assert "Select at least one suggestion" in admin.send("/links/review", {}).text
    many = [f"{organisation} {contact} person {number}" for number in range(1, 52)]
    page = admin.send("/links/review", {"link": many})
    assert (page.status_code, "at most 50" in page.text) == (422, True)
    assert admin.send("/links/batch", {"link": many}, follow=False).status_code == 422
    admin.open("/unmatched")
    for wrong in ("", "x", f"{organisation} {contact} task 1", f"{organisation} {contact} person", "1 2 3 4 5"):
        assert admin.send("/links/accept", {"accept": wrong}, follow=False).status_code == 422, wrong
    assert admin.send("/links/undo", {"batch": "x"}, follow=False).status_code == 422
    gone = admin.send("/links/accept", accept=f"{organisation} {contact} person 999")
    assert "1 link not made" in gone.text
    assert links_in_database() == 0


def test_a_batch_of_another_account_cannot_be_undone_and_its_contacts_are_unknown(
    world: World, admin: AdminBrowser
) -> None:
    contact, person = world.contact("Stray"), world.person("ann@acme.test")
    world.invoice(contact)
    world.settle()
    link = Link(organisation_of(world), UUID(contact), RecordType.PERSON, person)
    batch = manual_links.create_batch(world.account, [link, link], actor="test")
    assert [outcome.status for outcome in batch.outcomes] == [LinkStatus.LINKED, LinkStatus.ALREADY_LINKED]
    with transaction() as session:
        other = session.execute(
            text("INSERT INTO account (copper_account_id, name) VALUES (987654, 'Other') RETURNING id")
        ).scalar_one()
    assert manual_links.undo_batch(other, batch.id, actor="test") == 0
    foreign = manual_links.create_batch(other, [link], actor="test")
    assert [outcome.status for outcome in foreign.outcomes] == [LinkStatus.UNKNOWN_CONTACT]
    assert links_in_database() == 1
    unknown = "00000000-0000-4000-8000-000000000001"
    assert admin.open(f"/contacts/{organisation_of(world)}/{unknown}").status_code == 404
    assert admin.open(f"/contacts/{organisation_of(world)}/x").status_code in {404, 422}


def test_a_record_of_any_type_is_found_for_a_contact_without_and_with_javascript(
    world: World, admin: AdminBrowser
) -> None:
    contact = world.contact("Stray")
    invoice = world.invoice(contact)
    deal = named(world, "opportunity", "Big deal")
    world.settle()
    path = f"/contacts/{organisation_of(world)}/{contact}"
    admin.open(path)
    page = admin.send(path, q="big DEAL")
    assert "big" not in str(page.url).lower().partition("search=")[0]
    assert "Big deal" in page.text
    value = re.findall(r'name="accept" value="([^"]+)"', page.text)[0]
    assert value.endswith(f"opportunity {deal}")

    found = admin.send("/records/suggest", {"q": "big d"}, follow=False)
    assert found.json()["results"] == [{"type": "opportunity", "id": deal, "name": "Big deal", "email": None}]
    assert admin.send("/records/suggest", {"q": "b"}, follow=False).json() == {"results": []}
    assert admin.send("/records/suggest", {"q": "b" * 400}, follow=False).json() == {"results": []}

    admin.send("/links/accept", accept=value)
    world.settle()
    assert world.invoice_numbers("opportunities", deal) == [invoice.number]


def test_the_page_is_searched_by_name_and_keeps_the_search_out_of_the_address(
    world: World, admin: AdminBrowser
) -> None:
    for name in ("Zest Wholesale", "Kauri"):
        world.invoice(world.contact(name))
    world.settle()
    admin.open("/unmatched")
    page = admin.send("/unmatched", q="zest")
    assert "zest" not in str(page.url)
    assert "Zest Wholesale" in page.text
    assert "Kauri" not in page.text
    assert "No email address (1)" in page.text
    assert admin.open("/unmatched?search=forged").status_code == 200
    assert admin.open("/unmatched?after=x").status_code == 400
    assert admin.open("/unmatched?reason=x").status_code == 422
