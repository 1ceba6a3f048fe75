"""How late the money is: ageing buckets, the account's totals, the ranking of records and its filters, and owners."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from store.db.database import account_transaction, transaction
from store.db.enums import RecordType
from store.mirror import copper_users
from store.read_model import balances, projection, receivables
from store.read_model.balances import Ageing
from store.read_model.overdue_sql import AGEING_BUCKETS, AGEING_COLUMNS
from store.read_model.receivables import SORT_COLUMNS, RankingCursor, Receivable, ReceivablesQuery, Sort
from tests.support.admin import AdminBrowser
from tests.support.world import NEW_ZEALAND, World
from web.api import cursors
from worker.sync import projector

ORGANISATIONS = (NEW_ZEALAND, "GMTSTANDARDTIME", "PACIFICSTANDARDTIME")
EDGES = {
    0: "not_due",
    1: "overdue_1_to_30",
    30: "overdue_1_to_30",
    31: "overdue_31_to_60",
    60: "overdue_31_to_60",
    61: "overdue_61_to_90",
    90: "overdue_61_to_90",
    91: "overdue_over_90",
    4_000: "overdue_over_90",
}
BUCKETS = ("not_due", *AGEING_COLUMNS)


def buckets_of(ageing: Ageing) -> dict[str, Decimal]:
    """The amounts of the buckets that are not empty."""
    return {name: amount for name in BUCKETS if (amount := getattr(ageing, name))}


def bucket_of(due: date | None, today: date) -> str:
    days = (today - due).days if due else 0
    return next(
        (bucket.column for bucket in AGEING_BUCKETS if bucket.first_day <= days <= (bucket.last_day or days)),
        "not_due",
    )


def read(world: World, query: ReceivablesQuery, limit: int = 50) -> list[Receivable]:
    with account_transaction(world.account) as session:
        currencies = receivables.list_currencies(session, world.account, query.record_type)
        page = receivables.read_page(session, world.account, query, currencies=currencies, limit=limit)
    return list(page.receivables)


def page_text(admin: AdminBrowser) -> str:
    assert admin.page is not None
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", admin.page.text)).replace("\N{EN DASH}", "-")


def get(world: World, path: str, **query: Any) -> httpx.Response:
    return world.web.get(f"/v1/{path}", headers={"Authorization": f"Bearer {world.key}"}, params=query)


# Ageing


def test_the_buckets_leave_no_day_out_and_count_none_twice() -> None:
    first_days = [bucket.first_day for bucket in AGEING_BUCKETS]
    assert first_days == [1, *[(bucket.last_day or 0) + 1 for bucket in AGEING_BUCKETS[:-1]]]
    assert [bucket.last_day is None for bucket in AGEING_BUCKETS] == [False, False, False, True]


def test_each_organisation_ages_its_invoices_by_its_own_day(unconnected: World) -> None:
    world = unconnected.open(time_zones=ORGANISATIONS)
    company = world.company()
    expected: dict[str, Decimal] = {}
    for organisation in range(len(ORGANISATIONS)):
        person = world.person(f"p{organisation}@acme.test", company=company)
        today = world.today(organisation)
        own: dict[str, Decimal] = {}
        for power, (days, bucket) in enumerate(EDGES.items()):
            amount = Decimal(2**power)
            due = (today - timedelta(days=days)).isoformat()
            world.invoice(f"p{organisation}@acme.test", f"{amount}.00", organisation, due=due)
            own[bucket] = own.get(bucket, Decimal()) + amount
        world.settle()
        with account_transaction(world.account) as session:
            (balance,) = balances.list_for_record(session, world.account, RecordType.PERSON, person)
        assert buckets_of(balance) == own, ORGANISATIONS[organisation]
        expected = {name: expected.get(name, Decimal()) + amount for name, amount in own.items()}
    with account_transaction(world.account) as session:
        (balance,) = balances.list_for_record(session, world.account, RecordType.COMPANY, company)
        (total,) = receivables.list_totals(session, world.account)
    assert buckets_of(balance) == buckets_of(total) == expected
    assert total.oldest_days == 4_000
    world.check()


def test_one_date_is_in_another_bucket_where_it_is_another_day(unconnected: World) -> None:
    world = unconnected.open(time_zones=("LINEISLANDSSTANDARDTIME", "UTC11"))
    due = world.today(0) - timedelta(days=31)
    for organisation in range(2):
        person = world.person(f"p{organisation}@acme.test")
        world.invoice(f"p{organisation}@acme.test", "1.00", organisation, due=due.isoformat())
        world.settle()
        with account_transaction(world.account) as session:
            (balance,) = balances.list_for_record(session, world.account, RecordType.PERSON, person)
        assert buckets_of(balance) == {bucket_of(due, world.today(organisation)): Decimal(1)}
    assert bucket_of(due, world.today(0)) != bucket_of(due, world.today(1))


def test_an_invoice_without_a_due_date_is_not_due(world: World) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", "10.00", due="2020-01-31")
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE xero_invoice SET due_date = NULL"))
        session.execute(
            text(
                "INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)"
                " SELECT account_id, 'invoice', organisation_id, invoice_id FROM xero_invoice"
            )
        )
    projector.project(world.account)
    with account_transaction(world.account) as session:
        (balance,) = balances.list_for_record(session, world.account, RecordType.PERSON, person)
        (total,) = receivables.list_totals(session, world.account)
    assert buckets_of(balance) == buckets_of(total) == {"not_due": Decimal(10)}
    assert total.oldest_days == 0
    assert invoice.number in world.invoice_numbers("people", person)


def test_payments_and_a_new_day_move_amounts_between_buckets(world: World) -> None:
    person, today = world.person("ann@acme.test"), world.today()
    invoice = world.invoice("ann@acme.test", "100.00", due=(today - timedelta(days=31)).isoformat())
    world.invoice("ann@acme.test", "7.00", due=(today - timedelta(days=61)).isoformat())
    world.settle()

    def ageing() -> dict[str, Decimal]:
        with account_transaction(world.account) as session:
            (balance,) = balances.list_for_record(session, world.account, RecordType.PERSON, person)
        assert balance.overdue == sum(getattr(balance, column) for column in AGEING_COLUMNS)
        return buckets_of(balance)

    assert ageing() == {"overdue_31_to_60": 100, "overdue_61_to_90": 7}
    world.sandbox.simulate("pay_invoice", invoice=invoice.id, amount="40.00")
    world.settle()
    assert ageing() == {"overdue_31_to_60": 60, "overdue_61_to_90": 7}
    with transaction() as session:
        session.execute(text("UPDATE xero_organisation SET balances_as_of = balances_as_of - 1"))
        session.execute(
            text("""UPDATE record_balance SET overdue_1_to_30 = 60, overdue_31_to_60 = 7, overdue_61_to_90 = 0""")
        )
        assert projection.compare(session, world.account).is_clean, "as of yesterday, they were right"
    projector.project(world.account)
    assert ageing() == {"overdue_31_to_60": 60, "overdue_61_to_90": 7}
    assert world.compare().is_clean


def test_a_wrong_bucket_is_detected_and_repaired(world: World) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test", due="2020-01-31")
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE record_balance SET overdue_1_to_30 = overdue_over_90, overdue_over_90 = 0"))
    assert world.compare().balances == 1
    world.reconcile()
    assert world.compare().is_clean


# Payments


def pay(world: World, email: str, issued: date | None, days: int, **values: Any) -> str:
    """An invoice that was paid some days after it was issued; returns its number."""
    invoice = world.invoice(email, "10.00", **values)
    world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    world.settle()
    with transaction() as session:
        session.execute(
            text("UPDATE record_invoice SET issue_date = :issued, paid_on = :paid_on WHERE invoice_id = :id"),
            {"issued": issued, "paid_on": (issued or world.today()) + timedelta(days=days), "id": invoice.id},
        )
    return invoice.number


def history_of(world: World, person: int) -> balances.PaymentHistory | None:
    with account_transaction(world.account) as session:
        return balances.payment_history(session, world.account, RecordType.PERSON, person)


def test_a_record_pays_on_average_of_its_paid_invoices(world: World) -> None:
    person, day = world.person("ann@acme.test"), date(2026, 3, 1)
    world.invoice("ann@acme.test", "99.00", due="2020-01-31")
    world.settle()
    assert history_of(world, person) is None
    pay(world, "ann@acme.test", day, 10)
    last = pay(world, "ann@acme.test", day, 45, currency="GBP")
    pay(world, "ann@acme.test", day, 20)
    history = history_of(world, person)
    assert history is not None
    assert (history.average_days, history.invoices) == (25, 3)
    assert (history.number, history.total, history.currency) == (last, Decimal("10.00"), "GBP")
    assert (history.paid_on, history.today) == (day + timedelta(days=45), world.today())
    with transaction() as session:
        session.execute(text("UPDATE account SET bill_record_types = '{person}'"))
    pay(world, "ann@acme.test", day, 300, type="ACCPAY")
    assert history_of(world, person) == history, "bills are not the customer's payments"
    with transaction() as session:
        session.execute(text("UPDATE account SET hidden_statuses = '{PAID}'"))
    assert history_of(world, person) is None, "what the account hides tells nothing"


def test_payments_without_an_issue_date_or_before_it_are_no_error(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    pay(world, "ann@acme.test", None, 0)
    history = history_of(world, person)
    assert history is not None
    assert (history.average_days, history.invoices) == (None, 0)
    admin.open(f"/records/person/{person}")
    assert "Last payment" in page_text(admin)
    assert "on average" not in page_text(admin)
    pay(world, "ann@acme.test", date(2026, 3, 1), -5)
    admin.open(f"/records/person/{person}")
    assert "Pays at once on average (1 invoice) · Last payment" in page_text(admin)


def test_a_record_shows_its_ageing_only_if_something_is_overdue(world: World, admin: AdminBrowser) -> None:
    person, today = world.person("ann@acme.test"), world.today()
    world.invoice("ann@acme.test", "5.00", due=(today + timedelta(days=5)).isoformat())
    world.invoice("ann@acme.test", "9.00", type="ACCPAY", due=(today - timedelta(days=5)).isoformat())
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE account SET bill_record_types = '{person}'"))
    assert "<svg" not in admin.open(f"/records/person/{person}").text
    world.invoice("ann@acme.test", "15.00", due=(today - timedelta(days=40)).isoformat())
    world.settle()
    page = admin.open(f"/records/person/{person}").text
    dash = "\N{EN DASH}"
    assert f'aria-label="By age: NZD 5.00 not due, NZD 15.00 31{dash}60 days overdue"' in page
    assert 'class="overdue_31_to_60" x="25.00" y="0" width="75.00"' in page
    assert page.count("<svg") == 1


# Totals


def test_the_accounts_totals_count_each_invoice_once(world: World) -> None:
    company = world.company()
    for email in ("ann@acme.test", "bob@acme.test"):
        person = world.person(email, company=company)
        world.opportunity(company=company, person=person)
    contact = world.contact("Acme", "ann@acme.test", people=["bob@acme.test"])
    world.invoice(contact, "100.00", due="2020-01-31")
    world.invoice(contact, "7.00", due="2999-01-31", currency="GBP")
    world.invoice(world.contact("Stray"), "5.00", due="2999-01-31")
    world.invoice(contact, "1.00", status="DRAFT")
    world.invoice(contact, "3.00", type="ACCPAY")
    world.settle()
    with account_transaction(world.account) as session:
        totals = receivables.list_totals(session, world.account)
    assert [(total.currency, total.open, total.overdue, total.invoices) for total in totals] == [
        ("NZD", Decimal("105.00"), Decimal("100.00"), 2),
        ("GBP", Decimal("7.00"), 0, 1),
    ]
    assert totals[0].oldest_days == (world.today() - date(2020, 1, 31)).days


def test_totals_leave_out_deleted_invoices_and_removed_organisations(world: World) -> None:
    world.invoice(world.contact("Stray"), "5.00")
    world.settle()
    with transaction() as session:
        session.execute(text("UPDATE xero_organisation SET status = 'removed'"))
    with account_transaction(world.account) as session:
        assert receivables.list_totals(session, world.account) == []
    with transaction() as session:
        session.execute(text("UPDATE xero_organisation SET status = 'active'"))
        session.execute(text("UPDATE xero_invoice SET is_deleted = true"))
    with account_transaction(world.account) as session:
        assert receivables.list_totals(session, world.account) == []


# Ranking

AMOUNTS = st.sampled_from([Decimal(0), Decimal(1), Decimal("1.10"), Decimal("7.00")])
ROWS = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from(["NZD", "GBP", "", "JPY"]), st.tuples(*[AMOUNTS] * 5)),
    unique_by=lambda row: row[:2],
    max_size=20,
)


@pytest.fixture
def account(database: str) -> int:
    with transaction() as session:
        account_id: int = session.execute(
            text("INSERT INTO account (copper_account_id, name) VALUES (7, 'Acme') RETURNING id")
        ).scalar_one()
    return account_id


def store_balances(account_id: int, rows: Sequence[tuple[int, str, tuple[Decimal, ...]]]) -> None:
    with transaction() as session:
        session.execute(text("DELETE FROM record_balance"))
        for record_id, currency, amounts in rows:
            params = dict(zip(BUCKETS, amounts, strict=True))
            session.execute(
                text(
                    "INSERT INTO record_balance (account_id, record_type, record_id, type, currency, open, overdue,"
                    " overdue_1_to_30, overdue_31_to_60, overdue_61_to_90, overdue_over_90, invoices, overdue_invoices)"
                    " VALUES (:account, 'company', :record, 'ACCREC', :currency, :open, :overdue, :overdue_1_to_30,"
                    " :overdue_31_to_60, :overdue_61_to_90, :overdue_over_90, 1, 1)"
                ),
                {
                    "account": account_id,
                    "record": record_id,
                    "currency": currency,
                    "open": sum(amounts),
                    "overdue": sum(amounts[1:]),
                    **params,
                },
            )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=ROWS,
    sort=st.sampled_from(list(SORT_COLUMNS)),
    currency=st.sampled_from([None, "NZD", ""]),
    limit=st.integers(1, 4),
)
def test_pages_have_every_row_once_in_order_whatever_is_equal(
    account: int, rows: list[Any], sort: Sort, currency: str | None, limit: int
) -> None:
    store_balances(account, rows)
    query, after = ReceivablesQuery(RecordType.COMPANY, sort, currency), None
    seen: list[tuple[Decimal, int, str]] = []
    while True:
        with account_transaction(account) as session:
            currencies = receivables.list_currencies(session, account, RecordType.COMPANY)
            page = receivables.read_page(session, account, query, currencies=currencies, after=after, limit=limit)
        seen += [(receivables.sort_amount(row, sort), row.record_id, row.currency) for row in page.receivables]
        if page.next is None:
            break
        after = cursors.decode_ranking(cursors.encode_ranking(page.next))
    expected = {(record_id, code) for record_id, code, _ in rows if currency in {None, code}}
    assert {(record_id, code) for _, record_id, code in seen} == expected
    assert len(seen) == len(expected)
    assert seen == sorted(seen, reverse=True)


def test_a_cursor_that_nobody_made_is_refused(world: World) -> None:
    cursor = cursors.encode_ranking(RankingCursor(Decimal(1), 1, "NZD"))
    assert get(world, "people", after=cursor).status_code == 200
    forged = ("nonsense", cursor[:-1], cursor + "AAAA", cursors.encode_ranking(RankingCursor(Decimal(1), 1, "N\0D")))
    for after in (*forged, cursors.encode_ranking(RankingCursor(Decimal(1), 1, "A" * 11)), "é", "=" * 500):
        assert get(world, "people", after=after).status_code == 400, after


def test_records_are_ranked_by_any_amount_in_one_currency_or_all(world: World) -> None:
    today, people = world.today(), [world.person(f"p{number}@acme.test") for number in range(3)]
    for number, (days, amount) in enumerate([(95, "10.00"), (5, "20.00"), (-5, "30.00")]):
        world.invoice(f"p{number}@acme.test", amount, due=(today - timedelta(days=days)).isoformat())
    world.invoice("p0@acme.test", "15.00", currency="GBP", due=(today - timedelta(days=40)).isoformat())
    world.settle()

    def ranked(**query: Any) -> list[tuple[int, str]]:
        response = get(world, "people", **query)
        assert response.status_code == 200, response.text
        return [(people.index(row["record"]["id"]), row["currency"]) for row in response.json()["records"]]

    assert ranked(sort="outstanding") == [(2, "NZD"), (1, "NZD"), (0, "GBP"), (0, "NZD")]
    assert ranked(sort="outstanding", currency="NZD") == [(2, "NZD"), (1, "NZD"), (0, "NZD")]
    assert ranked(sort="not_due")[0] == (2, "NZD")
    assert ranked(sort="overdue_1_to_30")[0] == (1, "NZD")
    assert ranked(sort="overdue_31_to_60")[0] == (0, "GBP")
    assert ranked(sort="overdue_over_90")[0] == (0, "NZD")
    assert ranked(currency="USD") == []
    row = get(world, "people", sort="overdue_over_90").json()["records"][0]
    assert [row[name] for name in ("outstanding", *BUCKETS)] == ["10.00", "0.00", "0.00", "0.00", "0.00", "10.00"]
    for wrong in ({"sort": "open"}, {"currency": "NZDX"}, {"owner": "0"}, {"owner": "me"}, {"search": "x" * 101}):
        assert get(world, "people", **wrong).status_code == 400, wrong


def test_records_are_filtered_by_a_part_of_their_name(world: World) -> None:
    for number, name in enumerate(("Ann O'Neil", "Bob 100% Ltd", "Café_Zürich")):
        person = world.person(f"p{number}@acme.test")
        world.simulate_copper("update_record", type="person", id=person, name=name)
        world.invoice(f"p{number}@acme.test")
    world.settle()

    def names(search: str) -> list[str]:
        return sorted(row["name"] for row in get(world, "people", search=search).json()["records"])

    assert names("o'neil") == ["Ann O'Neil"]
    assert names("CAFÉ_Z") == ["Café_Zürich"]
    assert names("0%") == ["Bob 100% Ltd"]
    assert names("%") == ["Bob 100% Ltd"], "signs of patterns mean nothing"
    assert names("nobody") == []
    assert len(names(" ")) == 3
    assert get(world, "people", search="a\0b").status_code in {200, 400}


# Owners


def assign(world: World, record_type: str, record_id: int, user: int | None) -> None:
    world.simulate_copper("set_field", type=record_type, id=record_id, field="assignee_id", value=user)


def test_owners_come_from_copper_with_their_names(world: World) -> None:
    user = world.simulate_copper("add_user", name="Una User")["user"]
    people = [world.person(f"p{number}@acme.test") for number in range(3)]
    for number in range(3):
        world.invoice(f"p{number}@acme.test")
    assign(world, "person", people[0], user)
    assign(world, "person", people[1], 987_654)
    world.settle()
    assert owners_of(world) == {people[0]: f"User {user}", people[1]: "User 987654", people[2]: None}
    forget_users_fetch()
    world.catch_up()
    assert owners_of(world) == {people[0]: "Una User", people[1]: "User 987654", people[2]: None}
    owned = get(world, "people", owner=user).json()["records"]
    assert [row["record"]["id"] for row in owned] == [people[0]]
    assert get(world, "people", owner=1).json()["records"] == []
    assign(world, "person", people[0], None)
    world.settle()
    assert owners_of(world)[people[0]] is None
    world.check()


def owners_of(world: World) -> dict[int, str | None]:
    rows = get(world, "people").json()["records"]
    return {row["record"]["id"]: row["owner"]["name"] if row["owner"] else None for row in rows}


def forget_users_fetch() -> None:
    with transaction() as session:
        session.execute(text("UPDATE copper_user SET fetched_at = now() - interval '61 minutes'"))


@pytest.mark.parametrize("record_type", ["lead", "person", "company", "opportunity"])
def test_every_type_of_record_has_an_owner_and_a_lost_change_counts_as_drift(world: World, record_type: str) -> None:
    record_id = getattr(world, record_type)()
    assign(world, record_type, record_id, 501)
    world.settle()
    assert assignees() == [501]
    with transaction() as session:
        session.execute(text("UPDATE copper_record SET assignee_id = 502"))
    world.advance_clock()
    drift = world.reconcile()
    assert drift[RecordType(record_type).plural]["stale"] == 1
    assert assignees() == [501]
    world.simulate_copper("delete_record", type=record_type, id=record_id)
    world.settle()
    assert assignees() == [None], "a deleted record belongs to nobody"


def assignees() -> list[int | None]:
    with transaction() as session:
        return list(session.execute(text("SELECT assignee_id FROM copper_record")).scalars())


def test_users_are_fetched_once_an_hour_and_a_failure_delays_no_records(world: World) -> None:
    calls = world.sandbox.calls("users/search")
    world.catch_up()
    world.reconcile()
    assert world.sandbox.calls("users/search") == calls, "they were fetched within the hour"
    forget_users_fetch()
    world.reconcile(dry=True)
    assert world.sandbox.calls("users/search") == calls, "a dry run writes nothing"
    world.sandbox.faults(api=[{"vendor": "copper", "type": "status", "status": 500, "path": "users/search"}])
    person = world.simulate_copper("create_record", type="person", name="Late", emails=[])["id"]
    world.catch_up()
    world.sandbox.faults()
    with transaction() as session:
        assert session.execute(
            text("SELECT count(*) FROM copper_record WHERE record_id = :id"), {"id": person}
        ).scalar_one()
    world.catch_up()
    assert world.sandbox.calls("users/search") > calls


def test_users_are_replaced_by_the_latest_fetch(world: World) -> None:
    with transaction() as session:
        now = session.execute(text("SELECT now()")).scalar_one()
        later = now + timedelta(seconds=5)
        copper_users.replace_users(session, world.account, {1: "Ann", 2: "Bob"}, later)
        copper_users.replace_users(session, world.account, {1: "Old", 3: "Older"}, now)
        assert copper_users.find_name(session, world.account, 1) == "Ann"
        copper_users.replace_users(session, world.account, {}, later)
        assert copper_users.find_name(session, world.account, 2) == "Bob", "an empty response is Copper's mistake"
        copper_users.replace_users(session, world.account, {1: ""}, later + timedelta(seconds=1))
        assert copper_users.find_name(session, world.account, 1) == "Ann"
        assert copper_users.find_name(session, world.account, 2) is None


# The page


def fill(world: World, count: int = 1) -> list[int]:
    """Companies that each owe 10.00 for 40 days and 5.00 that is not due."""
    companies, overdue = [], (world.today() - timedelta(days=40)).isoformat()
    for number in range(count):
        companies.append(world.company())
        world.person(f"p{number}@acme.test", company=companies[-1])
        world.invoice(f"p{number}@acme.test", "10.00", due=overdue)
        world.invoice(f"p{number}@acme.test", "5.00", due="2999-01-31")
    world.settle()
    return companies


def test_the_page_starts_with_the_totals_and_shows_every_bucket(world: World, admin: AdminBrowser) -> None:
    fill(world)
    world.invoice("p0@acme.test", "8.00", currency="GBP", due="2999-01-31")
    world.settle()
    admin.open("/receivables")
    page = page_text(admin)
    assert "Overdue NZD 10.00 oldest 40 days" in page
    assert "Outstanding NZD 15.00 2 invoices GBP 8.00 1 invoice" in page
    assert re.search(
        r"A company NZD unpaid 2 not due NZD 5\.00 1-30 days NZD - 31-60 days NZD 10\.00 61-90 days NZD -"
        r" over 90 days NZD - overdue NZD 10\.00 outstanding NZD 15\.00",
        page,
    )
    assert re.search(r"A company GBP unpaid 1 not due GBP 8\.00", page)
    admin.open("/receivables?currency=GBP")
    assert "Amounts in GBP" in page_text(admin)
    assert "10.00 61" not in page_text(admin)
    admin.open("/receivables?type=lead")
    assert "No leads have outstanding invoices." in page_text(admin)


def test_the_form_leads_to_an_address_without_the_name_that_was_searched(world: World, admin: AdminBrowser) -> None:
    (first, second) = fill(world, 2)
    world.simulate_copper("update_record", type="company", id=second, name="Zephyr GmbH")
    world.settle()
    admin.open("/receivables")
    form = {"type": "company", "sort": "outstanding", "currency": "*", "owner": "", "q": " zephyr "}
    page = admin.send("/receivables", form)
    assert "Zephyr GmbH" in page.text
    assert f"/records/company/{first}" not in page.text
    assert "zephyr" not in str(page.url).lower()
    assert 'value="zephyr"' in page.text
    assert 'aria-sort="descending"><a href="/receivables?sort=outstanding' in page.text
    expired = admin.open("/receivables?search=forged")
    assert "This search has expired" in expired.text
    assert admin.http.get("/export/receivables.csv?search=forged").status_code == 422


def test_a_bad_filter_is_named_at_its_field(world: World, admin: AdminBrowser) -> None:
    fill(world)
    admin.open("/receivables")
    form = {"type": "company", "sort": "overdue", "currency": "*", "owner": "", "q": "x" * 101}
    page = admin.send("/receivables", form)
    assert page.status_code == 422
    assert 'id="q-error"' in page.text
    assert "This search is too long. Shorten it." in page.text
    for name in ("type", "sort", "currency", "owner"):
        admin.open("/receivables")
        assert admin.send("/receivables", {**form, "q": "", name: "<x>"}).status_code == 422, name
    for query in ("sort=open", "owner=0", "owner=x", "currency=**", "type=task", f"after={'x' * 500}"):
        assert admin.open(f"/receivables?{query}").status_code == 422, query
    assert admin.open("/receivables?after=nonsense").status_code == 400


def test_mine_are_the_records_of_whoever_signed_in(world: World, admin: AdminBrowser) -> None:
    (mine, other) = fill(world, 2)
    own_id = world.copper * 10 + 1
    assign(world, "company", mine, own_id)
    assign(world, "company", other, 987_654)
    world.settle()
    page = admin.open("/receivables?owner=mine").text
    assert f"/records/company/{mine}" in page
    assert f"/records/company/{other}" not in page
    assert "Sam Admin" in page
    page = admin.open("/receivables?owner=987654").text
    assert f"/records/company/{other}" in page
    assert "User 987654</option>" in page
    page = admin.open("/receivables?owner=5").text
    assert "No companies with these filters have outstanding invoices." in page


def test_the_export_has_exactly_the_rows_of_the_page(world: World, admin: AdminBrowser) -> None:
    (first, second) = fill(world, 2)
    for number, name in enumerate(("=cmd()", "Plain")):
        world.simulate_copper("update_record", type="company", id=(first, second)[number], name=name)
    assign(world, "company", first, world.copper * 10 + 1)
    world.invoice("p1@acme.test", "800.00", currency="JPY", due="2999-01-31")
    world.settle()

    def rows(query: str) -> list[dict[str, str]]:
        response = admin.http.get(f"/export/receivables.csv{query}")
        assert response.status_code == 200, response.text
        return list(csv.DictReader(io.StringIO(response.text)))

    everything = rows("?sort=outstanding")
    assert [(row["record_id"], row["currency"], row["outstanding"]) for row in everything] == [
        (str(second), "JPY", "800"),
        (str(second), "NZD", "15.00"),
        (str(first), "NZD", "15.00"),
    ]
    assert everything[2]["record_name"] == "'=cmd()", "no spreadsheet takes it for a formula"
    assert everything[2]["owner"] == "Sam Admin"
    assert [everything[2][name] for name in BUCKETS] == ["5.00", "0.00", "10.00", "0.00", "0.00"]
    assert everything[2]["url"].endswith(f"/companies/{world.copper}/app#/organization/{first}")
    assert [row["record_id"] for row in rows("?owner=mine")] == [str(first)]
    assert [row["currency"] for row in rows("?currency=JPY")] == ["JPY"]
    assert rows("?type=lead") == []
    with transaction() as session:
        details = list(session.execute(text("SELECT detail FROM audit_log WHERE action = 'rows.exported'")).scalars())
    assert details == ["receivables as csv, companies"], "once an hour"


def test_receivables_are_paged_and_keep_their_filters(
    world: World, admin: AdminBrowser, monkeypatch: pytest.MonkeyPatch
) -> None:
    companies = fill(world, 5)
    monkeypatch.setattr("web.admin.receivables.ROWS_PER_PAGE", 2)
    path, seen = "/receivables?sort=outstanding&currency=NZD", []
    for _ in range(3):
        page = admin.open(path).text
        seen += re.findall(r'href="/records/company/(\d+)"', page)
        next_page = re.search(r'href="([^"]*after=[^"]*)"', page)
        path = next_page[1].replace("&amp;", "&") if next_page else ""
        assert not path or ("sort=outstanding" in path and "currency=NZD" in path)
    assert path == ""
    assert seen == [str(company) for company in reversed(companies)]
