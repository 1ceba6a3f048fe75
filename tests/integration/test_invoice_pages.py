"""The list of the account's invoices: search, filters, sums, order and export; and the page of one invoice."""

from __future__ import annotations

import base64
import csv
import io
import re
from urllib.parse import unquote
from uuid import uuid4

import pytest
from sqlalchemy import text

from runtime.settings import override_settings
from store.accounts import audit
from store.db.database import account_transaction, transaction
from store.read_model import account_invoices
from store.read_model.account_invoices import AccountInvoiceFilter, Sort
from tests.integration.test_admin_pages import page_text
from tests.support.admin import AdminBrowser
from tests.support.world import World
from web.api import cursors
from web.presentation.problems import ProblemError


def numbers(browser: AdminBrowser) -> list[str]:
    """The numbers of the listed invoices, in their order."""
    assert browser.page is not None
    return re.findall(r'class="number"><a href="/invoices/[0-9a-f-]+">([^<]+)</a>', browser.page.text)


def counts(browser: AdminBrowser) -> dict[str, int]:
    """The counts beside the statuses."""
    assert browser.page is not None
    pairs = re.findall(r'>([A-Z][a-z ]+) <span class="count">(\d+)</span>', browser.page.text)
    return {label: int(count) for label, count in pairs}


def make_invoices(world: World) -> dict[str, str]:
    """One invoice of every status, and a credit note; the number of each by what it is."""
    ann = world.contact("Ann Harper", "ann@acme.test")
    world.person("ann@acme.test")
    stray = world.contact("Stray Ltd", "stray@else.test")
    made = {
        "overdue": world.invoice(ann, "100.00", due="2020-01-31"),
        "awaiting": world.invoice(ann, "50.00", due="2999-01-31"),
        "draft": world.invoice(stray, "10.00", status="DRAFT"),
        "submitted": world.invoice(stray, "20.00", status="SUBMITTED"),
        "paid": world.invoice(ann, "30.00", currency="GBP"),
        "voided": world.invoice(ann, "40.00"),
        "deleted": world.invoice(ann, "60.00", status="DRAFT"),
        "bill": world.invoice(stray, "70.00", type="ACCPAY"),
    }
    world.sandbox.simulate("pay_invoice", invoice=made["paid"].id)
    world.sandbox.simulate("void_invoice", invoice=made["voided"].id)
    world.sandbox.simulate("delete_invoice", invoice=made["deleted"].id)
    world.sandbox.simulate("create_credit_note", contact=ann, total="5.00")
    world.settle()
    return {name: invoice.number for name, invoice in made.items()}


def test_every_shown_invoice_is_listed_once_under_exactly_one_status(world: World, admin: AdminBrowser) -> None:
    number = make_invoices(world)
    admin.open("/invoices")
    assert len(numbers(admin)) == len(set(numbers(admin))) == 7
    assert numbers(admin)[0] == "CN-0001", "newest created first"
    assert {number["deleted"], number["bill"]}.isdisjoint(numbers(admin))
    by_status = counts(admin)
    assert by_status.pop("All") == sum(by_status.values()) == 7
    assert by_status == {
        "Overdue": 1,
        "Awaiting payment": 1,
        "Awaiting approval": 1,
        "Draft": 1,
        "Paid": 1,
        "Voided": 1,
        "Credit to use": 1,
    }
    for status, name in (("OVERDUE", "overdue"), ("AUTHORISED", "awaiting"), ("VOIDED", "voided"), ("DRAFT", "draft")):
        admin.open(f"/invoices?status={status}")
        assert numbers(admin) == [number[name]], status
        assert counts(admin)["All"] == 7, "the counts stay"
    assert "aria-current" in (admin.page.text if admin.page else "")


def test_sums_are_of_what_is_filtered_and_never_mix_currencies_or_sales_with_bills(
    world: World, admin: AdminBrowser
) -> None:
    make_invoices(world)
    admin.open("/invoices")
    assert "Total GBP 30.00 Overdue NZD 100.00 Outstanding NZD 150.00 Total NZD 180.00" in page_text(admin)
    assert "Credit to use NZD 5.00" in page_text(admin)
    admin.open("/invoices?status=OVERDUE")
    assert "Overdue NZD 100.00 Outstanding NZD 100.00 Total NZD 100.00" in page_text(admin)
    assert "GBP" not in page_text(admin).split("Sort by")[1].split("Number")[0].replace("GBP None", "")
    with transaction() as session:
        session.execute(text("UPDATE account SET bill_record_types = '{person}'"))
    admin.open("/invoices")
    assert "Bills to pay NZD 70.00 Bills in total NZD 70.00" in page_text(admin)
    assert counts(admin)["All"] == 8


def test_filters_narrow_the_list_and_each_other(world: World, admin: AdminBrowser) -> None:
    number = make_invoices(world)
    admin.open("/invoices?currency=GBP")
    assert numbers(admin) == [number["paid"]]
    admin.open("/invoices?matched=no")
    assert set(numbers(admin)) == {number["draft"], number["submitted"]}
    admin.open("/invoices?matched=yes&status=OVERDUE")
    assert numbers(admin) == [number["overdue"]]
    admin.open("/invoices?invoice_type=ACCRECCREDIT")
    assert numbers(admin) == ["CN-0001"]
    admin.open("/invoices?invoice_type=ACCRECCREDIT&currency=GBP")
    assert "No invoice matches this search." in page_text(admin)
    for wrong in ("currency=euro", "order=name", "matched=maybe", "invoice_type=%3Cb%3E", "organisation=x", "status=a"):
        assert admin.http.get(f"/invoices?{wrong}").status_code == 422, wrong
    for foreign in ("organisation=424242", "status=NEW", "invoice_type=NEW"):
        assert admin.open(f"/invoices?{foreign}").status_code == 200, foreign
        assert numbers(admin) == []


def test_a_search_finds_numbers_and_contacts_and_hides_its_text_in_the_url(world: World, admin: AdminBrowser) -> None:
    number = make_invoices(world)
    admin.open("/invoices")
    page = admin.send("/invoices", q="ann harper", status="OVERDUE", order="due")
    assert numbers(admin) == [number["overdue"]]
    assert "harper" not in unquote(str(page.url)).lower()
    assert 'value="ann harper"' in page.text
    admin.send("/invoices", q=number["draft"].lower())
    assert numbers(admin) == [number["draft"]]
    for hostile in ("%", "_", "'; --", "\\", "²", "<script>"):
        admin.open("/invoices")
        assert admin.send("/invoices", q=hostile).status_code == 200, hostile
        assert numbers(admin) == [], hostile
    admin.open("/invoices")
    refused = admin.send("/invoices", q="x" * 201)
    assert refused.status_code == 422
    assert "too long" in page_text(admin)
    assert admin.open("/invoices?search=gAAAnonsense").status_code == 200
    assert "This search has expired" in page_text(admin)


@pytest.mark.parametrize("sort", ["created", "due", "balance"])
def test_pages_in_any_order_have_every_invoice_once(world: World, sort: Sort) -> None:
    contact = world.contact("Ann", "ann@acme.test")
    for number in range(7):
        due = None if number % 3 == 0 else f"2026-1{number % 2}-01"
        world.invoice(contact, f"{10 + number % 2}.00", due=due)
    world.sandbox.simulate("create_credit_note", contact=contact, total="5.00")
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE xero_invoice SET balance = NULL WHERE number = 'INV-0003'"))
        session.execute(text("UPDATE xero_invoice SET created_at = '2026-01-01' WHERE number < 'INV-0004'"))
    with account_transaction(world.account) as session:

        def page(after: account_invoices.ListCursor | None, limit: int) -> list[account_invoices.AccountInvoice]:
            return list(account_invoices.list_page(session, world.account, AccountInvoiceFilter(), sort, after, limit))

        everything = page(None, 50)
        collected: list[account_invoices.AccountInvoice] = []
        while rows := page(collected[-1].cursor if collected else None, 3):
            for row in rows:
                assert cursors.decode_listed(cursors.encode_listed(row.cursor), sort) == row.cursor
            collected += rows
    assert [row.item.number for row in collected] == [row.item.number for row in everything]
    assert len({row.item.invoice_id for row in collected}) == 8


def test_a_cursor_that_patina_did_not_make_is_refused(world: World, admin: AdminBrowser) -> None:
    for wrong in ("", "x", "!", "MjAyNiAx", base64.urlsafe_b64encode(b"99999-99 " + b"a" * 36).decode()):
        with pytest.raises(ProblemError):
            cursors.decode_listed(wrong, "created")
        assert admin.http.get("/invoices", params={"after": wrong or "="}).status_code == 400, wrong


def test_the_export_has_what_the_list_shows_without_formulas(world: World, admin: AdminBrowser) -> None:
    number = make_invoices(world)
    world.invoice(world.contact("=cmd()", "cmd@acme.test"), "9.00")
    world.settle()
    response = admin.http.get("/export/invoice-list.csv?status=OVERDUE")
    (row,) = csv.DictReader(io.StringIO(response.text))
    assert (row["number"], row["contact"], row["balance_due"]) == (number["overdue"], "Ann Harper", "100.00")
    rows = list(csv.DictReader(io.StringIO(admin.http.get("/export/invoice-list.csv").text)))
    assert len(rows) == 8
    assert rows[0]["contact"] == "'=cmd()"
    assert admin.http.get("/export/invoice-list.csv?search=nonsense").status_code == 422
    assert admin.http.get("/export/invoice-list.xlsx").status_code == 404
    with account_transaction(world.account) as session:
        details = [entry.detail for entry in audit.latest(session, world.account) if entry.action == "rows.exported"]
    assert details == ["list of invoices as csv", "filtered list of invoices as csv"]


def test_a_search_that_takes_too_long_says_so_and_keeps_the_form(world: World, admin: AdminBrowser) -> None:
    make_invoices(world)
    admin.open("/invoices")
    with transaction() as session:
        session.execute(
            text(
                "CREATE OR REPLACE FUNCTION is_shown(settings account, record_type text, type text, status text)"
                " RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN true; END $$"
            )
        )
    override_settings({"PAGE_STATEMENT_TIMEOUT_SECONDS": "0.3"})
    page = admin.open("/invoices?status=PAID")
    assert page.status_code == 503
    assert "This search took too long" in page_text(admin)
    assert 'action="/invoices"' in page.text


def test_the_list_says_what_to_do_when_there_is_nothing(world: World, admin: AdminBrowser) -> None:
    admin.open("/invoices")
    assert "No invoices have been imported yet. View import progress" in page_text(admin)
    assert 'aria-current="page">Invoices' in (admin.page.text if admin.page else "")


def test_an_invoice_has_a_page_with_its_facts_and_the_reason_for_every_record(
    world: World, admin: AdminBrowser
) -> None:
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    deal = world.opportunity(company=company)
    invoice = world.invoice(world.contact("Ann Harper", "ann@acme.test"), "115.00", due="2020-01-31")
    world.settle()
    page = admin.open(f"/invoices/{invoice.id}")
    shown = page_text(admin)
    assert f"<h1>{invoice.number}</h1>" in page.text
    for part in ("Sales invoice", "NZD 115.00", "Ann Harper", "ann@acme.test", "as Xero announced it", "days overdue"):
        assert part in shown, part
    assert f"InvoiceID={invoice.id}" in page.text
    for record_type, record_id in (("company", company), ("person", person), ("opportunity", deal)):
        assert f'href="/records/{record_type}/{record_id}"' in page.text
    assert "the email address of A person (at this company) and of the Xero contact Ann Harper" in shown
    admin.open(f"/records/company/{company}")
    assert f'href="/invoices/{invoice.id}"' in (admin.page.text if admin.page else "")
    assert admin.open(f"/invoices/{uuid4()}").status_code == 404
    assert admin.open("/invoices/nonsense").status_code == 404


def test_the_page_of_an_invoice_on_no_record_says_why_and_links_its_contact(world: World, admin: AdminBrowser) -> None:
    company = world.company()
    invoice = world.invoice(world.contact("Stray", "stray@else.test"))
    silent = world.invoice(world.contact("Silent"))
    world.settle()
    admin.open(f"/invoices/{silent.id}")
    assert "None: Silent has no email address in Xero" in page_text(admin)
    page = admin.open(f"/invoices/{invoice.id}")
    assert "no lead or person in Copper has an email address of Stray (stray@else.test)" in page_text(admin)
    ends = dict(re.findall(r'type="hidden" name="(organisation|contact)" value="([^"]+)"', page.text))
    admin.send("/links", {**ends, "type": "company", "record": str(company)})
    world.settle()
    admin.open(f"/invoices/{invoice.id}")
    assert "Sam Admin linked this company to the Xero contact Stray" in page_text(admin)


def test_deleted_voided_and_hidden_invoices_have_a_page(world: World, admin: AdminBrowser) -> None:
    world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    deleted, voided = world.invoice(contact, status="DRAFT"), world.invoice(contact)
    bill = world.invoice(contact, type="ACCPAY")
    world.settle()
    world.sandbox.simulate("delete_invoice", invoice=deleted.id)
    world.sandbox.simulate("void_invoice", invoice=voided.id)
    world.settle()
    admin.open(f"/invoices/{deleted.id}")
    assert "This invoice was deleted in Xero" in page_text(admin)
    admin.open(f"/invoices/{voided.id}")
    assert "Voided" in page_text(admin)
    assert "Matched by ann@acme.test" in page_text(admin)
    admin.open(f"/invoices/{bill.id}")
    assert "Your settings hide bills, so nobody sees it in Copper." in page_text(admin)
