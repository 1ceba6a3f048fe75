"""Vendor rows with any optional fields replaced by arbitrary JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel
from sqlalchemy import text

from store.db.database import transaction
from store.db.enums import InvoiceType, RecordType
from store.mirror import drift, mirror
from store.mirror.rows import ContactRow, InvoiceRow, RecordRow
from store.read_model import projection
from worker.vendors.copper.schemas import (
    RECORD_SCHEMAS,
    CopperAccount,
    CopperRelatedRecord,
    CopperSubscription,
    CopperUser,
)
from worker.vendors.http import parse_json
from worker.vendors.parsing import ParseResult, parse_date, parse_rows
from worker.vendors.xero.schemas import (
    XeroConnection,
    XeroContact,
    XeroCredit,
    XeroCreditNote,
    XeroHistoryRecord,
    XeroInvoice,
    XeroOnlineInvoice,
    XeroOrganisation,
    XeroOverpayment,
    XeroPagination,
    XeroPrepayment,
)

CONTRACTS = [
    Path(__file__).resolve().parents[3] / "shared" / "reference" / "openapi" / f"xero-{part}-read.json"
    for part in ("accounting", "credits")
]
CLOCK = datetime(2026, 11, 26, 12, tzinfo=UTC)
ID = "f8c42a2e-5d5b-4bf7-9a8b-6a1d3c4e5f60"
OTHER = "b6fd0b1a-9c5e-4b61-b1a5-2a7b3f1c0d11"

# The fields that the vendors document, and their columns in the mirror.
INVOICE: dict[str, Any] = {
    "InvoiceID": ID,
    "Type": "ACCREC",
    "Status": "AUTHORISED",
    "InvoiceNumber": "INV-1",
    "Contact": {"ContactID": OTHER, "Name": "Acme"},
    "DateString": "2026-10-01T00:00:00",
    "Date": "/Date(1790812800000+0000)/",
    "DueDateString": "2026-10-20T00:00:00",
    "DueDate": "/Date(1792454400000)/",
    "Total": Decimal("115.00"),
    "AmountDue": Decimal("15.00"),
    "AmountPaid": Decimal("100.00"),
    "AmountCredited": Decimal("0.00"),
    "CurrencyCode": "NZD",
    "UpdatedDateUTC": "/Date(1792454400123+0000)/",
    "Reference": "",
    "SentToContact": True,
    "LineItems": [],
}
INVOICE_SEEN: dict[str, set[str]] = {
    "type": {"Type"},
    "status": {"Status"},
    "number": {"InvoiceNumber"},
    "contact_id": {"Contact"},
    "issue_date": {"DateString", "Date"},
    "due_date": {"DueDateString", "DueDate"},
    "total": {"Total", "AmountDue", "AmountPaid", "AmountCredited"},
    "balance": {"AmountDue", "Total", "AmountPaid", "AmountCredited", "Status"},
    "currency": {"CurrencyCode"},
    "updated_at": {"UpdatedDateUTC"},
    "created_at": {"DateString", "Date", "UpdatedDateUTC"},
}
CREDIT: dict[str, Any] = {
    "Status": "AUTHORISED",
    "Contact": {"ContactID": OTHER, "Name": "Acme"},
    "DateString": "2026-10-01T00:00:00",
    "Date": "/Date(1790812800000+0000)/",
    "Total": Decimal("115.00"),
    "RemainingCredit": Decimal("15.00"),
    "Allocations": [{"Amount": Decimal("100.00"), "Invoice": {"InvoiceID": OTHER}}],
    "CurrencyCode": "NZD",
    "UpdatedDateUTC": "/Date(1792454400123+0000)/",
    "Reference": "",
    "LineItems": [],
}
CREDIT_SEEN: dict[str, set[str]] = {
    **{name: fields for name, fields in INVOICE_SEEN.items() if name not in {"number", "due_date", "total", "balance"}},
    "total": {"Total"},
    "balance": {"RemainingCredit", "Total", "Allocations", "Status"},
}
NUMBERED_CREDIT_SEEN = CREDIT_SEEN | {"number": {"CreditNoteNumber", "InvoiceNumber"}}
CREDIT_NOTE = CREDIT | {"CreditNoteID": ID, "Type": "ACCRECCREDIT", "CreditNoteNumber": "CN-1"}
PREPAYMENT = CREDIT | {"PrepaymentID": ID, "Type": "RECEIVE-PREPAYMENT", "InvoiceNumber": "P-1"}
OVERPAYMENT = CREDIT | {"OverpaymentID": ID, "Type": "RECEIVE-OVERPAYMENT"}
CONTACT: dict[str, Any] = {
    "ContactID": ID,
    "Name": "Acme",
    "ContactStatus": "ACTIVE",
    "EmailAddress": "ann@acme.test",
    "ContactPersons": [{"FirstName": "Eve", "EmailAddress": "Eve@acme.test", "IncludeInEmails": True}],
    "MergedToContactID": OTHER,
    "UpdatedDateUTC": "/Date(1792454400123+0000)/",
    "Phones": [],
}
CONTACT_SEEN: dict[str, set[str]] = {
    "name": {"Name"},
    "status": {"ContactStatus"},
    "merged_to": {"MergedToContactID"},
    "emails": {"EmailAddress", "ContactPersons"},
    "updated_at": {"UpdatedDateUTC"},
}
RECORD: dict[str, Any] = {
    "id": 27140359,
    "name": "Ann",
    "email": {"email": "ann@acme.test", "category": "work"},
    "emails": [{"email": "Ann@acme.test", "category": "work"}, {"email": "home@acme.test"}],
    "company_id": 13349319,
    "primary_contact_id": 27140360,
    "date_created": 1490045010,
    "date_modified": 1496694264,
    "tags": [],
    "custom_fields": [{"custom_field_definition_id": 100764, "value": None}],
}
RECORD_SEEN: dict[str, set[str]] = {
    "name": {"name"},
    "emails": {"email", "emails"},
    "relations": {"company_id", "primary_contact_id"},
    "updated_at": {"date_modified"},
}
ROWS: list[tuple[str, type[BaseModel], dict[str, Any], str, dict[str, set[str]]]] = [
    ("invoice", XeroInvoice, INVOICE, "InvoiceID", INVOICE_SEEN),
    ("credit note", XeroCreditNote, CREDIT_NOTE, "CreditNoteID", NUMBERED_CREDIT_SEEN),
    ("prepayment", XeroPrepayment, PREPAYMENT, "PrepaymentID", NUMBERED_CREDIT_SEEN),
    ("overpayment", XeroOverpayment, OVERPAYMENT, "OverpaymentID", CREDIT_SEEN),
    ("contact", XeroContact, CONTACT, "ContactID", CONTACT_SEEN),
    *((record_type.value, RECORD_SCHEMAS[record_type], RECORD, "id", RECORD_SEEN) for record_type in RecordType),
]
OTHERS: list[tuple[type[BaseModel], dict[str, Any], str]] = [
    (CopperAccount, {"id": 1, "name": "A"}, "id"),
    (CopperUser, {"id": 1, "name": "A", "groups": [{"id": 2, "name": "T"}]}, "id"),
    (CopperRelatedRecord, {"id": 1, "type": "person"}, "id"),
    (CopperSubscription, {"id": 1, "target": "https://x.test", "type": "lead", "event": "new"}, "id"),
    (XeroConnection, {"id": ID, "tenantId": OTHER, "tenantType": "ORGANISATION", "tenantName": "A"}, "id tenantId"),
    (XeroOrganisation, {"Name": "A", "ShortCode": "!1", "BaseCurrency": "NZD"}, ""),
    (XeroPagination, {"page": 1, "pageSize": 100, "pageCount": 2, "itemCount": 150}, ""),
    (XeroHistoryRecord, {"DateUTC": "/Date(1792454400123+0000)/"}, ""),
    (XeroOnlineInvoice, {"OnlineInvoiceUrl": "https://in.xero.com/bCWCCfytGdTX"}, ""),
]

NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.decimals(),
    st.floats(),
    st.sampled_from([Decimal("1E+400"), Decimal("1E-400"), Decimal("1E+999999"), 2**63, -1, 0, 10**17]),
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(alphabet=st.characters(min_codepoint=0xD7F0, max_codepoint=0xE010), max_size=5),
    st.sampled_from(
        ["\x00", "\ud800", "x" * 3_000, "\U0001f4b6" * 600, "NaN", "1e400", " ", "null", "a@b.test", "ann"]
    ),
    st.sampled_from(["0001-01-01", "0000-01-01", "10000-01-01", "2026-02-30", "/Date(-62135596800000)/", "/Date()/"]),
    st.integers(-(10**20), 10**20).map(lambda number: f"/Date({number}+1300)/"),
    st.datetimes().map(datetime.isoformat),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["ContactID", "EmailAddress", "email", "id", "name", "x\x00"]), inner, max_size=3
        ),
    ),
    max_leaves=8,
)
MISSING = object()


def contract(schema: str) -> dict[str, Any]:
    """The fields of a schema of Xero's contract, if it is available."""
    for path in CONTRACTS:
        schemas = json.loads(path.read_text())["components"]["schemas"] if path.is_file() else {}
        if schema in schemas:
            return dict.fromkeys(schemas[schema].get("properties", {}))
    return {}


def replaced(
    valid: dict[str, Any], key: str, schema: str | None = None
) -> st.SearchStrategy[tuple[dict[str, Any], set[str]]]:
    """A row with some optional fields replaced or removed, and the names of these fields."""
    optional = sorted({*valid, *(contract(schema) if schema else {})} - set(key.split()))
    changes = st.dictionaries(st.sampled_from(optional), st.one_of(ANY_JSON, st.just(MISSING)), max_size=len(optional))

    def applied(fields: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
        row = {name: value for name, value in {**copy.deepcopy(valid), **fields}.items() if value is not MISSING}
        return row, set(fields)

    return changes.map(applied)


def rows_of(result: ParseResult[Any]) -> list[InvoiceRow | ContactRow | RecordRow]:
    return [item.to_row() for item in result.items]


@pytest.mark.parametrize(("name", "model", "valid", "key", "columns"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_is_stored_whatever_its_optional_fields_contain(
    name: str, model: type[BaseModel], valid: dict[str, Any], key: str, columns: dict[str, set[str]]
) -> None:
    del name
    (right,) = rows_of(parse_rows(model, [valid], key, CLOCK))
    schema = model.__name__.removeprefix("Xero") if model.__name__.startswith("Xero") else None

    @hypothesis_settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(replaced(valid, key, schema))
    def holds(odd: tuple[dict[str, Any], set[str]]) -> None:
        row, changed = odd
        before = copy.deepcopy(row)
        result = parse_rows(model, [row], key, CLOCK)
        assert repr(row) == repr(before), "what was parsed is not altered"
        assert not result.unreadable_rows
        (got,) = rows_of(result)
        for field, sources in columns.items():
            if not sources & changed:
                assert getattr(got, field) == getattr(right, field), field
        assert {name.partition(".")[0] for name in result.dropped_fields} <= changed

    holds()


@pytest.mark.parametrize(("model", "valid", "key"), OTHERS, ids=[other[0].__name__ for other in OTHERS])
def test_every_other_response_is_parsed_whatever_its_optional_fields_contain(
    model: type[BaseModel], valid: dict[str, Any], key: str
) -> None:
    @hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(replaced(valid, key), ANY_JSON)
    def holds(odd: tuple[dict[str, Any], set[str]], anything: Any) -> None:
        assert len(parse_rows(model, [odd[0]], key).items) == 1
        parse_rows(model, [anything, {key: anything}], key)

    holds()


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("https://in.xero.com/bCWCCfytGdTXoJam9HENWlQt07G6zcDaj4gQojHu", None),
        (" HTTPS://IN.XERO.COM/a-b_c~d?e=f%20&g=h ", "HTTPS://IN.XERO.COM/a-b_c~d?e=f%20&g=h"),
        ("https://xero.com/x", None),
        ("http://in.xero.com/x", ""),
        ("https://in.xero.com.evil.test/x", ""),
        ("https://evil-xero.com/x", ""),
        ("https://evilxero.com/x", ""),
        ("https://in.xero.com@evil.test/x", ""),
        ("https://user:secret@in.xero.com/x", ""),
        ("https://in.xero.com:8443/x", ""),
        ("https://evil.test\\@in.xero.com/x", ""),
        ("https://evil.test/https://in.xero.com/x", ""),
        ("https://in.xero.com/x y", ""),
        ("https://in.xero.com/x\nhttps://evil.test", ""),
        ("https://in.xero.com/<script>", ""),
        ("https://in.x\u0435ro.com/x", ""),
        ("javascript:alert(1)//in.xero.com/", ""),
        ("//in.xero.com/x", ""),
        ("https://in.xero.com", ""),
        ("https://in.xero.com/" + "x" * 500, ""),
        ("https://" + "a." * 9_000 + "xero.com/x", ""),
        ("", ""),
        (None, ""),
        (17, ""),
        ({"a": 1}, ""),
    ],
)
def test_the_link_for_a_customer_only_leads_to_xero_over_https(sent: Any, read: str | None) -> None:
    (row,) = parse_rows(XeroOnlineInvoice, [{"OnlineInvoiceUrl": sent}], "").items
    assert row.url == (sent if read is None else read)


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.lists(ANY_JSON, max_size=5))
def test_rows_without_an_id_are_counted_and_raise_nothing(rows: list[Any]) -> None:
    for _, model, valid, key, _ in ROWS:
        result = parse_rows(model, [*rows, valid], key, CLOCK)
        assert len(result.items) + result.unreadable_rows >= 1
        assert getattr(rows_of(result)[-1], "updated_at", None) is not None


# What is read is also stored


@pytest.fixture(scope="module")
def mirror_scope() -> Iterator[Any]:
    """A database for all examples of this module: each runs in a transaction that is rolled back."""
    from tests.support import databases

    databases.make_template()
    with databases.temporary():
        with transaction() as session:
            session.execute(text("INSERT INTO account (copper_account_id, name) VALUES (1, 'A')"))
            account = session.execute(text("SELECT id FROM account")).scalar_one()
            organisation = session.execute(
                text(
                    "INSERT INTO xero_organisation (account_id, grant_id, tenant_id, connection_id, name, short_code)"
                    " VALUES (:account, 1, gen_random_uuid(), gen_random_uuid(), repeat('\U0001f4b6', 300),"
                    " repeat('\U0001f4b6', 30)) RETURNING id"
                ),
                {"account": account},
            ).scalar_one()
        yield SimpleNamespace(account=account, organisation=organisation)


def test_every_parsed_row_can_be_stored_and_shown(mirror_scope: Any) -> None:
    person = {"id": 1, "emails": ["ann@acme.test"], "date_modified": 1}

    @hypothesis_settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(replaced(INVOICE, "InvoiceID").map(lambda odd: odd[0]), min_size=1, max_size=3),
        st.lists(replaced(CONTACT, "ContactID").map(lambda odd: odd[0]), min_size=1, max_size=3),
        st.sampled_from(list(RecordType)),
        st.lists(replaced(RECORD, "id").map(lambda odd: odd[0]), min_size=1, max_size=3),
    )
    def holds(invoices: list[Any], contacts: list[Any], record_type: RecordType, records: list[Any]) -> None:
        scope = (mirror_scope.account, mirror_scope.organisation)
        contact = {**CONTACT, "ContactID": OTHER}
        read_contacts = parse_rows(XeroContact, [*contacts, contact], "ContactID", CLOCK).items
        read_invoices = parse_rows(XeroInvoice, invoices, "InvoiceID", CLOCK).items
        with transaction() as session:
            people = parse_rows(RECORD_SCHEMAS[RecordType.PERSON], [person], "id", CLOCK).items
            mirror.upsert_records(
                session, mirror_scope.account, RecordType.PERSON, [person.to_row() for person in people], CLOCK
            )
            mirror.upsert_contacts(session, *scope, [contact.to_row() for contact in read_contacts], CLOCK)
            mirror.upsert_invoices(session, *scope, [invoice.to_row() for invoice in read_invoices], CLOCK)
            rows = [parsed.to_row() for parsed in parse_rows(RECORD_SCHEMAS[record_type], records, "id", CLOCK).items]
            mirror.upsert_records(session, mirror_scope.account, record_type, rows, CLOCK)
            drift.compare_records(session, mirror_scope.account, record_type, rows, CLOCK, CLOCK)
            drift.compare_invoices(session, scope, [invoice.to_row() for invoice in read_invoices], CLOCK, CLOCK)
            projection.project_batch(session, mirror_scope.account)
            assert session.execute(text("SELECT count(*) FROM xero_invoice")).scalar_one() == 1
            assert session.execute(text("SELECT count(*) FROM xero_contact")).scalar_one() == 2
            session.execute(text("SELECT * FROM xero_invoice")).all()
            assert projection.compare(session, mirror_scope.account).is_clean
            session.rollback()

    holds()


def test_the_longest_possible_row_fits_the_index_of_the_read_model(mirror_scope: Any) -> None:
    wide = "".join(chr(0x1F300 + number % 700) for number in range(700))
    invoice = {
        **INVOICE,
        "Type": wide,
        "Status": wide,
        "InvoiceNumber": wide[::-1],
        "CurrencyCode": wide[5:],
        "Total": "1234567890123456789" + "." + "1" * 30,
        "AmountDue": "-1234567890123456789" + "." + "1" * 30,
    }
    contact = {**CONTACT, "ContactID": OTHER, "Name": wide, "EmailAddress": "ann@acme.test"}
    person = {"id": 1, "name": wide, "emails": ["ann@acme.test"], "date_modified": 1}
    scope = (mirror_scope.account, mirror_scope.organisation)
    for invoice_type in ("ACCPAY", wide):
        with transaction() as session:
            rows = [
                parsed.to_row() for parsed in parse_rows(RECORD_SCHEMAS[RecordType.PERSON], [person], "id", CLOCK).items
            ]
            mirror.upsert_records(session, mirror_scope.account, RecordType.PERSON, rows, CLOCK)
            contacts = parse_rows(XeroContact, [contact], "ContactID", CLOCK).items
            mirror.upsert_contacts(session, *scope, [parsed.to_row() for parsed in contacts], CLOCK)
            invoices = parse_rows(XeroInvoice, [{**invoice, "Type": invoice_type}], "InvoiceID", CLOCK)
            assert not invoices.dropped_fields
            mirror.upsert_invoices(session, *scope, [parsed.to_row() for parsed in invoices.items], CLOCK)
            projection.project_batch(session, mirror_scope.account)
            total = session.execute(text("SELECT total FROM record_invoice")).scalar_one()
            assert total == Decimal(invoice["Total"])
            session.rollback()


# Credits


@pytest.mark.parametrize(
    ("model", "key", "name", "expected"),
    [
        (XeroCreditNote, "CreditNoteID", "ACCRECCREDIT", InvoiceType.CREDIT_NOTE),
        (XeroCreditNote, "CreditNoteID", " accpaycredit ", InvoiceType.BILL_CREDIT_NOTE),
        (XeroCreditNote, "CreditNoteID", "", InvoiceType.UNKNOWN_CREDIT_NOTE),
        (XeroCreditNote, "CreditNoteID", "ACCREC", InvoiceType.UNKNOWN_CREDIT_NOTE),
        (XeroPrepayment, "PrepaymentID", "ARPREPAYMENT", InvoiceType.PREPAYMENT),
        (XeroPrepayment, "PrepaymentID", "APPREPAYMENT", InvoiceType.BILL_PREPAYMENT),
        (XeroPrepayment, "PrepaymentID", "SPEND-PREPAYMENT", InvoiceType.BILL_PREPAYMENT),
        (XeroOverpayment, "OverpaymentID", "AROVERPAYMENT", InvoiceType.OVERPAYMENT),
        (XeroOverpayment, "OverpaymentID", "APOVERPAYMENT", InvoiceType.BILL_OVERPAYMENT),
        (XeroOverpayment, "OverpaymentID", 7, InvoiceType.UNKNOWN_OVERPAYMENT),
    ],
)
def test_the_type_of_a_credit_always_belongs_to_its_listing(
    model: type[XeroCredit], key: str, name: Any, expected: InvoiceType
) -> None:
    (row,) = rows_of(parse_rows(model, [{key: ID, "Type": name}], key, CLOCK))
    assert isinstance(row, InvoiceRow)
    assert row.type == expected


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"Total": 100, "RemainingCredit": 30}, "30"),
        ({"Total": 100, "Allocations": [{"Amount": 30}, None, {"Amount": "20.5"}]}, "49.5"),
        ({"Total": 100, "Allocations": None}, "100"),
        ({"Total": 100, "RemainingCredit": None, "Allocations": [{"Amount": "?"}]}, None),
        ({"Allocations": [{"Amount": 30}]}, None),
        ({"Total": 100, "Status": "VOIDED"}, "0"),
        ({"Total": 100, "Status": "PAID"}, "0"),
        ({"Total": 100, "RemainingCredit": -5}, "-5"),
    ],
)
def test_what_is_left_of_a_credit_is_computed_only_if_it_can_be(fields: dict[str, Any], left: str | None) -> None:
    row = {"CreditNoteID": ID, "Status": "AUTHORISED", **fields}
    (parsed,) = parse_rows(XeroCreditNote, [row], "CreditNoteID", CLOCK).items
    assert parsed.to_row().balance == (Decimal(left) if left is not None else None)
    assert parsed.to_row().due_date is None


# Single values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/Date(1541176290160+0000)/", datetime(2018, 11, 2, 16, 31, 30, 160_000, UTC)),
        ("/Date(1541176290160)/", datetime(2018, 11, 2, 16, 31, 30, 160_000, UTC)),
        ("2018-11-02T16:31:30.16", datetime(2018, 11, 2, 16, 31, 30, 160_000, UTC)),
        ("2018-11-02T16:31:30.1600000Z", datetime(2018, 11, 2, 16, 31, 30, 160_000, UTC)),
        ("2018-11-03T05:31:30.16+13:00", datetime(2018, 11, 2, 16, 31, 30, 160_000, UTC)),
        (1541176290, datetime(2018, 11, 2, 16, 31, 30, 0, UTC)),
        ("1541176290", datetime(2018, 11, 2, 16, 31, 30, 0, UTC)),
        (Decimal("1541176290.16"), datetime(2018, 11, 2, 16, 31, 30, 160_000, UTC)),
        (1541176290160, datetime(2018, 11, 2, 16, 31, 30, 160_000, UTC)),
        ("/Date(-62135596800000)/", None),
        ("0001-01-01T00:00:00Z", None),
        (0, None),
    ],
)
def test_times_are_parsed_in_every_format_that_vendors_use(value: Any, expected: datetime | None) -> None:
    row = parse_rows(XeroInvoice, [{"InvoiceID": ID, "UpdatedDateUTC": value}], "InvoiceID", CLOCK).items[0].to_row()
    assert row.updated_at == (expected or CLOCK)
    assert row.has_version is (expected is not None)


def test_a_version_ahead_of_the_vendors_clock_is_ignored() -> None:
    for ahead, is_kept in ((timedelta(minutes=5), True), (timedelta(minutes=5, seconds=1), False)):
        at = CLOCK + ahead
        result = parse_rows(XeroInvoice, [{"InvoiceID": ID, "UpdatedDateUTC": at.isoformat()}], "InvoiceID", CLOCK)
        row = result.items[0].to_row()
        assert (row.updated_at, row.has_version) == ((at, True) if is_kept else (CLOCK, False))
        assert list(result.dropped_fields) == ([] if is_kept else ["UpdatedDateUTC"])


ODD_ENTRIES: list[Any] = [None, 5, True, [], [["ann@acme.test"]]]


def test_a_malformed_list_entry_only_affects_itself() -> None:
    people = [*ODD_ENTRIES, {"EmailAddress": 5}, {"EmailAddress": "eve@acme.test", "IncludeInEmails": True}]
    contact = parse_rows(XeroContact, [{**CONTACT, "ContactPersons": people}], "ContactID", CLOCK)
    assert [sorted(contact_row.to_row().emails) for contact_row in contact.items] == [
        ["ann@acme.test", "eve@acme.test"]
    ]
    emails = [*ODD_ENTRIES, {"email": None}, {"email": "eve@acme.test"}, "bob@acme.test"]
    person = parse_rows(RECORD_SCHEMAS[RecordType.PERSON], [{**RECORD, "emails": emails}], "id", CLOCK)
    assert [sorted(person_row.to_row().emails) for person_row in person.items] == [["bob@acme.test", "eve@acme.test"]]


def test_an_id_is_enough_for_a_row() -> None:
    invoice = parse_rows(XeroInvoice, [{"InvoiceID": f" {ID.upper()} "}], "InvoiceID", CLOCK).items[0].to_row()
    assert (invoice.invoice_id, invoice.contact_id, invoice.due_date) == (UUID(ID), None, None)
    assert (invoice.created_at, invoice.created_source) == (CLOCK, "updated_date")
    person = parse_rows(RECORD_SCHEMAS[RecordType.PERSON], [{"id": "7"}], "id", CLOCK).items[0].to_row()
    assert (person.record_id, person.name, person.updated_at) == (7, "", CLOCK)


@pytest.mark.parametrize("value", [True, 0, -1, 2**63, "x", "", None, 1.5, [7], {"id": 7}, Decimal("1E+999999")])
def test_an_invalid_id_makes_no_row(value: Any) -> None:
    result = parse_rows(RECORD_SCHEMAS[RecordType.PERSON], [{"id": value}], "id", CLOCK)
    assert not result.items
    assert result.unreadable_rows == 1


@pytest.mark.parametrize("value", ["", " ", "0" * 32, "{" + "0" * 8 + "-0000-0000-0000-" + "0" * 12 + "}", 5, {}, "x"])
def test_an_invalid_uuid_makes_no_invoice(value: Any) -> None:
    result = parse_rows(XeroInvoice, [{"InvoiceID": value}], "InvoiceID", CLOCK)
    assert not result.items
    assert result.unreadable_rows == 1


def test_an_issue_date_at_the_end_of_the_calendar_is_stored_without_a_created_date() -> None:
    row = parse_rows(XeroInvoice, [{"InvoiceID": ID, "DateString": "9999-12-31"}], "InvoiceID", CLOCK).items[0].to_row()
    assert (row.issue_date, row.created_at) == (date(9999, 12, 31), CLOCK)


def test_errors_name_fields_and_ids_but_never_values() -> None:
    result = parse_rows(
        XeroContact, [{"ContactID": "ann@acme.test"}, {"ContactID": ID, "Name": ["ann@acme.test"]}], "ContactID"
    )
    assert "ann@" not in repr((result.unreadable, result.dropped_fields))
    assert result.dropped_fields["Name"].row_id == ID


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": 1.10}', {"a": Decimal("1.10")}),
        (b'\xef\xbb\xbf{"a": "\xff"}', {"a": "\ufffd"}),
        ('{"a": "\u00fc"}'.encode("utf-16"), {"a": "\u00fc"}),
        (b'{"a": "tab\tand\x00"}', {"a": "tab\tand\x00"}),
        (b'{"a": ' + b"9" * 5_000 + b"}", {"a": "9" * 5_000}),
        (b'{"a": 1e99999999999999999999}', {"a": "1e99999999999999999999"}),
    ],
)
def test_a_body_is_parsed_whatever_bytes_and_numbers_it_contains(body: bytes, expected: Any) -> None:
    assert parse_json(SimpleNamespace(content=body)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("20260101", date(2026, 1, 1)),
        ("99991231", date(9999, 12, 31)),
        ("2026-01-01", date(2026, 1, 1)),
        (1541176290, date(2018, 11, 2)),
        ("1541176290160", date(2018, 11, 2)),
        ("/Date(1539946800000+1300)/", date(2018, 10, 20)),
    ],
)
def test_dates_are_parsed_in_every_format(value: Any, expected: date) -> None:
    assert parse_date(value) == expected


@pytest.mark.parametrize("value", ["2026", "202601", 2026, 20260101, "20261301", "/Date(1772236800000+9999)/"])
def test_a_number_that_is_no_date_is_not_taken_for_one(value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_date(value)
