"""What a record's invoices can be filtered, searched and sorted by, and which columns and statuses show."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from html import unescape
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from services import access
from store.accounts import account_settings
from store.db.database import account_transaction, transaction
from store.db.enums import InvoiceColumn, InvoiceStatus, RecordType
from store.read_model import record_invoices
from store.read_model.record_invoices import InvoiceFilter, InvoiceListItem, InvoiceSort
from tests.support.admin import AdminBrowser, sign_in
from tests.support.databases import clear_budgets
from tests.support.world import World


@pytest.fixture
def panel(world: World) -> dict[str, str]:
    """A panel token as a header."""
    clear_budgets("throttle")
    return {"Authorization": f"Bearer {access.create_key(world.account, 'The panel', ['panel'])}"}


@pytest.fixture
def admin(world: World) -> AdminBrowser:
    """A signed-in admin of the world's account."""
    clear_budgets("throttle")
    return sign_in(world)


def change(world: World, **values: Any) -> None:
    """Change the account's settings."""
    with account_transaction(world.account) as session:
        before = account_settings.get(session, world.account)
        account_settings.update(session, world.account, replace(before, **values))


def fill(world: World) -> int:
    """A person with a voided, a draft, a paid, two overdue and an open invoice, a credit note and a bill."""
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    today = world.today()
    voided = world.invoice(contact, "10.00", number="A-1", reference="Alpha")
    world.sandbox.simulate("void_invoice", invoice=voided.id)
    world.invoice(contact, "20.00", status="DRAFT", number="A-2")
    paid = world.invoice(contact, "30.00", number="A-3", reference="PO 100%_7")
    world.sandbox.simulate("pay_invoice", invoice=paid.id)
    for days, total, number in ((40, "40.00", "B-4"), (3, "700.00", "B-5")):
        world.invoice(contact, total, number=number, due=(today - timedelta(days=days)).isoformat())
    world.invoice(contact, "50.00", number="B-6", due=(today + timedelta(days=9)).isoformat())
    world.invoice(contact, "60.00", number="C-7", currency="USD", due=(today - timedelta(days=1)).isoformat())
    world.sandbox.simulate("create_credit_note", contact=contact, total="5.00")
    world.invoice(contact, "80.00", type="ACCPAY", number="S-8", due=(today + timedelta(days=1)).isoformat())
    change(world, bill_record_types=tuple(RecordType))
    world.settle()
    return ann


def listed(world: World, record: int, **values: Any) -> list[InvoiceListItem]:
    selected = InvoiceFilter(**values)
    with account_transaction(world.account) as session:
        return record_invoices.list_invoices(
            session, world.account, RecordType.PERSON, record, selected=selected, limit=50
        )


def numbers(world: World, record: int, **values: Any) -> list[str | None]:
    return [row.number for row in listed(world, record, **values)]


def part(world: World, headers: dict[str, str], record: int, query: str = "") -> httpx.Response:
    return world.web.get(f"/panel/records/person/{record}{query}", headers=headers)


def test_invoices_are_sorted_searched_and_filtered(world: World) -> None:
    ann = fill(world)
    newest = ["S-8", "CN-0001", "C-7", "B-6", "B-5", "B-4", "A-3", "A-2", "A-1"]
    assert numbers(world, ann) == newest
    by_due = numbers(world, ann, sort=InvoiceSort.DUE)
    assert by_due[:5] == ["B-4", "B-5", "C-7", "S-8", "B-6"]
    assert set(by_due[-2:]) == {"CN-0001", "A-2"}, "what is never due comes last"
    assert numbers(world, ann, sort=InvoiceSort.BALANCE)[:4] == ["B-5", "S-8", "C-7", "B-6"]
    unpaid_first = numbers(world, ann, sort=InvoiceSort.UNPAID)
    assert unpaid_first == ["C-7", "B-5", "B-4", "S-8", "B-6", "CN-0001", "A-3", "A-2", "A-1"]
    assert numbers(world, ann, search="b-") == ["B-6", "B-5", "B-4"]
    assert numbers(world, ann, search="ALPHA") == ["A-1"]
    assert numbers(world, ann, search="100%_7") == ["A-3"], "no character is a wildcard"
    assert numbers(world, ann, search="%") == ["A-3"]
    assert numbers(world, ann, status="UNPAID", type="ACCREC", currency="NZD") == ["B-6", "B-5", "B-4"]
    assert numbers(world, ann, currency="USD") == ["C-7"]
    (row,) = listed(world, ann, type="ACCPAY")
    assert (row.number, row.organisation, row.matches) == ("S-8", "Acme Sales Ltd 1", 1)
    assert numbers(world, ann, organisation_id=row.organisation_id) == newest
    assert numbers(world, ann, organisation_id=row.organisation_id + 1) == []


def test_each_tile_lists_exactly_what_it_is_the_sum_of(world: World, panel: dict[str, str]) -> None:
    ann = fill(world)
    html = part(world, panel, ann).text
    tiles = re.findall(
        r'<a class="tile [^"]*" id="[^"]*" data-view href="[^"?]*([^"]*)">([^<]+?) <strong>([^<]+)', html
    )
    sums = {(label, amount): unescape(query) for query, label, amount in tiles}
    expected = {
        ("Overdue", "NZD 740.00"): {"B-4", "B-5"},
        ("Outstanding", "NZD 790.00"): {"B-4", "B-5", "B-6"},
        ("Credit to use", "NZD 5.00"): {"CN-0001"},
        ("Overdue", "USD 60.00"): {"C-7"},
        ("Outstanding", "USD 60.00"): {"C-7"},
        ("Bills to pay", "NZD 80.00"): {"S-8"},
    }
    assert sums.keys() == expected.keys()
    for name, query in sums.items():
        filtered = part(world, panel, ann, f"{query}&limit=50").text
        assert set(re.findall(r'data-number="([^"]+)"', filtered)) == expected[name], name
        assert filtered.count('aria-current="true"') == 1, "and is marked, with the way back"
        assert f'href="/records/person/{ann}" aria-current="true"' in filtered


def test_the_statuses_do_not_overlap_and_add_up_to_all(world: World, panel: dict[str, str]) -> None:
    ann = fill(world)
    html = part(world, panel, ann).text
    options = re.search(r'<select id="status".*?</select>', html, re.DOTALL)
    assert options
    counts = {label: int(count) for label, count in re.findall(r">([\w ]+) \((\d+)\)<", options[0])}
    statuses = {"Overdue": 3, "Awaiting payment": 2, "Draft": 1, "Paid": 1, "Voided": 1, "Credit to use": 1}
    assert counts == {"All": 9, **statuses}
    assert sum(counts.values()) == 2 * counts["All"]
    assert "Outstanding (" not in options[0]
    assert "Outstanding (3)" in part(world, panel, ann, "?status=UNPAID&currency=NZD&type=ACCREC").text


def test_a_kept_filter_of_another_record_hides_nothing_and_a_status_says_how_to_clear_it(
    world: World, panel: dict[str, str]
) -> None:
    fill(world)
    bob = world.person("bob@acme.test")
    world.invoice("bob@acme.test", "9.00", number="Z-1")
    world.invoice("bob@acme.test", "8.00", number="Z-2")
    world.settle()
    assert part(world, panel, bob, "?currency=USD&type=ACCPAY&organisation=99").text.count("data-number=") == 2
    empty = part(world, panel, bob, "?status=PAID&sort=due").text
    assert "No invoices match these filters." in empty
    assert f'href="/records/person/{bob}?sort=due">Clear filters and show all 2</a>' in empty
    assert "Outstanding <strong>NZD 17.00</strong>" in empty, "sums are never filtered"


@pytest.mark.parametrize(
    "query", ["?organisation=x", "?sort=colour", f"?search={'x' * 101}", "?limit=0", "?limit=1001"]
)
def test_a_malformed_filter_is_refused(world: World, panel: dict[str, str], query: str) -> None:
    assert part(world, panel, 1, query).status_code == 400


def test_hidden_statuses_and_bills_by_record_type_show_nowhere(world: World, panel: dict[str, str]) -> None:
    ann = fill(world)
    change(
        world,
        hidden_statuses=(InvoiceStatus.DRAFT, InvoiceStatus.VOIDED),
        bill_record_types=(RecordType.LEAD,),
        credit_record_types=(RecordType.COMPANY,),
    )
    assert world.invoice_numbers("people", ann) == ["C-7", "B-6", "B-5", "B-4", "A-3"]
    html = part(world, panel, ann, "?limit=50").text
    assert 'data-count="5"' in html
    for hidden in ("A-1", "A-2", "S-8", "CN-0001", "Bills to pay", "Credit to use"):
        assert hidden not in html
    lead = world.lead("ann@acme.test")
    world.settle()
    assert "S-8" in world.invoice_numbers("leads", lead)


def test_an_admin_chooses_columns_and_their_order(world: World, admin: AdminBrowser, panel: dict[str, str]) -> None:
    ann = fill(world)
    admin.open("/settings")
    page = admin.open("/settings/columns")
    assert page.text.count(' name="column"') == len(InvoiceColumn)
    page = admin.send("/settings/columns", column=["number", "balance", "status", "reference"], action="save")
    assert "Columns saved." in page.text
    page = admin.send("/settings/columns", column=["number", "balance", "status", "reference"], action="up:reference")
    html = part(world, panel, ann, "?limit=50").text
    head = re.search(r"<thead.*?</thead>", html, re.DOTALL)
    assert head
    assert re.findall(r">([A-Z][\w ]+)</th>", head[0]) == ["Number", "Balance due", "Reference", "Status"]
    assert "PO 100%_7" in html
    assert 'class="invoices table"' in html
    every = [column.value for column in InvoiceColumn]
    admin.send("/settings/columns", column=every, action="down:balance")
    html = part(world, panel, ann, "?limit=50").text
    assert 'class="invoices"' in html, "too wide for a table"
    assert html.index(">Reference</th>") < html.index(">Balance due</th>")
    admin.send("/settings/columns", column=["issuer"], action="restore")
    with transaction() as session:
        assert account_settings.get(session, world.account).shown_columns == account_settings.DEFAULT_COLUMNS
        details = (
            session.execute(text("SELECT detail FROM audit_log WHERE action = 'settings.changed'")).scalars().all()
        )
    assert "columns: number, balance due, reference, status" in details


@pytest.mark.parametrize("form", [{"column": ["colour"]}, {"column": ["issuer"], "action": "sideways:issuer"}])
def test_an_unknown_column_or_button_changes_nothing(world: World, admin: AdminBrowser, form: dict[str, Any]) -> None:
    admin.open("/settings/columns")
    assert admin.send("/settings/columns", form).status_code == 422
    with transaction() as session:
        assert account_settings.get(session, world.account).shown_columns == account_settings.DEFAULT_COLUMNS


def test_the_number_is_always_the_first_column(world: World, admin: AdminBrowser) -> None:
    admin.open("/settings/columns")
    admin.send("/settings/columns", column=["status", "number", "status"], action="up:status")
    with transaction() as session:
        columns = account_settings.get(session, world.account).shown_columns
    assert columns == (InvoiceColumn.NUMBER, InvoiceColumn.STATUS)
