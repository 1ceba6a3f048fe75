"""Vendor data is parsed by field: a malformed field loses no row, a malformed row no page, and both are counted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from runtime.settings import override_settings
from services import access, account_status
from store.accounts import xero_grants
from store.db.database import transaction
from store.db.enums import RecordType, RunState
from store.ingest import inbox
from store.mirror import unreadable_fields
from store.read_model import balances
from tests.support.admin import sign_in
from tests.support.commands import patina
from tests.support.vendor_proxy import VendorProxy, literal, vendor_proxy
from tests.support.world import World
from worker.jobs import scheduler
from worker.vendors.copper import client as copper
from worker.vendors.rate_limit.budget import Priority
from worker.vendors.sync_types import RunKind
from worker.vendors.xero import oauth

NOTHING: Any = ...


@pytest.fixture
def odd(world: World) -> Iterator[VendorProxy]:
    with vendor_proxy(world.sandbox.url) as vendor:
        yield vendor


def fetch_one(statement: str) -> Any:
    with transaction() as session:
        return session.execute(text(statement)).one()


def counted(world: World) -> set[tuple[str, str]]:
    with transaction() as session:
        return {(counter.resource, counter.field) for counter in unreadable_fields.list_recent(session, world.account)}


INVOICE_FIELDS: list[tuple[dict[str, Any], dict[str, Any], set[str]]] = [
    ({"AmountDue": None}, {"balance": 100}, set()),
    ({"AmountDue": "much"}, {"balance": 100}, {"AmountDue"}),
    ({"AmountDue": True}, {"balance": 100}, {"AmountDue"}),
    ({"AmountDue": literal("NaN")}, {"balance": 100}, {"AmountDue"}),
    ({"AmountDue": literal("-Infinity")}, {"balance": 100}, {"AmountDue"}),
    ({"AmountDue": literal("1e400")}, {"balance": 100}, {"AmountDue"}),
    ({"AmountDue": literal("1e99999999999999999999")}, {"balance": 100}, {"AmountDue"}),
    ({"AmountDue": literal("1" * 5_000)}, {"balance": 100}, {"AmountDue"}),
    ({"AmountDue": "1,000.00"}, {"balance": 100}, {"AmountDue"}),
    ({"AmountDue": "99.95"}, {"balance": "99.95"}, set()),
    ({"AmountDue": literal("-12.50")}, {"balance": "-12.50"}, set()),
    ({"AmountDue": literal("1.5E+3")}, {"balance": 1500}, set()),
    ({"AmountDue": literal("123456789012345678.91")}, {"balance": "123456789012345678.91"}, set()),
    ({"Total": None}, {"total": 100}, set()),
    ({"Total": {"of": 1}}, {"total": 100}, {"Total"}),
    ({"Total": None, "AmountDue": None}, {"total": None, "balance": None}, set()),
    ({"Total": None, "AmountDue": None, "Status": "PAID"}, {"total": None, "balance": 0, "status": "PAID"}, set()),
    (
        {"Total": literal("1" * 21), "AmountDue": literal("1" * 21)},
        {"total": None, "balance": None},
        {"Total", "AmountDue"},
    ),
    ({"Status": None}, {"status": ""}, set()),
    ({"Status": 7}, {"status": "7"}, set()),
    ({"Status": "PARTIALLY_REFUNDED"}, {"status": "PARTIALLY_REFUNDED"}, set()),
    ({"Status": ["PAID"]}, {"status": ""}, {"Status"}),
    ({"Type": NOTHING}, {"type": ""}, set()),
    ({"Type": "ACCNEW"}, {"type": "ACCNEW"}, set()),
    ({"InvoiceNumber": 1001}, {"number": "1001"}, set()),
    ({"InvoiceNumber": "A\x00\ud800B"}, {"number": "A\ufffdB"}, set()),
    ({"InvoiceNumber": "N" * 5_000}, {"number": "N" * 255}, set()),
    ({"CurrencyCode": "\U0001f4b6" * 300}, {"currency": "\U0001f4b6" * 10}, set()),
    ({"DueDate": "/Date(99999999999999999)/"}, {"due_date": "DUE"}, {"DueDate"}),
    ({"DueDateString": "10000-01-01T00:00:00"}, {"due_date": "DUE"}, {"DueDateString"}),
    ({"DueDateString": "soon"}, {"due_date": "DUE"}, {"DueDateString"}),
    ({"DueDateString": True, "DueDate": {}}, {"due_date": None}, {"DueDateString", "DueDate"}),
    ({"DueDateString": "0001-01-01T00:00:00", "DueDate": "/Date(-62135596800000)/"}, {"due_date": None}, set()),
    ({"DueDateString": "", "DueDate": NOTHING}, {"due_date": None}, set()),
    ({"DueDateString": "9999-12-31T00:00:00"}, {"due_date": "9999-12-31"}, set()),
    ({"DueDateString": NOTHING, "DueDate": "/Date(1539946800000+1300)/"}, {"due_date": "2018-10-20"}, set()),
    ({"UpdatedDateUTC": NOTHING}, {"has_version": False}, set()),
    ({"UpdatedDateUTC": None}, {"has_version": False}, set()),
    ({"UpdatedDateUTC": "/Date(99999999999999999999)/"}, {"has_version": False}, {"UpdatedDateUTC"}),
    ({"UpdatedDateUTC": "2999-01-01T00:00:00"}, {"has_version": False}, {"UpdatedDateUTC"}),
    ({"UpdatedDateUTC": "0001-01-01T00:00:00"}, {"has_version": False}, set()),
    ({"Reference": {"nested": [[[None]]]}, "Unknown": 5}, {"reference": None}, {"Reference"}),
    ({"Reference": 7}, {"reference": "7"}, set()),
    ({"Reference": "R" * 5_000}, {"reference": "R" * 255}, set()),
    ({"CurrencyRate": 0}, {"currency_rate": None}, set()),
    ({"CurrencyRate": "a lot"}, {"currency_rate": None}, {"CurrencyRate"}),
    ({"SentToContact": None}, {"is_sent": None}, set()),
    ({"SentToContact": "TRUE"}, {"is_sent": True}, set()),
    ({"SentToContact": "perhaps"}, {"is_sent": None}, {"SentToContact"}),
    ({"FullyPaidOnDate": "0001-01-01T00:00:00"}, {"paid_on": None}, set()),
    ({"FullyPaidOnDate": ["soon"]}, {"paid_on": None}, {"FullyPaidOnDate"}),
    ({"ExpectedPaymentDate": "2026-12-24T00:00:00"}, {"expected_payment_date": "2026-12-24"}, set()),
    ({"PlannedPaymentDate": "/Date(1539946800000+1300)/"}, {"expected_payment_date": "2018-10-20"}, set()),
    ({"AmountPaid": None}, {"amount_paid": None}, set()),
    ({"AmountCredited": "n/a"}, {"amount_credited": None}, {"AmountCredited"}),
]


def test_a_malformed_field_of_an_invoice_affects_neither_the_invoice_nor_its_other_fields(
    world: World, odd: VendorProxy
) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", "100.00")
    world.settle()
    columns = "contact_id, type, status, number, issue_date, due_date, total, balance, currency"
    columns += ", reference, paid_on, expected_payment_date, amount_paid, amount_credited, currency_rate, is_sent"
    valid_row = fetch_one(f"SELECT {columns} FROM xero_invoice")._mapping
    for fields, expected_values, unreadable in INVOICE_FIELDS:
        odd.reset()
        odd.change_rows("/Invoices", **fields)
        with transaction() as session:
            session.execute(text("TRUNCATE unreadable_field"))
            session.execute(
                text("UPDATE xero_invoice SET updated_at = '2000-01-01', has_version = true, status = 'stale'")
            )
        world.backfill_xero()
        row = fetch_one(f"SELECT {columns}, has_version FROM xero_invoice WHERE invoice_id = '{invoice.id}'")._mapping
        expected = {**valid_row, **expected_values}
        if expected["due_date"] == "DUE":
            expected["due_date"] = valid_row["due_date"]
        for name, value in expected.items():
            same = str(row[name]) == str(value) or row[name] == value
            assert same or float(row[name]) == float(value), (fields, name, row[name], value)
        assert {field for _, field in counted(world)} == unreadable, fields
        assert len(world.rows("people", person)) == 1, fields
        assert world.compare().is_clean


def test_an_amount_that_was_not_given_is_shown_as_unknown_and_not_as_zero(world: World, odd: VendorProxy) -> None:
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "100.00")
    odd.change_rows("/Invoices", Total=None, AmountDue=None)
    world.settle()

    row = world.rows("people", person)[0]
    assert (row["status"], row["total_due"], row["balance_due"]) == ("AUTHORISED", None, None)
    headers = {"Authorization": f"Bearer {access.create_key(world.account, 'admin', ['admin'])}"}
    export = world.web.get(f"/v1/people/{person}/invoices.jsonl", headers=headers).json()
    assert (export["total_due"], export["balance_due"]) == (None, None)
    with transaction() as session:
        assert balances.list_for_record(session, world.account, RecordType.PERSON, person) == []
    page = sign_in(world).open(f"/records/person/{person}").text
    assert page.count('<span class="hidden">unknown</span>') == 2
    assert world.compare().is_clean


@pytest.mark.parametrize(
    "contact", [None, {}, {"ContactID": ""}, {"ContactID": None}, {"ContactID": "no id"}, "x", [1]]
)
def test_an_invoice_that_loses_its_contact_leaves_the_record(world: World, odd: VendorProxy, contact: Any) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    assert world.invoice_numbers("people", person) == [invoice.number]

    odd.change_rows("/Invoices", Contact=contact)
    world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    world.settle()

    assert world.invoice_numbers("people", person) == []
    assert fetch_one("SELECT contact_id, status FROM xero_invoice") == (None, "PAID")


CONTACT_FIELDS: list[tuple[dict[str, Any], set[str]]] = [
    ({"ContactPersons": None}, {"ann@acme.test"}),
    ({"ContactPersons": [None, {"EmailAddress": "eve@acme.test"}]}, {"ann@acme.test", "eve@acme.test"}),
    (
        {"ContactPersons": [5, "text", {"EmailAddress": ["x"]}, {"EmailAddress": "eve@acme.test"}]},
        {"ann@acme.test", "eve@acme.test"},
    ),
    ({"ContactPersons": {"EmailAddress": "eve@acme.test"}}, {"ann@acme.test", "eve@acme.test"}),
    ({"ContactPersons": 9}, {"ann@acme.test"}),
    ({"EmailAddress": None, "ContactPersons": NOTHING}, set()),
    ({"EmailAddress": {"address": "x@y.test"}}, set()),
    ({"EmailAddress": "eve@acme.test\x00"}, {"eve@acme.test"}),
    ({"Name": None}, {"ann@acme.test"}),
    ({"Name": ["Acme"]}, {"ann@acme.test"}),
    ({"Name": "\udfff" * 3_000}, {"ann@acme.test"}),
    ({"ContactStatus": None}, {"ann@acme.test"}),
    ({"MergedToContactID": ""}, {"ann@acme.test"}),
    ({"MergedToContactID": "00000000-0000-0000-0000-000000000000"}, {"ann@acme.test"}),
    ({"MergedToContactID": 12}, {"ann@acme.test"}),
    ({"UpdatedDateUTC": NOTHING}, {"ann@acme.test"}),
]


def test_a_malformed_field_of_a_contact_affects_neither_the_contact_nor_its_other_addresses(
    world: World, odd: VendorProxy
) -> None:
    world.contact("Acme", "ann@acme.test")
    for fields, addresses in CONTACT_FIELDS:
        odd.reset()
        odd.change_rows("/Contacts", **fields)
        world.backfill_xero()
        with transaction() as session:
            emails = set(session.execute(text("SELECT email FROM xero_contact_email")).scalars())
        assert emails == addresses, fields
        assert fetch_one("SELECT count(*), max(merged_to::text) FROM xero_contact WHERE NOT is_deleted") == (1, None), (
            fields
        )


PERSON_FIELDS: list[tuple[dict[str, Any], set[str], int | None]] = [
    ({"emails": [None, {"email": "ann@x.test"}]}, {"ann@x.test"}, 1),
    ({"emails": ["ann@x.test", "bob@x.test"]}, {"ann@x.test", "bob@x.test"}, 1),
    ({"emails": {"email": "ann@x.test", "category": None}}, {"ann@x.test"}, 1),
    ({"emails": "ann@x.test"}, {"ann@x.test"}, 1),
    ({"emails": None}, set(), 1),
    ({"emails": [[], 5, True, {"email": {}}, {"email": None}, {}, {"email": "ann@x.test"}]}, {"ann@x.test"}, 1),
    ({"company_id": ""}, {"eve@x.test"}, None),
    ({"company_id": "123"}, {"eve@x.test"}, 123),
    ({"company_id": literal("123.0")}, {"eve@x.test"}, 123),
    ({"company_id": True}, {"eve@x.test"}, None),
    ({"company_id": -2}, {"eve@x.test"}, None),
    ({"company_id": literal("9" * 30)}, {"eve@x.test"}, None),
    ({"company_id": literal("1e30")}, {"eve@x.test"}, None),
    ({"company_id": literal("1e999999999")}, {"eve@x.test"}, None),
    ({"company_id": 1.5}, {"eve@x.test"}, None),
    ({"name": None, "date_modified": None}, {"eve@x.test"}, 1),
    ({"name": {"first": "A"}, "date_modified": "yesterday"}, {"eve@x.test"}, 1),
    ({"date_modified": "1700000000"}, {"eve@x.test"}, 1),
    ({"date_modified": literal("1700000000.5")}, {"eve@x.test"}, 1),
    ({"date_modified": "2026-01-01T00:00:00.000Z"}, {"eve@x.test"}, 1),
    ({"date_modified": literal("1e30")}, {"eve@x.test"}, 1),
    ({"date_modified": -1, "date_created": literal("1e17")}, {"eve@x.test"}, 1),
    ({"date_created": "never"}, {"eve@x.test"}, 1),
]


def test_a_malformed_field_of_a_person_affects_neither_the_person_nor_its_other_fields(
    world: World, odd: VendorProxy
) -> None:
    company = world.company()
    person = world.person("eve@x.test", company=company)
    world.settle()
    for fields, addresses, related in PERSON_FIELDS:
        odd.reset()
        odd.change_rows("/people/search", **fields)
        with transaction() as session:
            session.execute(text("UPDATE copper_record SET updated_at = '2000-01-01', has_version = true"))
        world.backfill_copper()
        with transaction() as session:
            emails = set(session.execute(text("SELECT email FROM copper_record_email")).scalars())
            ends = session.execute(
                text("SELECT related_id FROM copper_relation WHERE record_type = 'person'")
            ).scalars()
            assert list(ends) == ([company if related == 1 else related] if related else []), fields
        assert emails == addresses, fields
        assert fetch_one(
            f"SELECT is_deleted FROM copper_record WHERE record_id = {person} AND record_type = 'person'"
        ) == (False,)
        assert world.compare().is_clean


@pytest.mark.parametrize(
    "email", ["lee@x.test", ["lee@x.test"], [{"email": "lee@x.test"}], {"email": "lee@x.test"}, [None, "lee@x.test"]]
)
def test_a_leads_address_is_read_in_every_format(world: World, odd: VendorProxy, email: Any) -> None:
    odd.change_rows("/leads", email=email)
    lead = world.lead("other@x.test")
    invoice = world.invoice("lee@x.test")
    world.settle()
    assert world.invoice_numbers("leads", lead) == [invoice.number]


# Versions


def test_a_missing_version_is_replaced_by_the_fetch_time_and_blocks_no_later_version(
    world: World, odd: VendorProxy
) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    odd.change_rows("/Invoices", UpdatedDateUTC=NOTHING, Status="ODD")
    world.sandbox.simulate("update_invoice", invoice=invoice.id, total="200.00")
    world.settle()
    assert world.rows("people", person)[0]["status"] == "ODD"

    version, clock = fetch_one("SELECT updated_at, fetched_at FROM xero_invoice")
    assert abs(version - clock) < timedelta(seconds=5)
    odd.reset()
    world.backfill()
    assert world.rows("people", person)[0]["status"] == "AUTHORISED", "the real version is older than the fetch"
    odd.change_rows("/Invoices", UpdatedDateUTC=None)
    world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    world.settle()
    assert world.rows("people", person)[0]["status"] == "PAID"
    odd.reset()
    world.check()


def test_a_missing_version_follows_the_vendors_clock(world: World, odd: VendorProxy) -> None:
    world.sandbox.control("PUT", "clock", json={"offset_seconds": 7_200})
    odd.change_rows("/people", date_modified=None)
    world.person("ann@acme.test")
    world.settle()
    (version,) = fetch_one("SELECT updated_at FROM copper_record")
    assert timedelta(seconds=7_190) < version - datetime.now(UTC) < timedelta(seconds=7_201)
    odd.has_clock = False
    world.backfill()
    (version,) = fetch_one("SELECT updated_at FROM copper_record")
    assert abs(version - datetime.now(UTC)) < timedelta(seconds=60)


def test_an_invoice_without_version_and_date_keeps_its_position(world: World, odd: VendorProxy) -> None:
    world.invoice("ann@acme.test")
    odd.change_rows("/Invoices", UpdatedDateUTC=None, Date=None, DateString=None)
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE xero_invoice SET created_source = 'updated_date', created_at = '2026-01-01'"))
    world.backfill()
    (created,) = fetch_one("SELECT created_at FROM xero_invoice")
    assert created == datetime(2026, 1, 1, tzinfo=UTC)


# Unreadable rows


def broken_rows(response: Any) -> Any:
    name = next(name for name in ("Invoices", "Contacts") if name in response)
    response[name] = [None, 5, "text", {}, {"InvoiceID": "no id", "ContactID": []}, *response[name], []]
    return response


def test_unreadable_rows_are_counted_and_do_not_fail_the_page(world: World, odd: VendorProxy) -> None:
    person = world.person("ann@acme.test")
    odd.change("/Invoices", broken_rows)
    odd.change("/Contacts", broken_rows)
    odd.change("/people/search", lambda rows: [None, {"id": True}, {"id": None}, *rows, {"id": literal("9" * 40)}])
    invoice = world.invoice("ann@acme.test")
    world.backfill()
    world.catch_up()
    assert world.invoice_numbers("people", person) == [invoice.number]
    assert {("invoices", ""), ("contacts", ""), ("people", "")} <= counted(world)


def test_an_event_of_an_unreadable_invoice_is_quarantined_on_its_first_attempt(world: World, odd: VendorProxy) -> None:
    valid, malformed = world.invoice("ann@acme.test"), world.invoice("ann@acme.test")
    world.settle()

    def without_id(response: Any) -> Any:
        for row in response["Invoices"]:
            if row["InvoiceID"] == malformed.id:
                row["InvoiceID"] = None
        return response

    odd.change("/Invoices", without_id)
    for invoice in (valid, malformed):
        world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    world.settle()
    with transaction() as session:
        (event,) = inbox.list_quarantined(session, world.account, 10)
    assert (event.resource_id, event.attempts) == (malformed.id, 1)
    assert "could not be read" in (event.error or "")
    assert fetch_one(f"SELECT status, is_deleted FROM xero_invoice WHERE invoice_id = '{valid.id}'") == ("PAID", False)
    assert fetch_one(f"SELECT status, is_deleted FROM xero_invoice WHERE invoice_id = '{malformed.id}'") == (
        "AUTHORISED",
        False,
    )

    odd.reset()
    with transaction() as session:
        inbox.replay(session, world.account, None)
    world.settle()
    assert fetch_one(f"SELECT status FROM xero_invoice WHERE invoice_id = '{malformed.id}'") == ("PAID",)


@pytest.mark.parametrize("response", [[], {}, 5, {"Invoices": None}, {"Invoices": "none"}, b"[1, 2]", b'"text"'])
def test_an_event_is_quarantined_if_the_response_has_no_list_and_nothing_is_deleted(
    world: World, odd: VendorProxy, response: Any
) -> None:
    invoice = world.invoice("ann@acme.test")
    world.settle()
    odd.change("/Invoices", lambda _: response)
    world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    world.settle()
    with transaction() as session:
        assert [event.attempts for event in inbox.list_quarantined(session, world.account, 10)] == [1]
    assert fetch_one("SELECT status, is_deleted FROM xero_invoice") == ("AUTHORISED", False)


@pytest.mark.parametrize("response", [[], {"people": []}, 5, None, [None], [{"name": "no id"}], b"{}"])
def test_an_event_of_an_unreadable_person_is_quarantined_and_the_person_is_not_deleted(
    world: World, odd: VendorProxy, response: Any
) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    odd.change("/people", lambda _: response)
    world.simulate_copper("update_record", type="person", id=person, name="Ann")
    world.settle()
    with transaction() as session:
        assert [event.attempts for event in inbox.list_quarantined(session, world.account, 10)] == [1]
    assert fetch_one("SELECT is_deleted FROM copper_record") == (False,)


def test_a_reconciliation_does_not_delete_unreadable_rows(world: World, odd: VendorProxy) -> None:
    person, deal = world.person("ann@acme.test"), world.opportunity()
    deleted, kept_invoice = world.invoice("ann@acme.test"), world.invoice("ann@acme.test")
    world.settle()
    world.advance_clock()
    with transaction() as session:
        session.execute(
            text(f"UPDATE xero_invoice SET invoice_id = '{uuid4()}' WHERE invoice_id = '{deleted.id}'"),
        )

    def without_ids(response: Any) -> Any:
        rows = (
            response
            if isinstance(response, list)
            else next(iter(v for v in response.values() if isinstance(v, list)), [])
        )
        for row in rows or [response]:
            for name in ("id", "InvoiceID", "ContactID"):
                row.pop(name, None)
        return response

    for path in ("/Invoices", "/Contacts", "/people", "/opportunities/search"):
        odd.change(path, without_ids)
    odd.change(f"/opportunities/{deal}", lambda response: "nonsense")
    world.reconcile()
    assert fetch_one(f"SELECT is_deleted FROM xero_invoice WHERE invoice_id = '{kept_invoice.id}'") == (False,)
    assert fetch_one("SELECT count(*) FROM xero_invoice WHERE is_deleted") == (1,), (
        "what Xero does not have, asked for by itself"
    )
    assert fetch_one("SELECT count(*) FROM xero_contact WHERE is_deleted") == (0,)
    assert fetch_one("SELECT count(*) FROM copper_record WHERE is_deleted") == (0,)
    odd.reset()
    world.reconcile()
    assert world.invoice_numbers("people", person).count(kept_invoice.number) == 1
    world.check()


# Response envelopes


@pytest.mark.parametrize(
    "pagination", [None, NOTHING, "odd", [], {"pageCount": "many"}, {"pageCount": -1}, {"pageCount": {}}]
)
def test_without_pagination_a_full_page_means_that_another_follows(
    world: World, odd: VendorProxy, monkeypatch: pytest.MonkeyPatch, pagination: Any
) -> None:
    monkeypatch.setattr("worker.vendors.xero.client.PAGE_SIZE", 3)
    for number in range(7):
        world.invoice(f"p{number}@acme.test")

    def changed(response: Any) -> Any:
        if pagination is NOTHING:
            response.pop("pagination", None)
        else:
            response["pagination"] = pagination
        return response

    odd.change("/Invoices", changed)
    odd.change("/Contacts", changed)
    with transaction() as session:
        session.execute(text("UPDATE inbox SET state = 'done', finished_at = now()"))
    world.backfill()
    assert fetch_one("SELECT (SELECT count(*) FROM xero_invoice), (SELECT count(*) FROM xero_contact)") == (7, 7)


def test_an_unreadable_page_fails_its_run_after_some_attempts(world: World, odd: VendorProxy) -> None:
    override_settings({"EVENT_MAX_ATTEMPTS": "2"})
    invoice = world.invoice("ann@acme.test")
    seen_to = fetch_one("SELECT invoices_synced_through FROM xero_organisation")
    odd.change("/Invoices", lambda _: {"Invoices": 5})
    for _ in range(2):
        world.run_until_error(RunKind.CATCH_UP)
        with transaction() as session:
            session.execute(text("UPDATE sync_run SET not_before = now()"))
    world.run_until_error(RunKind.CATCH_UP)
    failed = [run for run in world.runs() if run.state == RunState.FAILED]
    assert failed
    assert "no list of Invoices" in (failed[0].error or "")
    assert fetch_one("SELECT invoices_synced_through FROM xero_organisation") == seen_to
    odd.reset()
    world.catch_up()
    assert fetch_one(f"SELECT count(*) FROM xero_invoice WHERE invoice_id = '{invoice.id}'") == (1,)


def test_a_malformed_record_does_not_make_copper_paging_skip_others(world: World, odd: VendorProxy) -> None:
    with transaction() as session:
        session.execute(text("UPDATE inbox SET state = 'done', finished_at = now()"))
    created = []
    for number in range(0, 450, 50):
        world.sandbox.control("PUT", "clock", json={"offset_seconds": number})
        created += [world.person(f"p{number}.{index}@x.test") for index in range(50)]

    def odd_times(rows: Any) -> Any:
        for row in rows:
            if row["id"] == created[100]:
                row["date_created"] = 4_000_000_000
            if row["id"] in created[190:201]:
                row["date_created"] = "1970-01-01"
        return rows

    odd.change("/people/search", odd_times)
    world.backfill()
    assert fetch_one("SELECT count(*) FROM copper_record") == (450,)


@pytest.mark.parametrize("response", [None, "x", 5, {"related": []}])
def test_unreadable_relations_are_kept_and_block_no_others(world: World, odd: VendorProxy, response: Any) -> None:
    person = world.person("ann@acme.test")
    odd_deal, good_deal = world.opportunity(), world.opportunity()
    for deal in (odd_deal, good_deal):
        world.relate(deal, "person", person)
    invoice = world.invoice("ann@acme.test")
    world.settle()
    odd.change(f"/opportunities/{odd_deal}/related", lambda _: response)
    world.reconcile()
    assert (
        world.invoice_numbers("opportunities", odd_deal)
        == world.invoice_numbers("opportunities", good_deal)
        == [invoice.number]
    )
    world.simulate_copper("update_record", type="opportunity", id=odd_deal, name="touched")
    world.settle()
    with transaction() as session:
        assert [event.attempts for event in inbox.list_quarantined(session, world.account, 10)] == [1]
    assert world.invoice_numbers("opportunities", odd_deal) == [invoice.number]


def test_malformed_relations_users_and_subscriptions_only_affect_themselves(world: World, odd: VendorProxy) -> None:
    person = world.person("ann@acme.test")
    deal = world.opportunity()
    odd.change("/related", lambda rows: [None, 5, {"id": "x", "type": "person"}, {"type": "person"}, {"id": 3}, *rows])
    odd.change("/webhooks", lambda rows: [None, {"id": {}}, {"id": 4, "target": None}, *rows])
    odd.change("/users/search", lambda rows: [None, {"id": 1, "groups": None}, *rows, {"id": 2, "groups": [None, {}]}])
    odd.change("/users/me", lambda user: {**user, "name": None, "groups": [None, {"id": 7}]})
    world.relate(deal, "person", person)
    invoice = world.invoice("ann@acme.test")
    world.settle()
    assert world.invoice_numbers("opportunities", deal) == [invoice.number]
    client = copper.client_for_account(world.account, Priority.INTERACTIVE)
    assert len(client.list_subscriptions()) == 13
    assert len(client.list_users()) > 1
    assert [(team.id, team.name) for team in client.get_current_user().teams] == [(7, "")]


def test_a_malformed_organisation_keeps_its_name_and_blocks_nothing(world: World, odd: VendorProxy) -> None:
    organisation = fetch_one("SELECT name, short_code, base_currency FROM xero_organisation")
    payloads: tuple[dict[str, Any], ...] = (
        {"Organisations": []},
        {},
        {"Organisations": [None]},
        {"Organisations": [{"Name": None}]},
    )
    for response in payloads:
        odd.reset()
        odd.change("/Organisation", lambda _, response=response: response)  # type: ignore[misc]
        world.backfill()
        assert fetch_one("SELECT name, short_code, base_currency FROM xero_organisation") == organisation
    odd.reset()
    odd.change_rows("/Organisation", Name=17, ShortCode=[])
    world.backfill()
    assert fetch_one("SELECT name, short_code, base_currency FROM xero_organisation") == ("17", *organisation[1:])


@pytest.mark.parametrize(
    "fields",
    [
        {"expires_in": None},
        {"expires_in": "soon"},
        {"expires_in": NOTHING},
        {"expires_in": [], "scope": None, "token_type": 5},
        {"expires_in": -5, "expires_at": "never"},
        {"expires_in": literal("1e300"), "refresh_token": None},
    ],
)
def test_malformed_fields_of_a_token_affect_neither_the_token_nor_the_connection(
    world: World, odd: VendorProxy, fields: dict[str, Any]
) -> None:
    with transaction() as session:
        (account, grant) = session.execute(text("SELECT account_id, id FROM xero_grant")).one()
        before = xero_grants.get(session, account, grant).token
    odd.change_rows("/connect/token", **fields)
    oauth.get_valid_grant(account, grant, rejected_token=before["access_token"])
    with transaction() as session:
        token = xero_grants.get(session, account, grant).token
    assert token["access_token"] != before["access_token"]
    assert isinstance(token["refresh_token"], str)
    assert 1_700 < token["expires_at"] - datetime.now(UTC).timestamp() <= 1_801
    odd.reset()
    world.catch_up()


def test_invalid_utf_8_does_not_fail_the_page(world: World, odd: VendorProxy) -> None:
    world.contact("A name", "ann@acme.test")

    def mangled(response: Any) -> bytes:
        import json

        return json.dumps(response).encode().replace(b"A name", b"A \xff\x01\n name")

    odd.change("/Contacts", mangled)
    world.backfill()
    assert fetch_one("SELECT name FROM xero_contact") == ("A \ufffd\x01\n name",)


# Status


def test_unreadable_fields_are_shown_by_status_and_deleted_after_the_retention(world: World, odd: VendorProxy) -> None:
    world.contact("Acme", "ann@acme.test")
    odd.change_rows("/Contacts", Name=[], ContactStatus={}, MergedToContactID=5)
    world.backfill()
    expected = "3 fields of Xero contacts could not be read: ContactStatus, MergedToContactID, Name"
    account = next(account for account in account_status.list_all() if account.id == world.account)
    assert account.unreadable_fields_summary == [expected]
    assert expected in " ".join(patina("status").stdout.split())
    assert '"field": "Name"' in patina("status", "--json").stdout
    with transaction() as session:
        row = session.execute(text("SELECT rows, last_row_id FROM unreadable_field WHERE field = 'Name'")).one()
        session.execute(text("UPDATE unreadable_field SET last_seen_at = now() - interval '8 days'"))
    assert row.rows >= 1
    assert UUID(row.last_row_id)
    assert account_status.list_all()[0].unreadable_fields_summary == []
    with transaction() as session:
        session.execute(text("UPDATE unreadable_field SET last_seen_at = now() - interval '40 days'"))
    scheduler.purge_expired()
    assert fetch_one("SELECT count(*) FROM unreadable_field") == (0,)
