"""The API of the account's invoices and of pins; invoices in the search for records and in `patina explain`."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from services import access
from store.accounts import audit
from store.db.database import account_transaction, transaction
from tests.integration.test_admin_pages import page_text
from tests.integration.test_invoice_pages import make_invoices
from tests.integration.test_invoice_pins import deal_with_invoice
from tests.support.admin import AdminBrowser
from tests.support.commands import patina
from tests.support.databases import clear_budgets
from tests.support.world import World


def headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def admin_key(world: World) -> dict[str, str]:
    clear_budgets("throttle")
    return headers(access.create_key(world.account, "admin", ["admin"]))


def listed(world: World, **query: Any) -> list[str]:
    response = world.web.get("/v1/invoices", params=query, headers=headers(world.key))
    assert response.status_code == 200, response.text
    return [invoice["number"] for invoice in response.json()["invoices"]]


def test_the_api_lists_and_filters_the_invoices_of_the_account(world: World) -> None:
    number = make_invoices(world)
    assert len(listed(world)) == 7
    assert listed(world, status="OVERDUE") == [number["overdue"]]
    assert listed(world, search=" ann HARPER ", currency="GBP") == [number["paid"]]
    assert set(listed(world, matched=False)) == {number["draft"], number["submitted"]}
    assert listed(world, type="ACCRECCREDIT") == ["CN-0001"]
    assert listed(world, organisation=424242) == []
    response = world.web.get("/v1/invoices", params={"status": "OVERDUE"}, headers=headers(world.key)).json()
    (invoice,) = response["invoices"]
    assert (invoice["balance_due"], invoice["contact"]["name"]) == ("100.00", "Ann Harper")
    assert invoice["organisation"]["name"] == "Acme Sales Ltd 1"
    assert invoice["overdue_days"] > 0
    assert response["next"] is None
    assert response["synced_at"]


def test_the_pages_of_the_api_have_every_invoice_once(world: World) -> None:
    make_invoices(world)
    for sort in ("created", "due", "balance"):
        collected: list[str] = []
        after: dict[str, str] = {}
        while True:
            response = world.web.get(
                "/v1/invoices", params={"limit": 2, "sort": sort, **after}, headers=headers(world.key)
            )
            assert response.status_code == 200, response.text
            collected += [invoice["id"] for invoice in response.json()["invoices"]]
            if not response.json()["next"]:
                break
            after = {"after": response.json()["next"]}
        assert len(collected) == len(set(collected)) == 7, sort


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "after=x",
        "sort=name",
        "status=paid",
        "organisation=x",
        "matched=perhaps",
        "currency=EURO",
    ],
)
def test_an_invalid_parameter_is_refused(world: World, query: str) -> None:
    assert world.web.get(f"/v1/invoices?{query}", headers=headers(world.key)).status_code == 400


def test_the_api_explains_on_which_records_an_invoice_is(world: World) -> None:
    deal, matched, stray = deal_with_invoice(world)
    bill = world.invoice(matched.contact, type="ACCPAY")
    draft = world.invoice(matched.contact, status="DRAFT")
    world.pin(deal, stray)
    world.settle()

    admin_key = access.create_key(world.account, "An admin's key", ["admin"])

    def get(invoice_id: object, key: str = admin_key) -> httpx.Response:
        return world.web.get(f"/v1/invoices/{invoice_id}", headers=headers(key))

    read = get(matched.id, world.key)
    assert [record["reasons"] for record in read.json()["records"]] == [None, None, None]
    assert "ann@acme.test" not in read.text, "email addresses are for admins"
    payload = get(matched.id).json()
    assert {record["record"]["type"] for record in payload["records"]} == {"person", "company", "opportunity"}
    assert {reason["email"] for record in payload["records"] for reason in record["reasons"]} == {"ann@acme.test"}
    assert payload["record_count"] == 3
    (record,) = get(stray.id).json()["records"]
    assert (record["record"]["id"], record["reasons"], record["pin"]["pinned_by"]) == (deal, [], "Ada Admin")
    assert get(bill.id).status_code == 404, "the account hides bills"
    assert get(uuid4()).status_code == 404
    assert get("x").status_code == 400
    world.sandbox.simulate("delete_invoice", invoice=draft.id)
    world.settle()
    assert get(draft.id).status_code == 404


def test_an_admin_key_pins_and_unpins(world: World, admin_key: dict[str, str]) -> None:
    deal, _, stray = deal_with_invoice(world)
    path = f"/v1/opportunities/{deal}/pinned-invoices/{stray.id}"
    assert world.web.post(path, headers=headers(world.key)).status_code == 403
    assert world.web.delete(path, headers=headers(world.key)).status_code == 403
    assert world.web.post(path).status_code == 401
    assert [world.web.post(path, headers=admin_key).status_code for _ in range(2)] == [204, 204]
    world.settle()
    assert stray.number in world.invoice_numbers("opportunities", deal)
    for wrong in (f"1/pinned-invoices/{stray.id}", f"{deal}/pinned-invoices/{uuid4()}"):
        assert world.web.post(f"/v1/opportunities/{wrong}", headers=admin_key).status_code == 404, wrong
    report = world.web.get(f"/v1/opportunities/{deal}/match", headers=admin_key).json()
    assert ([pin["number"] for pin in report["pinned"]], report["pinned_only"]) == ([stray.number], False)
    assert [world.web.delete(path, headers=admin_key).status_code for _ in range(2)] == [204, 204]
    world.settle()
    assert stray.number not in world.invoice_numbers("opportunities", deal)
    with account_transaction(world.account) as session:
        entries = [entry for entry in audit.latest(session, world.account) if entry.action.startswith("invoice.")]
    assert [entry.action for entry in entries] == ["invoice.unpinned", "invoice.pinned"]
    assert all(entry.actor.startswith("API key pat_") for entry in entries)


def test_another_account_sees_pins_and_searches_nothing_of_this_one(unconnected: World) -> None:
    first = World(unconnected.sandbox, unconnected.web).open(name="First")
    second = World(unconnected.sandbox, unconnected.web).open(name="Second")
    _, _, stray = deal_with_invoice(first)
    deal, _, _ = deal_with_invoice(second)
    invoice = first.web.get(f"/v1/invoices/{stray.id}", headers=headers(first.key))
    assert invoice.status_code == 200
    assert first.web.get(f"/v1/invoices/{stray.id}", headers=headers(second.key)).status_code == 404
    ids = {row["id"] for row in first.web.get("/v1/invoices", headers=headers(second.key)).json()["invoices"]}
    assert len(ids) == 2
    assert stray.id not in ids
    key = headers(access.create_key(second.account, "admin", ["admin"]))
    organisation = invoice.json()["organisation"]["id"]
    foreign = first.web.get("/v1/invoices", params={"organisation": organisation}, headers=key).json()
    assert foreign["invoices"] == []
    assert first.web.post(f"/v1/opportunities/{deal}/pinned-invoices/{stray.id}", headers=key).status_code == 404
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM invoice_pin")).scalar_one() == 0


def test_the_search_of_records_finds_invoices_the_exact_number_first(world: World, admin: AdminBrowser) -> None:
    contact = world.contact("Ann Harper", "ann@acme.test")
    world.person("ann@acme.test")
    first = world.invoice(contact, number="INV-1", reference="PO 77")
    for number in range(11):
        world.invoice(contact, number=f"INV-1{number:02}")
    world.settle()

    def listed_numbers(search: str) -> list[str]:
        page = admin.find(search)
        section = page.text.split("<h2>Invoices</h2>")
        return [] if len(section) == 1 else re.findall(r'/invoices/[0-9a-f-]+">([^<]+)<', section[1])

    assert listed_numbers("inv-1")[0] == first.number
    assert len(listed_numbers("inv-1")) == 10
    assert "Show all in Invoices" in page_text(admin)
    assert listed_numbers("po 77") == [first.number]
    assert len(listed_numbers("harper")) == 10
    assert listed_numbers("nobody%") == []


def test_the_command_explains_an_invoice_by_number_or_id(world: World) -> None:
    deal, matched, stray = deal_with_invoice(world)
    world.pin(deal, stray)
    world.settle()
    for name in (matched.number.lower(), matched.id):
        completed = patina("explain", "invoice", name)
        assert completed.returncode == 0, completed.stderr
        assert "matched by ann@acme.test (person" in completed.stdout
        assert completed.stdout.endswith("explain ok: on 3 records\n")
    assert "pinned by Ada Admin on" in patina("explain", "invoice", stray.number).stdout
    assert '"record_count":1' in patina("explain", "invoice", stray.number, "--json").stdout
    unknown = patina("explain", "invoice", "INV")
    assert unknown.returncode == 1
    assert "No invoice has the number or ID INV." in unknown.stderr
    assert patina("explain", "person", "x").returncode == 2


def test_an_invoice_that_matches_by_email_domain_says_so_everywhere(world: World, admin: AdminBrowser) -> None:
    company = world.company("acme.test")
    invoice = world.invoice("billing@acme.test")
    world.match_email_domains()
    world.settle()
    assert f"matched by the email domain acme.test (company {company})" in (
        patina("explain", "invoice", invoice.number).stdout
    )
    admin.open(f"/invoices/{invoice.id}")
    assert "The email domain of this company is acme.test" in page_text(admin)
    key = access.create_key(world.account, "An admin's key", ["admin"])
    payload = world.web.get(f"/v1/invoices/{invoice.id}", headers=headers(key)).json()
    assert [reason["email_domain"] for record in payload["records"] for reason in record["reasons"]] == ["acme.test"]
