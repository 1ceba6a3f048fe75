"""What is outstanding in the base currency: at each invoice's own rate, and honest about what is not known."""

from __future__ import annotations

from decimal import Decimal
from html import unescape

import pytest
from babel import Locale
from sqlalchemy import text

from store.db.database import Role, account_transaction, transaction
from store.db.enums import RecordType
from store.read_model import base_totals
from store.read_model.base_totals import BaseTotal
from tests.integration.test_columns_and_filters import change
from tests.support.admin import sign_in
from tests.support.databases import clear_budgets
from tests.support.world import World
from web.presentation import record_view

ENGLISH = Locale("en")


def totals(world: World, record: int) -> list[BaseTotal]:
    with account_transaction(world.account, Role.READS) as session:
        return base_totals.list_for_record(session, world.account, RecordType.PERSON, record)


def lines(world: World, record: int) -> tuple[str, ...]:
    return record_view.build_record_view(world.account, RecordType.PERSON, record, ENGLISH).base_totals


def set_rate(number: str, rate: object) -> None:
    with transaction() as session:
        statement = text("UPDATE xero_invoice SET currency_rate = :rate WHERE number = :number")
        session.execute(statement, {"rate": rate, "number": number})


def test_amounts_count_at_the_invoices_own_rates(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    world.invoice(contact, "100.00", number="N-1")
    world.invoice(contact, "60.00", currency="USD", number="U-1")
    world.invoice(contact, "60.00", currency="USD", number="U-2")
    world.invoice(contact, "9000", currency="JPY", number="J-1")
    world.settle()
    set_rate("U-2", "0.5")
    set_rate("N-1", None)
    (total,) = totals(world, ann)
    assert (total.base_currency, total.open, total.invoices) == ("NZD", Decimal(100 + 100 + 120 + 100), 4)
    assert lines(world, ann) == ("≈ NZD 420.00 outstanding in all, at the invoices' own exchange rates",)


def test_only_what_is_open_shown_and_sold_counts(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    world.invoice(contact, "60.00", currency="USD", number="U-1")
    world.invoice(contact, "60.00", currency="USD", status="DRAFT")
    paid = world.invoice(contact, "60.00", currency="USD")
    world.sandbox.simulate("pay_invoice", invoice=paid.id)
    world.invoice(contact, "600.00", currency="USD", type="ACCPAY", number="S-1")
    world.sandbox.simulate("create_credit_note", contact=contact, total="5.00")
    change(world, bill_record_types=tuple(RecordType))
    world.settle()
    assert [(total.open, total.invoices) for total in totals(world, ann)] == [(Decimal(100), 1)]
    change(world, record_types=("lead",))
    assert totals(world, ann) == []


def test_nothing_is_said_where_everything_is_in_the_base_currency(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    world.invoice(contact, "100.00")
    world.invoice(contact, "50.00", currency="USD", status="DRAFT")
    world.settle()
    assert totals(world, ann) == []
    assert lines(world, world.person("nobody@acme.test")) == ()


@pytest.mark.parametrize("rate", [None, 0, -1, "1e-30", "1e30", "NaN"])
def test_an_invoice_without_a_usable_rate_is_named_and_not_counted(world: World, rate: object) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    world.invoice(contact, "60.00", currency="USD", number="U-1")
    world.settle()
    set_rate("U-1", rate)
    assert lines(world, ann) == ("No total in NZD: the exchange rate of 1 invoice isn't known.",)
    world.invoice(contact, "100.00", number="N-1")
    world.invoice(contact, "9000", currency="JPY", number="J-1")
    world.settle()
    set_rate("J-1", rate)
    expected = "≈ NZD 100.00 outstanding in all, at the invoices' own exchange rates."
    assert lines(world, ann) == (f"{expected} Not included: the exchange rates of 2 invoices aren't known.",)


def test_a_total_is_rounded_once_to_the_decimals_of_its_currency(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    for number in range(3):
        world.invoice(contact, "10.00", currency="USD", number=f"U-{number}")
    world.settle()
    for number in range(3):
        set_rate(f"U-{number}", 3)
    assert lines(world, ann) == ("≈ NZD 10.00 outstanding in all, at the invoices' own exchange rates",)
    set_rate("U-0", "0.7")
    assert lines(world, ann) == ("≈ NZD 20.95 outstanding in all, at the invoices' own exchange rates",)


def test_an_absurd_amount_breaks_nothing(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    world.invoice(contact, "99999999999999999999.99", currency="USD", number="U-1")
    world.settle()
    assert lines(world, ann) == ("No total in NZD: the exchange rate of 1 invoice isn't known.",)
    set_rate("U-1", "1e9")
    assert lines(world, ann) == ("≈ NZD 100,000,000,000.00 outstanding in all, at the invoices' own exchange rates",)


def test_each_base_currency_has_its_own_total(unconnected: World) -> None:
    world = unconnected.open(organisations=2)
    ann = world.person("ann@acme.test")
    contacts = [world.contact("Ann", "ann@acme.test", organisation=number) for number in (0, 1)]
    world.invoice(contacts[0], "60.00", currency="USD", number="U-1")
    world.invoice(contacts[1], "40.00", number="N-2")
    world.settle()
    assert lines(world, ann) == ("≈ NZD 140.00 outstanding in all, at the invoices' own exchange rates",)
    with transaction() as session:
        name = "Acme Sales Ltd 2"
        session.execute(text("UPDATE xero_organisation SET base_currency = 'JPY' WHERE name = :name"), {"name": name})
    set_rate("N-2", "0.0111")
    assert lines(world, ann) == (
        "Acme Sales Ltd 2: ≈ JPY 3,604 outstanding in all, at the invoices' own exchange rates",
        "Acme Sales Ltd 1: ≈ NZD 100.00 outstanding in all, at the invoices' own exchange rates",
    )
    with transaction() as session:
        session.execute(text("UPDATE xero_organisation SET base_currency = NULL WHERE name = :name"), {"name": name})
    assert lines(world, ann) == (
        "Acme Sales Ltd 1: ≈ NZD 100.00 outstanding in all, at the invoices' own exchange rates",
    )


def test_the_line_is_on_the_page_and_changes_its_entity_tag(world: World) -> None:
    clear_budgets("throttle")
    ann = world.person("ann@acme.test")
    world.invoice(world.contact("Ann", "ann@acme.test"), "60.00", currency="USD", number="U-1")
    world.settle()
    page = unescape(sign_in(world).open(f"/records/person/{ann}").text)
    assert "≈ NZD 100.00 outstanding in all, at the invoices' own exchange rates" in page
    before = record_view.build_record_view(world.account, RecordType.PERSON, ann, ENGLISH).etag
    set_rate("U-1", "0.5")
    assert record_view.build_record_view(world.account, RecordType.PERSON, ann, ENGLISH).etag != before
