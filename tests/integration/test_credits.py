"""Credit notes, prepayments and overpayments: mirrored, matched and shown like invoices, and in the sums."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from runtime.settings import override_settings, settings
from services import health
from store.accounts import account_settings
from store.db.database import account_transaction, transaction
from store.db.enums import CREDIT_TYPES, CreditResource, InvoiceStatus, InvoiceType, RecordType
from store.read_model import balances, receivables, record_invoices
from store.read_model.receivables import ReceivablesQuery
from store.read_model.record_invoices import InvoiceFilter
from store.sync import refresh_candidates
from tests.support.admin import AdminBrowser
from tests.support.world import World
from web.admin.status import get_account_status
from web.presentation.findings import finding_message
from worker.sync import run_processor
from worker.vendors.sync_types import RunKind

ALL_CREDITS = tuple(CreditResource)
PURCHASES = {
    InvoiceType.BILL,
    InvoiceType.BILL_CREDIT_NOTE,
    InvoiceType.BILL_PREPAYMENT,
    InvoiceType.BILL_OVERPAYMENT,
}
CREATE = {
    CreditResource.CREDIT_NOTES: "create_credit_note",
    CreditResource.PREPAYMENTS: "create_prepayment",
    CreditResource.OVERPAYMENTS: "create_overpayment",
}


def show(world: World, *credits: CreditResource, bills: bool = False) -> None:
    """Change what the account shows, as the settings page does."""
    with account_transaction(world.account) as session:
        before = account_settings.get(session, world.account)
        changed = replace(before, shown_credits=credits, bill_record_types=tuple(RecordType) if bills else ())
        account_settings.update(session, world.account, changed)


def create(world: World, resource: CreditResource, contact: str, total: str = "100.00", **values: Any) -> str:
    return str(world.sandbox.simulate(CREATE[resource], contact=contact, total=total, **values)["credit"])


def sums(world: World, record: int, record_type: RecordType = RecordType.PERSON) -> list[tuple[bool, str, str, str]]:
    with account_transaction(world.account) as session:
        rows = balances.list_for_record(session, world.account, record_type, record)
    return [(row.is_purchase, row.currency, f"{row.open:.2f}", f"{row.credit:.2f}") for row in rows]


def only_row(world: World, person: int) -> dict[str, Any]:
    (row,) = world.rows("people", person)
    return row


def test_the_functions_of_the_schema_agree_with_the_enum(world: World) -> None:
    resource_by_type = {name: resource for resource, names in CREDIT_TYPES.items() for name in names}
    query = text("""
        SELECT credit_resource(:type) AS resource, is_purchase(:type) AS is_purchase,
               is_shown(a, 'person', :type, 'PAID') AS on_people, is_shown(a, 'lead', :type, 'PAID') AS on_leads,
               is_shown(a, NULL, :type, 'PAID') AS anywhere, is_shown(a, 'lead', :type, 'VOIDED') AS voided
        FROM account a
    """)
    with transaction() as session:
        settings = replace(account_settings.get(session, world.account), credit_record_types=(RecordType.LEAD,))
        settings = replace(settings, bill_record_types=(RecordType.PERSON,), hidden_statuses=(InvoiceStatus.VOIDED,))
        account_settings.update(session, world.account, settings)
        for name in [*InvoiceType, "", "NEW"]:
            row = session.execute(query, {"type": name}).one()
            assert row.resource == resource_by_type.get(name), name
            assert row.is_purchase == (name in PURCHASES), name
            credits_on_leads = row.resource in {None, "credit_notes"}
            assert row.on_leads == (not row.is_purchase and credits_on_leads), name
            assert row.on_people == (row.resource is None), name
            assert row.anywhere == credits_on_leads, name
            assert not row.voided, name


def test_what_awaits_payment_cannot_be_hidden_by_its_status(world: World) -> None:
    query = text("SELECT is_shown(a, 'person', 'ACCREC', 'AUTHORISED') FROM account a")
    with transaction() as session:
        session.execute(text("UPDATE account SET hidden_statuses = '{AUTHORISED,PAID}'"))
        assert session.execute(query).scalar_one()


def test_a_credit_note_is_a_row_in_order_of_created_date_and_counts_as_credit(world: World) -> None:
    ann = world.person("ann@acme.test")
    first = world.invoice("ann@acme.test", "150.00")
    credit = create(world, CreditResource.CREDIT_NOTES, first.contact, "40.00")
    last = world.invoice("ann@acme.test", "50.00")
    world.settle()
    rows = world.rows("people", ann)
    assert [row["id"] for row in rows] == [last.id, credit, first.id]
    row = rows[1]
    assert row["type"] == "ACCRECCREDIT"
    assert (row["total_due"], row["balance_due"], row["overdue_days"]) == ("40.00", "40.00", 0)
    assert row["created_at_source"] == "webhook", "its CREATE event has the time"
    assert row["due_date"] is None
    assert "ViewCreditNote.aspx" in row["url"]
    assert sums(world, ann) == [(False, "NZD", "200.00", "40.00")]
    world.check()


def test_applying_a_credit_note_shows_on_both_even_if_xero_sends_no_invoice_event(world: World) -> None:
    ann = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", "150.00")
    credit = create(world, CreditResource.CREDIT_NOTES, invoice.contact, "40.00")
    world.settle()
    world.sandbox.simulate(
        "apply_credit", credit=credit, invoice=invoice.id, amount="30.00", webhook=True, invoice_webhook=False
    )
    world.settle()
    amounts = {row["id"]: row["balance_due"] for row in world.rows("people", ann)}
    assert amounts == {invoice.id: "120.00", credit: "10.00"}
    assert sums(world, ann) == [(False, "NZD", "120.00", "10.00")]

    world.sandbox.simulate("apply_credit", credit=credit, invoice=invoice.id, invoice_webhook=False)
    world.settle()
    statuses = {row["id"]: (row["status"], row["balance_due"]) for row in world.rows("people", ann)}
    assert statuses == {invoice.id: ("AUTHORISED", "110.00"), credit: ("PAID", "0.00")}
    assert sums(world, ann) == [(False, "NZD", "110.00", "0.00")]

    world.sandbox.simulate("remove_allocation", credit=credit, invoice=invoice.id, invoice_webhook=False)
    world.settle()
    assert {row["id"]: row["balance_due"] for row in world.rows("people", ann)} == {
        invoice.id: "150.00",
        credit: "40.00",
    }
    world.check()


def test_a_catch_up_finds_credits_without_events(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    world.settle()
    credit = create(world, CreditResource.CREDIT_NOTES, contact, webhook=False)
    world.catch_up()
    world.settle()
    assert only_row(world, ann)["id"] == credit
    assert only_row(world, ann)["created_at_source"] == "issue_date"


def test_a_reconciliation_reports_and_repairs_drift_of_credits(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    changed, extra = (create(world, CreditResource.CREDIT_NOTES, contact) for _ in range(2))
    world.settle()
    missing = create(world, CreditResource.CREDIT_NOTES, contact, webhook=False)
    with transaction() as session:
        session.execute(text("UPDATE xero_invoice SET balance = 1 WHERE invoice_id = :id"), {"id": changed})
        copy = {"id": extra, "other": str(UUID(int=7))}
        session.execute(
            text(
                "INSERT INTO xero_invoice (account_id, organisation_id, invoice_id, contact_id, type, status,"
                " created_at, created_source, updated_at, fetched_at, changed_at) SELECT account_id, organisation_id,"
                " :other, contact_id, type, status, created_at, created_source, updated_at, fetched_at, changed_at"
                " FROM xero_invoice WHERE invoice_id = :id"
            ),
            copy,
        )
    world.advance_clock()
    drift = {"missing": 1, "stale": 1, "extra": 1}
    assert world.reconcile(dry=True)["credit_notes"] == drift
    assert world.reconcile()["credit_notes"] == drift
    world.settle()
    assert {row["id"] for row in world.rows("people", ann)} == {changed, extra, missing}
    world.check()


@pytest.mark.parametrize("resource", [CreditResource.PREPAYMENTS, CreditResource.OVERPAYMENTS])
def test_other_credits_show_once_the_account_chooses_them(world: World, resource: CreditResource) -> None:
    override_settings({"XERO_SCOPES": f"{settings().xero_scopes} accounting.payments.read"})
    world.authorise(world.tenants)
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    first = create(world, resource, contact, "75.00")
    world.settle()
    world.catch_up()
    assert world.rows("people", ann) == []
    assert world.sandbox.calls(f"/{resource.value.capitalize()}") == 0, "what nobody sees is not fetched"

    show(world, resource)
    world.catch_up()
    world.settle()
    row = only_row(world, ann)
    assert (row["id"], row["type"], row["number"]) == (first, f"RECEIVE-{resource.value.upper()[:-1]}", None)
    assert sums(world, ann) == [(False, "NZD", "0.00", "75.00")]

    second = create(world, resource, contact, "25.00")
    world.settle()
    world.catch_up()
    world.settle()
    assert {row["id"] for row in world.rows("people", ann)} == {first, second}
    assert world.reconcile() == {}

    show(world)
    assert world.rows("people", ann) == []
    assert sums(world, ann) == []


def test_suppliers_credits_show_with_bills_only(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Supplies Ltd", "ann@acme.test")
    credit = create(world, CreditResource.CREDIT_NOTES, contact, "30.00", type="ACCPAYCREDIT")
    world.invoice(contact, "80.00", type="ACCPAY")
    world.settle()
    assert world.rows("people", ann) == []
    assert sums(world, ann) == []
    show(world, CreditResource.CREDIT_NOTES, bills=True)
    (row,) = [row for row in world.rows("people", ann) if row["id"] == credit]
    assert row["issuer"] == "Supplies Ltd"
    assert sums(world, ann) == [(True, "NZD", "80.00", "30.00")]
    show(world, bills=True)
    assert sums(world, ann) == [(True, "NZD", "80.00", "0.00")]


def test_a_burst_of_credit_notes_is_fetched_as_one_page_of_changes(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    world.settle()
    before = world.sandbox.calls("/CreditNotes"), world.sandbox.calls("/Invoices")
    for _ in range(30):
        create(world, CreditResource.CREDIT_NOTES, contact, "1.00")
    world.settle()
    assert len(world.rows("people", ann)) == 30
    calls = world.sandbox.calls("/CreditNotes") - before[0], world.sandbox.calls("/Invoices") - before[1]
    assert max(calls) <= 4, calls


def test_events_of_credits_that_are_not_shown_still_refresh_the_invoices(world: World) -> None:
    show(world)
    calls = world.sandbox.calls("/CreditNotes")
    ann = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", "150.00")
    credit = create(world, CreditResource.CREDIT_NOTES, invoice.contact, "40.00")
    world.settle()
    world.sandbox.simulate("apply_credit", credit=credit, invoice=invoice.id, invoice_webhook=False)
    world.settle()
    assert only_row(world, ann)["balance_due"] == "110.00"
    assert world.sandbox.calls("/CreditNotes") == calls, "what nobody sees is not fetched"


def test_a_missing_scope_for_credits_is_reported_and_stops_nothing_else(world: World) -> None:
    show(world, CreditResource.CREDIT_NOTES, CreditResource.PREPAYMENTS)
    ann = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", "150.00")
    credit = create(world, CreditResource.CREDIT_NOTES, invoice.contact, "40.00")
    create(world, CreditResource.PREPAYMENTS, invoice.contact, "5.00")
    world.settle()
    world.catch_up()
    assert {row["id"] for row in world.rows("people", ann)} == {invoice.id, credit}
    findings = [
        (finding.detail, finding.resource)
        for finding in get_account_status(world.account).findings
        if finding.code is health.FindingCode.PERMISSION_MISSING
    ]
    assert findings == [("accounting.payments.read", "prepayments")]
    (message,) = [finding_message(finding) for finding in get_account_status(world.account).findings]
    assert "Ask whoever runs Patina to add it to XERO_SCOPES" in message, "reconnecting alone would not help"
    show(world, CreditResource.CREDIT_NOTES)
    codes = {finding.code for finding in get_account_status(world.account).findings}
    assert health.FindingCode.PERMISSION_MISSING not in codes, "what is turned off is not needed"


def test_credits_of_a_merged_contact_move_to_the_merge_target(world: World) -> None:
    ann, bob = world.person("ann@acme.test"), world.person("bob@acme.test")
    source, target = world.contact("Ann", "ann@acme.test"), world.contact("Bob", "bob@acme.test")
    credit = create(world, CreditResource.CREDIT_NOTES, source)
    world.settle()
    assert only_row(world, ann)["id"] == credit
    world.sandbox.simulate("merge_contacts", source=source, target=target)
    world.settle()
    assert world.rows("people", ann) == []
    assert only_row(world, bob)["id"] == credit
    world.check()


def test_void_deleted_and_draft_credit_notes_are_no_credit(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    void = create(world, CreditResource.CREDIT_NOTES, contact)
    draft = create(world, CreditResource.CREDIT_NOTES, contact, status="DRAFT")
    deleted = create(world, CreditResource.CREDIT_NOTES, contact, status="DRAFT")
    world.settle()
    world.sandbox.simulate("void_credit", credit=void)
    world.sandbox.simulate("delete_credit_note", credit=deleted)
    world.settle()
    assert {row["id"]: row["status"] for row in world.rows("people", ann)} == {void: "VOIDED", draft: "DRAFT"}
    assert sums(world, ann) == []
    world.sandbox.simulate("approve_credit_note", credit=draft)
    world.settle()
    assert sums(world, ann) == [(False, "NZD", "0.00", "100.00")]
    world.check()


def test_each_row_has_one_status_to_filter_by(world: World) -> None:
    ann = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", "150.00", due="2020-01-31")
    world.invoice("ann@acme.test", "10.00", due="2999-01-31")
    credits = {create(world, CreditResource.CREDIT_NOTES, invoice.contact) for _ in range(2)}
    used = create(world, CreditResource.CREDIT_NOTES, invoice.contact, "20.00")
    world.sandbox.simulate("apply_credit", credit=used, invoice=invoice.id)
    create(world, CreditResource.CREDIT_NOTES, invoice.contact, status="DRAFT")
    create(world, CreditResource.CREDIT_NOTES, invoice.contact, "30.00", type="ACCPAYCREDIT")
    world.settle()
    show(world, CreditResource.CREDIT_NOTES, bills=True)
    with account_transaction(world.account) as session:
        scope = (session, world.account, RecordType.PERSON, ann)
        counts: Counter[str] = Counter()
        for facet in record_invoices.count_by_facet(*scope):
            counts[facet.status] += facet.invoices
        of_credits = {"CREDIT": 2, "USEDCREDIT": 1, "SUPPLIERCREDIT": 1, "DRAFT": 1}
        assert counts == {"OVERDUE": 1, "AUTHORISED": 1, **of_credits}
        for status, count in {**counts, "UNPAID": 2, "": 7}.items():
            listed = record_invoices.list_invoices(*scope, selected=InvoiceFilter(status=status), limit=50)
            assert {row.matches for row in listed} == {len(listed)} == {count}
        listed = record_invoices.list_invoices(*scope, selected=InvoiceFilter(status="CREDIT"), limit=50)
    assert {str(row.invoice_id) for row in listed} == credits


def test_receivables_name_the_credit_beside_what_is_owed(world: World) -> None:
    world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", "150.00")
    create(world, CreditResource.CREDIT_NOTES, invoice.contact, "40.00")
    world.settle()
    with account_transaction(world.account) as session:
        query = ReceivablesQuery(RecordType.PERSON, "outstanding", "NZD")
        (ranked,) = receivables.read_page(session, world.account, query, currencies=["NZD"], limit=9).receivables
        (total,) = receivables.list_totals(session, world.account)
    assert (ranked.open, ranked.credit) == (total.open, total.credit) == (Decimal("150.00"), Decimal("40.00"))


def test_no_history_is_looked_up_for_credits(world: World) -> None:
    contact = world.contact("Ann", "ann@acme.test")
    create(world, CreditResource.CREDIT_NOTES, contact, webhook=False)
    world.catch_up()
    with transaction() as session:
        (organisation_id,) = session.execute(text("SELECT id FROM xero_organisation")).scalars()
        ids = refresh_candidates.invoices_without_created_date(session, world.account, organisation_id, 90, 10)
    assert ids == []


def test_a_backfill_reads_all_credits_page_by_page(world: World) -> None:
    contact = world.contact("Ann", "ann@acme.test")
    ann = world.person("ann@acme.test")
    show(world, *ALL_CREDITS)
    credits = {create(world, resource, contact, webhook=False) for resource in ALL_CREDITS[:1] for _ in range(3)}
    runs = world.run(RunKind.BACKFILL)
    world.settle()
    assert all(run.error is None for run in runs)
    assert {row["id"] for row in world.rows("people", ann)} == credits


# Pages


def page_text(browser: AdminBrowser) -> str:
    assert browser.page is not None
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", browser.page.text)).strip()


def test_a_record_shows_credits_with_negative_amounts_and_apart_from_what_is_owed(
    world: World, admin: AdminBrowser
) -> None:
    show(world, CreditResource.CREDIT_NOTES)
    ann = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", "150.00", due="2999-01-31")
    create(world, CreditResource.CREDIT_NOTES, invoice.contact, "40.00")
    world.settle()
    admin.open(f"/records/person/{ann}")
    text_of_page = page_text(admin)
    assert "Outstanding NZD 150.00 Credit to use NZD 40.00" in text_of_page
    assert re.search(r"CN-0001 credit note issued \d+ \w+ Credit to use", text_of_page)
    assert "-40.00" in text_of_page.replace("\N{MINUS SIGN}", "-")
    assert "Credit to use (1)" in text_of_page
    admin.open(f"/records/person/{ann}?status=CREDIT")
    assert invoice.number not in page_text(admin)
    admin.open("/receivables?type=person")
    assert "Credit to use" in page_text(admin)
    admin.open(f"/records/person/{ann}/match")
    assert "1 invoice, 1 credit: CN-0001 , INV-0001" in page_text(admin)


def test_a_credit_without_a_number_is_called_what_it_is(world: World, admin: AdminBrowser) -> None:
    override_settings({"XERO_SCOPES": f"{settings().xero_scopes} accounting.payments.read"})
    world.authorise(world.tenants)
    ann = world.person("ann@acme.test")
    create(world, CreditResource.OVERPAYMENTS, world.contact("Ann", "ann@acme.test"))
    admin.open("/settings")
    record_types = list(RecordType)
    form = {"record_type": record_types, "credit_type": record_types, "credits": list(CreditResource)}
    form["invoice_limit"] = ["5"]
    assert admin.send("/settings", form).status_code == 200
    for run in world.runs():
        while run_processor.step(run.account_id, run.id).has_more:
            pass
    admin.open(f"/records/person/{ann}")
    assert re.search(r"Overpayment issued \d+ \w+ Credit to use", page_text(admin))
    admin.open("/audit")
    assert "credit notes, prepayments, overpayments" in page_text(admin)


def test_saving_settings_without_credits_hides_them(world: World, admin: AdminBrowser) -> None:
    ann = world.person("ann@acme.test")
    create(world, CreditResource.CREDIT_NOTES, world.contact("Ann", "ann@acme.test"))
    world.settle()
    assert only_row(world, ann)["type"] == "ACCRECCREDIT"
    admin.open("/settings")
    assert admin.page is not None
    assert 'name="credits" value="credit_notes" checked' in admin.page.text
    admin.send("/settings", {"record_type": list(RecordType), "invoice_limit": "5"})
    assert world.rows("people", ann) == []
    admin.open("/settings")
    assert 'name="credits" value="credit_notes" checked' not in admin.page.text
    admin.send("/settings", {"record_type": list(RecordType), "invoice_limit": "5", "credits": "nonsense"})
    assert "Choose the credits to show." in page_text(admin)


def test_the_api_and_exports_have_the_credits(world: World) -> None:
    ann = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", "150.00")
    create(world, CreditResource.CREDIT_NOTES, invoice.contact, "40.00")
    world.settle()
    headers = {"Authorization": f"Bearer {world.key}"}
    (record,) = world.web.get("/v1/people", params={"sort": "outstanding"}, headers=headers).json()["records"]
    assert (record["outstanding"], record["credit"], record["invoices"]) == ("150.00", "40.00", 1)
    lines = world.web.get(f"/v1/people/{ann}/invoices.csv", headers=headers).text.splitlines()
    assert [line.split('","')[5] for line in lines[1:]] == ["ACCRECCREDIT", "ACCREC"]
