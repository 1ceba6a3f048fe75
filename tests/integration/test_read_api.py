"""`GET /v1/{type}/{id}/invoices`."""

from __future__ import annotations

import re
import runpy
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from sqlalchemy import text

from store.db.database import transaction
from store.read_model.invoice_queries import Position
from tests.support import databases
from tests.support.world import World
from web.api import cursors
from web.presentation import links
from web.presentation.currencies import format_amount

ROOT = Path(__file__).resolve().parents[2]


def test_the_response_has_the_documented_fields(world: World) -> None:
    company = world.company()
    world.person("ann@acme.test", company=company)
    due = world.today() - timedelta(days=4)
    invoice = world.invoice("ann@acme.test", issued="2026-10-20", due=due.isoformat(), number="INV-0002")
    world.sandbox.simulate("pay_invoice", invoice=invoice.id, amount="75.00")
    world.settle()

    response = world.read("companies", company).json()

    assert response["record"] == {"type": "company", "id": company}
    assert response["next"] is None
    age = datetime.now(UTC) - datetime.fromisoformat(response["synced_at"])
    assert timedelta(0) <= age < timedelta(minutes=1)
    (row,) = response["invoices"]
    created = datetime.fromisoformat(row.pop("created_at"))
    assert datetime.now(UTC) - created < timedelta(minutes=1)
    short_code = row["url"].split("shortcode=")[1].split("&")[0]
    assert short_code.startswith("!")
    assert row == {
        "id": invoice.id,
        "number": "INV-0002",
        "type": "ACCREC",
        "status": "AUTHORISED",
        "issuer": "Acme Sales Ltd 1",
        "issue_date": "2026-10-20",
        "due_date": due.isoformat(),
        "total_due": "115.00",
        "balance_due": "40.00",
        "currency": "NZD",
        "created_at_source": "webhook",
        "overdue_days": 4,
        "url": "https://go.xero.com/organisationlogin/default.aspx"
        f"?shortcode={short_code}&redirecturl=/AccountsReceivable/View.aspx?InvoiceID={invoice.id}",
    }


@pytest.mark.parametrize(
    ("value", "currency", "expected"),
    [
        ("115", "NZD", "115.00"),
        ("115.5", "NZD", "115.50"),
        ("1200", "JPY", "1200"),
        ("1200.00", "JPY", "1200"),
        ("1.5", "KWD", "1.500"),
        ("0", "EUR", "0.00"),
        ("-3.1", "EUR", "-3.10"),
        ("1E+3", None, "1000.00"),
        ("12345678901234567.89", "USD", "12345678901234567.89"),
        ("0.1234", "NZD", "0.1234"),
    ],
)
def test_amounts_have_their_currencys_own_decimals(value: str, currency: str | None, expected: str) -> None:
    assert format_amount(Decimal(value), currency) == expected


def test_further_fields_are_in_the_response_if_they_are_requested(world: World) -> None:
    ann = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", "115.00", reference="PO 7", due="2026-11-01")
    world.sandbox.simulate("update_invoice", invoice=invoice.id, expected_payment="2026-12-24")
    world.sandbox.simulate("pay_invoice", invoice=invoice.id, amount="15.00")
    world.settle()
    fields = "balance_due,reference,amount_paid,amount_credited,expected_payment_date,sent_to_contact,organisation"
    fields += ",paid_on"
    (row,) = world.read("people", ann, fields=fields).json()["invoices"]
    assert row == {
        "id": invoice.id,
        "balance_due": "100.00",
        "reference": "PO 7",
        "amount_paid": "15.00",
        "amount_credited": "0.00",
        "expected_payment_date": "2026-12-24",
        "sent_to_contact": True,
        "organisation": "Acme Sales Ltd 1",
        "paid_on": None,
    }
    assert list(row) == ["id", *fields.split(",")], "in the order of the request"
    world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    world.settle()
    (row,) = world.read("people", ann, fields="status, paid_on").json()["invoices"]
    assert row["status"] == "PAID"
    assert row["paid_on"] in {datetime.now(UTC).date().isoformat(), world.today().isoformat()}
    world.check()


def test_an_unknown_field_is_named(world: World) -> None:
    response = world.read("people", 1, fields="number,colour")
    assert response.status_code == 400
    assert "'colour' is not a field. Choose from amount_credited, amount_paid, balance_due" in response.text


def test_amounts_are_never_converted_to_floats(world: World) -> None:
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test", total="90071992547409.93", currency="JPY")
    world.settle()

    assert world.rows("people", person)[0]["total_due"] == "90071992547409.93"


def test_missing_number_due_date_and_currency_are_null(world: World) -> None:
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test", status="DRAFT", number="")
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE record_invoice SET currency = NULL"))

    (row,) = world.rows("people", person)
    assert (row["number"], row["due_date"], row["currency"], row["overdue_days"]) == (None, None, None, 0)
    assert row["total_due"] == "115.00"


def test_created_dates_name_their_source_and_only_become_more_precise(world: World) -> None:
    person = world.person("ann@acme.test")
    contact = world.contact("Acme", "ann@acme.test")
    world.settle()
    world.sandbox.faults(webhooks=[{"vendor": "xero", "loss": 1.0}])
    invoice = world.invoice(contact, issued="2026-01-05")
    world.sandbox.faults()
    world.backfill()
    (row,) = world.rows("people", person)
    assert (row["created_at"], row["created_at_source"]) == ("2026-01-05T00:00:00.000Z", "issue_date")

    at = datetime(2026, 1, 5, 9, 30, 1, 234000, tzinfo=UTC)
    from tests.integration.test_webhook_endpoints import delivery, event, post_xero

    body = event(
        world.tenants[0],
        resourceId=invoice.id,
        eventType="CREATE",
        eventCategory="INVOICE",
        eventDateUtc="2026-01-05T09:30:01.234",
    )
    assert post_xero(world.web, delivery(body)).status_code == 200
    world.settle()
    world.sandbox.simulate("update_invoice", invoice=invoice.id, issued="2026-01-06")
    world.settle()
    world.backfill()

    (row,) = world.rows("people", person)
    assert (datetime.fromisoformat(row["created_at"]), row["created_at_source"]) == (at, "webhook")
    assert row["issue_date"] == "2026-01-06"
    world.check()


def test_pages_have_no_gaps_and_no_duplicates(world: World) -> None:
    person = world.person("ann@acme.test")
    for _ in range(23):
        world.invoice("ann@acme.test")
    world.settle()
    numbers = world.invoice_numbers("people", person)[::-1]
    assert len(numbers) == 23

    for order, expected in (("newest", numbers[::-1]), ("oldest", numbers)):
        numbers_seen: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = world.read("people", person, limit=5, order=order, **after).json()
            numbers_seen += [row["number"] for row in page["invoices"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
            world.invoice("ann@acme.test", number="in between")
            world.settle()
        assert [number for number in numbers_seen if number != "in between"] == expected


def test_the_fast_path_and_the_regular_path_return_the_same_response(world: World) -> None:
    person = world.person("ann@acme.test")
    for _ in range(3):
        world.invoice("ann@acme.test")
    world.settle()
    key = {"Authorization": f"Bearer {world.key}"}

    def response(path: str) -> dict[str, Any]:
        payload: dict[str, Any] = world.web.get(f"/v1/{path}", headers=key).raise_for_status().json()
        return payload

    assert response(f"people/{person}/invoices") == response(f"people/{person}/invoices?order=newest")
    limited = response(f"people/{person}/invoices?limit=2")
    assert len(limited["invoices"]) == 2
    assert limited["next"]
    for url in (f"people/{person}/invoices?limit=02", f"people/0{person}/invoices?limit=2&order=newest"):
        assert response(url) == limited


def test_the_default_limit_is_the_account_setting(world: World) -> None:
    person = world.person("ann@acme.test")
    for _ in range(7):
        world.invoice("ann@acme.test")
    world.settle()

    first = world.read("people", person).json()
    assert len(first["invoices"]) == 5
    assert len(world.read("people", person, after=first["next"]).json()["invoices"]) == 2


def test_disabled_record_types_show_nothing(world: World) -> None:
    person, lead = world.person("ann@acme.test"), world.lead("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE account SET record_types = '{person}'"))

    assert world.invoice_numbers("people", person) == [invoice.number]
    assert world.invoice_numbers("leads", lead) == []


def problem(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    payload: dict[str, Any] = response.json()
    assert payload["status"] == response.status_code
    assert payload["detail"]
    return payload


def test_an_unknown_record_is_an_empty_list(world: World) -> None:
    response = world.read("people", 123456789)

    assert response.status_code == 200
    assert response.json()["invoices"] == []


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic abc", "Bearer pat_wrong", "Bearer é"])
def test_without_a_valid_key_the_answer_is_401(world: World, header: str | None) -> None:
    headers = {b"Authorization": header.encode()} if header is not None else {}
    response = world.web.get("/v1/people/1/invoices", headers=headers)

    assert response.status_code == 401
    problem(response)
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_revoked_key_is_401(world: World) -> None:
    assert world.read("people", 1).status_code == 200
    with transaction() as session:
        session.execute(text("UPDATE api_key SET revoked_at = now()"))
    assert world.read("people", 1).status_code == 401


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"after": "x"}, "after"),
        ({"after": "é" * 20}, "after"),
        ({"after": ""}, "after"),
        ({"after": "f" + "_" * 31}, "after"),
        ({"after": "A" * 100}, "after"),
        ({"order": "random"}, "order"),
    ],
)
def test_malformed_parameters_are_400_and_named(world: World, query: dict[str, str], names: str) -> None:
    response = world.read("people", 1, **query)

    assert response.status_code == 400
    assert names in problem(response)["detail"]


@pytest.mark.parametrize(("path", "status"), [("/v1/cats/1/invoices", 404), ("/v1/person/1/invoices", 404)])
def test_an_unknown_record_type_is_404(world: World, path: str, status: int) -> None:
    response = world.web.get(path, headers={"Authorization": f"Bearer {world.key}"})

    assert response.status_code == status
    assert "leads, people, companies, opportunities" in problem(response)["detail"]


@pytest.mark.parametrize("number", ["x", "-1", str(2**63), "1.5", "9" * 400])
def test_an_invalid_id_is_400(world: World, number: str) -> None:
    response = world.web.get(f"/v1/people/{number}/invoices", headers={"Authorization": f"Bearer {world.key}"})

    assert response.status_code == 400
    problem(response)


def test_a_page_is_one_index_only_scan_behind_the_policies_too(world: World) -> None:
    person = world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    migration = runpy.run_path(str(ROOT / "alembic/versions/0001_baseline.py"))
    values = {
        "for_record_type": "'person'",
        "for_record_id": str(person),
        "max_rows": "5",
        "after_created_at": "'infinity'",
        "after_invoice_id": f"'{UUID(int=2**128 - 1)}'",
        "key_account_id": str(world.account),
        "with_details": "true",
    }
    with transaction() as session:
        name = session.execute(text("SELECT current_database()")).scalar_one()
    with psycopg.connect(databases.database_url(name), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE record_invoice")
        connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        connection.execute("SELECT set_config('role', read_role(), false)")
        connection.execute("SELECT set_config('patina.account', %s, false)", (str(world.account),))
        for comparison, direction in (("<", "DESC"), (">", "ASC")):
            statement = migration["PAGE"].format(comparison=comparison, direction=direction)
            for placeholder, value in values.items():
                statement = re.sub(rf"\b{placeholder}\b", value, statement)
            plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {statement}"))
            scan = plan[plan.index("using record_invoice_pkey on record_invoice") :]
            assert "Index Only Scan" in plan
            assert "record_type = 'person'" in scan[: scan.index("Filter")], "the whole key is the index's"


def test_cursors_survive_the_round_trip() -> None:
    position = Position(datetime(2026, 11, 24, 3, 12, 45, 120456, tzinfo=UTC), UUID(int=7))
    assert cursors.decode_position(cursors.encode_position(position)) == position


def test_a_link_without_a_short_code_still_opens_the_invoice() -> None:
    assert links.invoice("ACCREC", UUID(int=1), None).startswith("https://go.xero.com/AccountsReceivable/View.aspx?")


def test_the_openapi_document_describes_the_response_and_its_errors(web: httpx.Client) -> None:
    payload = web.get("/openapi.json").json()
    operation = payload["paths"]["/v1/{type}/{id}/invoices"]["get"]

    assert set(operation["responses"]) == {"200", "400", "401", "404", "429", "503"}
    assert operation["security"] == [{"bearer": []}]
    assert payload["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    page = web.get("/docs")
    assert page.status_code == 200
    assert "//cdn" not in page.text
