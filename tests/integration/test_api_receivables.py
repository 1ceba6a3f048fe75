"""The other API endpoints: match, receivables, unmatched contacts and records, exports."""

from __future__ import annotations

import csv
import io
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import text

from services import access
from store.db.database import transaction
from tests.support.databases import clear_budgets
from tests.support.world import World


@pytest.fixture
def admin(world: World) -> dict[str, str]:
    clear_budgets("throttle")
    return {"Authorization": f"Bearer {access.create_key(world.account, 'admin', ['admin'])}"}


@pytest.fixture
def reader(world: World) -> dict[str, str]:
    return {"Authorization": f"Bearer {world.key}"}


def get(world: World, path: str, headers: dict[str, str], **query: Any) -> httpx.Response:
    return world.web.get(f"/v1/{path}", headers=headers, params=query)


def table(response: httpx.Response) -> list[dict[str, str]]:
    assert response.status_code == 200, response.text
    return list(csv.DictReader(io.StringIO(response.text)))


def test_admin_endpoints_refuse_a_read_key(world: World, admin: dict[str, str], reader: dict[str, str]) -> None:
    for path in ("unmatched.csv", "invoices.csv", "invoices.jsonl", "people/1/match"):
        assert get(world, path, reader).status_code == 403, path
        assert get(world, path, admin).status_code == 200, path
        assert get(world, path, {"Authorization": "Bearer pat_no"}).status_code == 401
        assert get(world, path, {}).status_code == 401
    panel = {"Authorization": f"Bearer {access.create_key(world.account, 'panel', ['panel'])}"}
    for path in ("people", "people/1/invoices.csv", "people/1/match", "unmatched.csv"):
        assert get(world, path, panel).status_code == 401, path


def test_match_returns_addresses_contacts_invoices_and_near_matches(world: World, admin: dict[str, str]) -> None:
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    contact = world.contact("Acme Ltd", "ann@acme.test")
    world.contact("Acme Wellington", "zoe@acme.test")
    invoice = world.invoice(contact, "10.00")
    world.settle()
    payload = get(world, f"companies/{company}/match", admin).json()
    path = {
        "record": {"type": "person", "id": person},
        "name": "A person",
        "company": {"type": "company", "id": company},
        "company_name": "A company",
    }
    assert payload["addresses"] == [{**path, "email": "ann@acme.test", "as_typed": None, "matched": True}]
    (matched_contact,) = payload["contacts"]
    assert (matched_contact["id"], matched_contact["name"], matched_contact["organisation"]) == (
        contact,
        "Acme Ltd",
        "Acme Sales Ltd 1",
    )
    because = {
        "email": "ann@acme.test",
        "email_domain": None,
        "as_typed": None,
        "contact_as_typed": None,
        "linked_by": None,
    }
    assert matched_contact["reasons"] == [{**path, **because}]
    assert [(invoice["number"], invoice["balance_due"]) for invoice in matched_contact["invoices"]] == [
        (invoice.number, "10.00")
    ]
    assert f"/Contacts/View/{contact}" in matched_contact["url"]
    assert [(near_miss["name"], near_miss["reason"]) for near_miss in payload["near_misses"]] == [
        ("Acme Wellington", "same domain")
    ]
    assert payload["complete"] is True
    nobody = get(world, "leads/77/match", admin).json()
    assert (nobody["name"], nobody["addresses"], nobody["contacts"]) == (None, [], [])


def test_receivables_are_paged_and_sorted_per_currency(world: World, reader: dict[str, str]) -> None:
    people = []
    for number in range(5):
        people.append(world.person(f"p{number}@acme.test"))
        due = "2020-01-31" if number < 2 else "2999-01-31"
        world.invoice(f"p{number}@acme.test", f"{100 + number}.00", due=due)
    world.invoice("p0@acme.test", "900.00", currency="GBP")
    world.settle()
    first = get(world, "people", reader, sort="outstanding", currency="NZD", limit=3).json()
    assert (first["currency"], first["currencies"]) == ("NZD", ["GBP", "NZD"])
    more = {"sort": "outstanding", "currency": "NZD", "limit": 3, "after": first["next"]}
    second = get(world, "people", reader, **more).json()
    records = first["records"] + second["records"]
    assert [record["outstanding"] for record in records] == ["104.00", "103.00", "102.00", "101.00", "100.00"]
    assert [record["record"]["id"] for record in records] == list(reversed(people))
    assert second["next"] is None
    later = get(world, "people", reader, currency="NZD").json()["records"]
    assert [(record["overdue"], record["overdue_invoices"]) for record in later[:3]] == [
        ("101.00", 1),
        ("100.00", 1),
        ("0.00", 0),
    ]
    pounds = get(world, "people", reader, currency="GBP").json()
    assert [(record["outstanding"], record["currency"]) for record in pounds["records"]] == [("900.00", "GBP")]
    assert get(world, "leads", reader).json() == {"currency": None, "currencies": [], "records": [], "next": None}
    assert get(world, "people", reader, after="nonsense").status_code == 400
    assert get(world, "people", reader, sort="name").status_code == 400
    assert get(world, "tasks", reader).status_code == 404


def test_unmatched_contacts_and_records_are_returned_as_tables(world: World, admin: dict[str, str]) -> None:
    lead = world.lead("lee@acme.test")
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.invoice(world.contact("=cmd()", "stray@else.test"), "50.00", due="2020-01-31")
    world.settle()
    (stray,) = table(get(world, "unmatched.csv", admin))
    assert stray["name"] == "'=cmd()", "no spreadsheet takes it for a formula"
    assert (stray["emails"], stray["open"], stray["overdue"]) == ("stray@else.test", "50.00", "50.00")
    (record,) = table(get(world, "unmatched.csv", admin, of="records"))
    assert (record["record_type"], record["record_id"]) == ("lead", str(lead))
    assert record["url"].endswith(f"/companies/{world.copper}/app#/lead/{lead}")
    assert record["reason"] == "no Xero contact has this email address"


def test_rows_are_exported_as_csv_and_json_lines_and_exports_are_audited(
    world: World, admin: dict[str, str], reader: dict[str, str]
) -> None:
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    invoices = [world.invoice("ann@acme.test", "10.00", due="2020-01-31") for _ in range(3)]
    world.settle()
    rows = table(get(world, f"people/{person}/invoices.csv", reader))
    assert [row["number"] for row in rows] == world.invoice_numbers("people", person)
    assert {invoice["number"] for invoice in rows} == {invoice.number for invoice in invoices}
    assert rows[0]["total_due"] == "10.00"
    assert int(rows[0]["overdue_days"]) > 2_000
    lines = [orjson.loads(line) for line in get(world, "invoices.jsonl", admin).text.splitlines()]
    assert {(line["record_type"], line["record_id"]) for line in lines} == {("person", person), ("company", company)}
    assert len(lines) == 6
    assert len(table(get(world, "invoices.csv", admin))) == 6
    assert get(world, "people/1/invoices.xml", reader).status_code == 400
    with transaction() as session:
        messages = list(
            session.execute(text("SELECT detail FROM audit_log WHERE action = 'rows.exported' ORDER BY id")).scalars()
        )
    first = f"invoices of single records as csv, first person {person}"
    assert messages == [first, "invoices as jsonl", "invoices as csv"]
    empty = get(world, "leads/1/invoices.csv", reader)
    assert empty.text.count("\n") == 1, "the header alone"


def test_an_export_contains_no_rows_of_other_accounts(world: World, admin: dict[str, str]) -> None:
    other_world = World(world.sandbox, world.web).open(name="Other")
    other_world.person("bob@other.test")
    other_world.invoice("bob@other.test")
    other_world.lead("lee@other.test")
    other_world.settle()
    world.settle()
    for path in ("invoices.csv", "unmatched.csv", "unmatched.csv?of=records"):
        assert table(get(world, path, admin)) == []
    other_headers = {"Authorization": f"Bearer {access.create_key(other_world.account, 'admin', ['admin'])}"}
    assert len(table(get(world, "invoices.csv", other_headers))) == 1
    assert get(world, "people", admin).json()["records"] == []
