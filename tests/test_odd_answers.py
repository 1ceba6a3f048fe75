"""What vendors send is read field by field: one odd field costs no row, one odd row no page, and both are counted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from runtime.settings import override
from store import accounts, inbox, unreadable_fields
from store.database import transaction
from tests.odd_vendor import OddVendor, between, literal
from tests.test_project import patina
from tests.world import World
from worker import overview, schedule
from worker.budget import Purpose
from worker.copper import client as copper
from worker.steps import Kind
from worker.xero import oauth

NOTHING: Any = ...


@pytest.fixture
def odd(world: World) -> Iterator[OddVendor]:
    with between(world.sandbox.url) as vendor:
        yield vendor


def one(statement: str) -> Any:
    with transaction() as session:
        return session.execute(text(statement)).one()


def counted(world: World) -> set[tuple[str, str]]:
    with transaction() as session:
        return {(found.resource, found.field) for found in unreadable_fields.recent(session, world.account)}


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
    ({"Total": None, "AmountDue": None}, {"total": 0, "balance": 0}, set()),
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
    ({"Reference": {"nested": [[[None]]]}, "Unknown": 5}, {"has_version": True}, set()),
]


def test_an_odd_field_of_an_invoice_costs_neither_the_invoice_nor_its_other_fields(
    world: World, odd: OddVendor
) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", "100.00")
    world.settle()
    columns = "contact_id, type, status, number, issue_date, due_date, total, balance, currency"
    right = one(f"SELECT {columns} FROM invoice")._mapping
    for fields, wanted, unreadable in INVOICE_FIELDS:
        odd.behave()
        odd.change_rows("/Invoices", **fields)
        with transaction() as session:
            session.execute(text("TRUNCATE unreadable_field"))
            session.execute(text("UPDATE invoice SET updated_at = '2000-01-01', has_version = true, status = 'stale'"))
        world.backfill()
        got = one(f"SELECT {columns}, has_version FROM invoice WHERE invoice_id = '{invoice.id}'")._mapping
        expected = {**right, **wanted}
        if expected["due_date"] == "DUE":
            expected["due_date"] = right["due_date"]
        for name, value in expected.items():
            same = str(got[name]) == str(value) or got[name] == value
            assert same or float(got[name]) == float(value), (fields, name, got[name], value)
        assert {field for _, field in counted(world)} == unreadable, fields
        assert len(world.rows("people", person)) == 1, fields
        assert world.compare().clean


@pytest.mark.parametrize(
    "contact", [None, {}, {"ContactID": ""}, {"ContactID": None}, {"ContactID": "no id"}, "x", [1]]
)
def test_an_invoice_that_loses_its_contact_leaves_the_record(world: World, odd: OddVendor, contact: Any) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    assert world.shown("people", person) == [invoice.number]

    odd.change_rows("/Invoices", Contact=contact)
    world.sandbox.act("pay_invoice", invoice=invoice.id)
    world.settle()

    assert world.shown("people", person) == []
    assert one("SELECT contact_id, status FROM invoice") == (None, "PAID")


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


def test_an_odd_field_of_a_contact_costs_neither_the_contact_nor_its_other_addresses(
    world: World, odd: OddVendor
) -> None:
    world.contact("Acme", "ann@acme.test")
    for fields, addresses in CONTACT_FIELDS:
        odd.behave()
        odd.change_rows("/Contacts", **fields)
        world.backfill()
        with transaction() as session:
            got = set(session.execute(text("SELECT email FROM xero_contact_email")).scalars())
        assert got == addresses, fields
        assert one("SELECT count(*), max(merged_to::text) FROM xero_contact WHERE NOT gone") == (1, None), fields


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


def test_an_odd_field_of_a_person_costs_neither_the_person_nor_its_other_fields(world: World, odd: OddVendor) -> None:
    company = world.company()
    person = world.person("eve@x.test", company=company)
    world.settle()
    for fields, addresses, related in PERSON_FIELDS:
        odd.behave()
        odd.change_rows("/people/search", **fields)
        with transaction() as session:
            session.execute(text("UPDATE crm_record SET updated_at = '2000-01-01', has_version = true"))
        world.backfill()
        with transaction() as session:
            got = set(session.execute(text("SELECT email FROM crm_record_email")).scalars())
            ends = session.execute(text("SELECT related_id FROM crm_relation WHERE record_type = 'person'")).scalars()
            assert list(ends) == ([company if related == 1 else related] if related else []), fields
        assert got == addresses, fields
        assert one(f"SELECT gone FROM crm_record WHERE record_id = {person} AND record_type = 'person'") == (False,)
        assert world.compare().clean


@pytest.mark.parametrize(
    "email", ["lee@x.test", ["lee@x.test"], [{"email": "lee@x.test"}], {"email": "lee@x.test"}, [None, "lee@x.test"]]
)
def test_a_leads_address_is_read_in_whatever_shape_it_comes(world: World, odd: OddVendor, email: Any) -> None:
    odd.change_rows("/leads", email=email)
    lead = world.lead("other@x.test")
    invoice = world.invoice("lee@x.test")
    world.settle()
    assert world.shown("leads", lead) == [invoice.number]


# Versions


def test_a_version_that_was_not_given_counts_as_the_fetch_and_blocks_no_later_version(
    world: World, odd: OddVendor
) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    odd.change_rows("/Invoices", UpdatedDateUTC=NOTHING, Status="ODD")
    world.sandbox.act("change_invoice", invoice=invoice.id, total="200.00")
    world.settle()
    assert world.rows("people", person)[0]["status"] == "ODD"

    version, clock = one("SELECT updated_at, fetched_at FROM invoice")
    assert abs(version - clock) < timedelta(seconds=5)
    odd.behave()
    world.backfill()
    assert world.rows("people", person)[0]["status"] == "AUTHORISED", "the real version is older than the fetch"
    odd.change_rows("/Invoices", UpdatedDateUTC=None)
    world.sandbox.act("pay_invoice", invoice=invoice.id)
    world.settle()
    assert world.rows("people", person)[0]["status"] == "PAID"
    odd.behave()
    world.check()


def test_a_version_that_was_not_given_goes_by_the_vendors_clock_and_never_beyond_it(
    world: World, odd: OddVendor
) -> None:
    world.sandbox.control("PUT", "clock", json={"ahead": 7_200})
    odd.change_rows("/people", date_modified=None)
    world.person("ann@acme.test")
    world.settle()
    (version,) = one("SELECT updated_at FROM crm_record")
    assert timedelta(seconds=7_190) < version - datetime.now(UTC) < timedelta(seconds=7_201)
    odd.has_clock = False
    world.backfill()
    (version,) = one("SELECT updated_at FROM crm_record")
    assert abs(version - datetime.now(UTC)) < timedelta(seconds=60)


def test_an_invoice_without_version_and_date_keeps_its_place_in_the_order(world: World, odd: OddVendor) -> None:
    world.invoice("ann@acme.test")
    odd.change_rows("/Invoices", UpdatedDateUTC=None, Date=None, DateString=None)
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE invoice SET created_source = 'updated_date', created_at = '2026-01-01'"))
    world.backfill()
    (created,) = one("SELECT created_at FROM invoice")
    assert created == datetime(2026, 1, 1, tzinfo=UTC)


# What cannot be kept


def broken_rows(answer: Any) -> Any:
    name = next(name for name in ("Invoices", "Contacts") if name in answer)
    answer[name] = [None, 5, "text", {}, {"InvoiceID": "no id", "ContactID": []}, *answer[name], []]
    return answer


def test_rows_that_cannot_be_read_cost_no_page_and_are_counted(world: World, odd: OddVendor) -> None:
    person = world.person("ann@acme.test")
    odd.change("/Invoices", broken_rows)
    odd.change("/Contacts", broken_rows)
    odd.change("/people/search", lambda rows: [None, {"id": True}, {"id": None}, *rows, {"id": literal("9" * 40)}])
    invoice = world.invoice("ann@acme.test")
    world.backfill()
    world.catch_up()
    assert world.shown("people", person) == [invoice.number]
    assert {("invoices", ""), ("contacts", ""), ("people", "")} <= counted(world)


def test_an_event_whose_invoice_cannot_be_read_is_put_aside_at_its_first_try(world: World, odd: OddVendor) -> None:
    good, bad = world.invoice("ann@acme.test"), world.invoice("ann@acme.test")
    world.settle()

    def without_id(answer: Any) -> Any:
        for row in answer["Invoices"]:
            if row["InvoiceID"] == bad.id:
                row["InvoiceID"] = None
        return answer

    odd.change("/Invoices", without_id)
    for invoice in (good, bad):
        world.sandbox.act("pay_invoice", invoice=invoice.id)
    world.settle()
    with transaction() as session:
        (event,) = inbox.quarantined(session, world.account, 10)
    assert (event.resource_id, event.attempts) == (bad.id, 1)
    assert "could not be read" in (event.error or "")
    assert one(f"SELECT status, gone FROM invoice WHERE invoice_id = '{good.id}'") == ("PAID", False)
    assert one(f"SELECT status, gone FROM invoice WHERE invoice_id = '{bad.id}'") == ("AUTHORISED", False)

    odd.behave()
    with transaction() as session:
        inbox.replay(session, world.account, None)
    world.settle()
    assert one(f"SELECT status FROM invoice WHERE invoice_id = '{bad.id}'") == ("PAID",)


@pytest.mark.parametrize("answer", [[], {}, 5, {"Invoices": None}, {"Invoices": "none"}, b"[1, 2]", b'"text"'])
def test_an_event_whose_answer_holds_no_list_is_put_aside_and_buries_nothing(
    world: World, odd: OddVendor, answer: Any
) -> None:
    invoice = world.invoice("ann@acme.test")
    world.settle()
    odd.change("/Invoices", lambda _: answer)
    world.sandbox.act("pay_invoice", invoice=invoice.id)
    world.settle()
    with transaction() as session:
        assert [event.attempts for event in inbox.quarantined(session, world.account, 10)] == [1]
    assert one("SELECT status, gone FROM invoice") == ("AUTHORISED", False)


@pytest.mark.parametrize("answer", [[], {"people": []}, 5, None, [None], [{"name": "no id"}], b"{}"])
def test_a_person_that_cannot_be_read_is_put_aside_and_not_buried(world: World, odd: OddVendor, answer: Any) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    odd.change("/people", lambda _: answer)
    world.copper_act("change_record", type="person", id=person, name="Ann")
    world.settle()
    with transaction() as session:
        assert [event.attempts for event in inbox.quarantined(session, world.account, 10)] == [1]
    assert one("SELECT gone FROM crm_record") == (False,)


def test_a_reconciliation_buries_nothing_that_came_back_unreadable(world: World, odd: OddVendor) -> None:
    person, deal = world.person("ann@acme.test"), world.opportunity()
    gone, kept = world.invoice("ann@acme.test"), world.invoice("ann@acme.test")
    world.settle()
    world.pass_time()
    with transaction() as session:
        session.execute(
            text(f"UPDATE invoice SET invoice_id = '{uuid4()}' WHERE invoice_id = '{gone.id}'"),
        )

    def without_ids(answer: Any) -> Any:
        rows = answer if isinstance(answer, list) else next(iter(v for v in answer.values() if isinstance(v, list)), [])
        for row in rows or [answer]:
            for name in ("id", "InvoiceID", "ContactID"):
                row.pop(name, None)
        return answer

    for path in ("/Invoices", "/Contacts", "/people", "/opportunities/search"):
        odd.change(path, without_ids)
    odd.change(f"/opportunities/{deal}", lambda answer: "nonsense")
    world.reconcile()
    assert one(f"SELECT gone FROM invoice WHERE invoice_id = '{kept.id}'") == (False,)
    assert one("SELECT count(*) FROM invoice WHERE gone") == (1,), "what Xero does not have, asked for by itself"
    assert one("SELECT count(*) FROM xero_contact WHERE gone") == (0,)
    assert one("SELECT count(*) FROM crm_record WHERE gone") == (0,)
    odd.behave()
    world.reconcile()
    assert world.shown("people", person).count(kept.number) == 1
    world.check()


# Envelopes


@pytest.mark.parametrize(
    "shape", [None, NOTHING, "odd", [], {"pageCount": "many"}, {"pageCount": -1}, {"pageCount": {}}]
)
def test_pages_are_counted_by_their_fullness_where_xero_does_not_count_them(
    world: World, odd: OddVendor, monkeypatch: pytest.MonkeyPatch, shape: Any
) -> None:
    monkeypatch.setattr("worker.xero.client.PAGE_SIZE", 3)
    for number in range(7):
        world.invoice(f"p{number}@acme.test")

    def changed(answer: Any) -> Any:
        if shape is NOTHING:
            answer.pop("pagination", None)
        else:
            answer["pagination"] = shape
        return answer

    odd.change("/Invoices", changed)
    odd.change("/Contacts", changed)
    with transaction() as session:
        session.execute(text("UPDATE inbox SET state = 'done', finished_at = now()"))
    world.backfill()
    assert one("SELECT (SELECT count(*) FROM invoice), (SELECT count(*) FROM xero_contact)") == (7, 7)


def test_a_page_of_nonsense_stops_its_run_after_some_tries_and_says_so(world: World, odd: OddVendor) -> None:
    override({"EVENT_ATTEMPTS": "2"})
    invoice = world.invoice("ann@acme.test")
    seen_to = one("SELECT invoices_seen_to FROM xero_organisation")
    odd.change("/Invoices", lambda _: {"Invoices": 5})
    for _ in range(2):
        world.run_once(Kind.CATCH_UP)
        with transaction() as session:
            session.execute(text("UPDATE sync_run SET not_before = now()"))
    world.run_once(Kind.CATCH_UP)
    failed = [run for run in world.runs() if run.state == "failed"]
    assert failed
    assert "no list of Invoices" in (failed[0].error or "")
    assert one("SELECT invoices_seen_to FROM xero_organisation") == seen_to
    odd.behave()
    world.catch_up()
    assert one(f"SELECT count(*) FROM invoice WHERE invoice_id = '{invoice.id}'") == (1,)


def test_one_odd_record_moves_no_reader_of_copper_past_the_others(world: World, odd: OddVendor) -> None:
    with transaction() as session:
        session.execute(text("UPDATE inbox SET state = 'done', finished_at = now()"))
    made = []
    for number in range(0, 450, 50):
        world.sandbox.control("PUT", "clock", json={"ahead": number})
        made += [world.person(f"p{number}.{one}@x.test") for one in range(50)]

    def odd_times(rows: Any) -> Any:
        for row in rows:
            if row["id"] == made[100]:
                row["date_created"] = 4_000_000_000
            if row["id"] in made[190:201]:
                row["date_created"] = "1970-01-01"
        return rows

    odd.change("/people/search", odd_times)
    world.backfill()
    assert one("SELECT count(*) FROM crm_record") == (450,)


@pytest.mark.parametrize("answer", [None, "x", 5, {"related": []}])
def test_relations_that_cannot_be_read_stay_and_hold_up_no_others(world: World, odd: OddVendor, answer: Any) -> None:
    person = world.person("ann@acme.test")
    odd_deal, good_deal = world.opportunity(), world.opportunity()
    for deal in (odd_deal, good_deal):
        world.relate(deal, "person", person)
    invoice = world.invoice("ann@acme.test")
    world.settle()
    odd.change(f"/opportunities/{odd_deal}/related", lambda _: answer)
    world.reconcile()
    assert world.shown("opportunities", odd_deal) == world.shown("opportunities", good_deal) == [invoice.number]
    world.copper_act("change_record", type="opportunity", id=odd_deal, name="touched")
    world.settle()
    with transaction() as session:
        assert [event.attempts for event in inbox.quarantined(session, world.account, 10)] == [1]
    assert world.shown("opportunities", odd_deal) == [invoice.number]


def test_odd_lines_among_relations_users_and_subscriptions_cost_only_themselves(world: World, odd: OddVendor) -> None:
    person = world.person("ann@acme.test")
    deal = world.opportunity()
    odd.change("/related", lambda rows: [None, 5, {"id": "x", "type": "person"}, {"type": "person"}, {"id": 3}, *rows])
    odd.change("/webhooks", lambda rows: [None, {"id": {}}, {"id": 4, "target": None}, *rows])
    odd.change("/users/search", lambda rows: [None, {"id": 1, "groups": None}, *rows, {"id": 2, "groups": [None, {}]}])
    odd.change("/users/me", lambda user: {**user, "name": None, "groups": [None, {"id": 7}]})
    world.relate(deal, "person", person)
    invoice = world.invoice("ann@acme.test")
    world.settle()
    assert world.shown("opportunities", deal) == [invoice.number]
    client = copper.connected(world.account, Purpose.PERSON)
    assert len(client.subscriptions()) == 13
    assert len(client.users()) > 1
    assert [(team.id, team.name) for team in client.me().groups] == [(7, "")]


def test_an_odd_organisation_keeps_its_name_and_holds_up_nothing(world: World, odd: OddVendor) -> None:
    known = one("SELECT name, short_code, base_currency FROM xero_organisation")
    answers: tuple[dict[str, Any], ...] = (
        {"Organisations": []},
        {},
        {"Organisations": [None]},
        {"Organisations": [{"Name": None}]},
    )
    for answer in answers:
        odd.behave()
        odd.change("/Organisation", lambda _, answer=answer: answer)  # type: ignore[misc]
        world.backfill()
        assert one("SELECT name, short_code, base_currency FROM xero_organisation") == known
    odd.behave()
    odd.change_rows("/Organisation", Name=17, ShortCode=[])
    world.backfill()
    assert one("SELECT name, short_code, base_currency FROM xero_organisation") == ("17", *known[1:])


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
def test_odd_fields_of_a_token_cost_neither_the_token_nor_the_connection(
    world: World, odd: OddVendor, fields: dict[str, Any]
) -> None:
    with transaction() as session:
        (account, grant) = session.execute(text("SELECT account_id, id FROM xero_grant")).one()
        before = accounts.grant(session, account, grant).token
    odd.change_rows("/connect/token", **fields)
    oauth.fresh(account, grant, unlike=before["access_token"])
    with transaction() as session:
        token = accounts.grant(session, account, grant).token
    assert token["access_token"] != before["access_token"]
    assert isinstance(token["refresh_token"], str)
    assert 1_700 < token["expires_at"] - datetime.now(UTC).timestamp() <= 1_801
    odd.behave()
    world.catch_up()


def test_bytes_that_are_no_text_cost_no_page(world: World, odd: OddVendor) -> None:
    world.contact("A name", "ann@acme.test")

    def mangled(answer: Any) -> bytes:
        import json

        return json.dumps(answer).encode().replace(b"A name", b"A \xff\x01\n name")

    odd.change("/Contacts", mangled)
    world.backfill()
    assert one("SELECT name FROM xero_contact") == ("A \ufffd\x01\n name",)


# Shown


def test_what_could_not_be_read_is_shown_by_status_and_forgotten_in_time(world: World, odd: OddVendor) -> None:
    world.contact("Acme", "ann@acme.test")
    odd.change_rows("/Contacts", Name=[], ContactStatus={}, MergedToContactID=5)
    world.backfill()
    wanted = "3 fields of Xero contacts could not be read: ContactStatus, MergedToContactID, Name"
    found = next(account for account in overview.everything() if account.id == world.account)
    assert found.unreadable_summary == [wanted]
    assert wanted in " ".join(patina("status").stdout.split())
    assert '"field": "Name"' in patina("status", "--json").stdout
    with transaction() as session:
        row = session.execute(text("SELECT rows, last_row_id FROM unreadable_field WHERE field = 'Name'")).one()
        session.execute(text("UPDATE unreadable_field SET last_seen_at = now() - interval '8 days'"))
    assert row.rows >= 1
    assert UUID(row.last_row_id)
    assert overview.everything()[0].unreadable_summary == []
    with transaction() as session:
        session.execute(text("UPDATE unreadable_field SET last_seen_at = now() - interval '40 days'"))
    schedule.forget()
    assert one("SELECT count(*) FROM unreadable_field") == (0,)
