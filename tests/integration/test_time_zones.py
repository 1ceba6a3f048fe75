"""Dates and overdue balances follow each organisation's time zone, everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import orjson
import pytest
from sqlalchemy import text

from services import access, account_status, connect
from store.accounts import xero_organisations
from store.db.database import account_transaction, transaction
from store.db.enums import RecordType
from store.mirror import mirror
from store.read_model import balances, projection
from tests.integration.test_api_receivables import table
from tests.support.admin import AdminBrowser, sign_in
from tests.support.commands import patina
from tests.support.databases import clear_budgets
from tests.support.world import NEW_ZEALAND, ZONES, World
from worker.jobs import scheduler
from worker.sync import cleanup_tasks, projector
from worker.vendors.sync_types import RunKind
from worker.vendors.xero import time_zones

XERO_NAMES = (Path(__file__).parent / "xero_time_zones.txt").read_text().split()
KIRITIMATI, NIUE = "LINEISLANDSSTANDARDTIME", "UTC11"
UNITED_KINGDOM, UNITED_STATES = "GMTSTANDARDTIME", "PACIFICSTANDARDTIME"
SURFACES = (NEW_ZEALAND, UNITED_KINGDOM, UNITED_STATES, KIRITIMATI, NIUE)
NAMES = {-1: "DUE-YESTERDAY", 0: "DUE-TODAY", 1: "DUE-TOMORROW"}
AMOUNTS = {-1: "1.00", 0: "2.00", 1: "4.00"}


@pytest.fixture(autouse=True)
def nobody_tried_before(database: str) -> None:
    clear_budgets("throttle")


def owe(world: World, contact: str, organisation: int = 0) -> None:
    """Three invoices, due yesterday, today and tomorrow in the organisation's time zone."""
    today = world.today(organisation)
    for days, number in NAMES.items():
        due = (today + timedelta(days=days)).isoformat()
        world.invoice(contact, AMOUNTS[days], organisation, due=due, number=number)


def local_date(zone: str, at: datetime) -> date:
    with transaction() as session:
        value: date = session.execute(text("SELECT local_date(:zone, :at)"), {"zone": zone, "at": at}).scalar_one()
    return value


# Time zones


def test_every_time_zone_of_xero_is_known_to_postgresql_and_python(database: str) -> None:
    assert len(XERO_NAMES) == 141
    with transaction() as session:
        postgresql_names = set(session.execute(text("SELECT name FROM pg_timezone_names")).scalars())
    for name in XERO_NAMES:
        candidates = time_zones.iana_names(name)
        assert candidates, name
        for candidate in candidates:
            assert candidate in postgresql_names
            assert ZoneInfo(candidate)


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        (NEW_ZEALAND, "Pacific/Auckland"),
        (UNITED_KINGDOM, "Europe/London"),
        (UNITED_STATES, "America/Los_Angeles"),
        ("UTC+12", "Etc/GMT-12"),
        ("UTC08", "Etc/GMT+8"),
        ("INDIASTANDARDTIME", "Asia/Kolkata"),
        ("KAMCHATKASTANDARDTIME", "Asia/Kamchatka"),
        ("MIDATLANTICSTANDARDTIME", "Atlantic/South_Georgia"),
        ("New Zealand Standard Time", "Pacific/Auckland"),
    ],
)
def test_xero_time_zones_are_mapped_to_iana_names(name: str, zone: str) -> None:
    assert time_zones.iana_names(name)[0] == zone


@pytest.mark.parametrize(
    ("at", "new_zealand", "united_kingdom", "united_states"),
    [
        ("2026-11-26T10:30:00+00:00", "2026-11-26", "2026-11-26", "2026-11-26"),
        ("2026-11-26T11:30:00+00:00", "2026-11-27", "2026-11-26", "2026-11-26"),
        ("2026-11-26T03:30:00+00:00", "2026-11-26", "2026-11-26", "2026-11-25"),
        # Summer time: an hour more than in winter in the north, an hour less in the south.
        ("2026-06-30T23:30:00+00:00", "2026-07-01", "2026-07-01", "2026-06-30"),
        ("2026-06-30T11:30:00+00:00", "2026-06-30", "2026-06-30", "2026-06-30"),
        # The hour before and after each change of the clocks.
        ("2026-03-29T00:59:59+00:00", "2026-03-29", "2026-03-29", "2026-03-28"),
        ("2026-03-29T23:00:00+00:00", "2026-03-30", "2026-03-30", "2026-03-29"),
        ("2026-11-01T06:59:59+00:00", "2026-11-01", "2026-11-01", "2026-10-31"),
        ("2026-11-01T07:00:00+00:00", "2026-11-01", "2026-11-01", "2026-11-01"),
        ("2026-04-04T11:00:00+00:00", "2026-04-05", "2026-04-04", "2026-04-04"),
    ],
)
def test_one_instant_can_be_on_three_dates(
    database: str, at: str, new_zealand: str, united_kingdom: str, united_states: str
) -> None:
    moment = datetime.fromisoformat(at)
    days = [local_date(ZONES[zone], moment).isoformat() for zone in SURFACES[:3]]
    assert days == [new_zealand, united_kingdom, united_states]


@pytest.mark.parametrize("zone", sorted(ZONES.values()))
def test_postgresql_and_python_agree_on_every_date_of_a_year(database: str, zone: str) -> None:
    half_hours = text("""
        SELECT at, local_date(:zone, at)
        FROM generate_series(timestamptz '2026-01-01 00:00Z', '2027-01-01 00:00Z', '30 minutes') AS at
    """)
    with transaction() as session:
        rows = session.execute(half_hours, {"zone": zone}).all()
    assert len(rows) == 365 * 48 + 1
    assert [row[1] for row in rows] == [row[0].astimezone(ZoneInfo(zone)).date() for row in rows]


@pytest.mark.parametrize(
    ("status", "balance", "due", "days"),
    [
        ("AUTHORISED", "1.00", "2026-11-25", 1),
        ("AUTHORISED", "1.00", "2026-11-26", 0),
        ("AUTHORISED", "1.00", "2026-11-27", 0),
        ("AUTHORISED", "1.00", "2025-11-26", 365),
        ("AUTHORISED", "1.00", None, 0),
        ("AUTHORISED", "0.00", "2026-11-25", 0),
        ("AUTHORISED", "-1.00", "2026-11-25", 0),
        ("DRAFT", "1.00", "2026-11-25", 0),
        ("SUBMITTED", "1.00", "2026-11-25", 0),
        ("PAID", "0.00", "2026-11-25", 0),
        ("VOIDED", "0.00", "2026-11-25", 0),
    ],
)
def test_approved_invoices_with_a_balance_are_overdue_after_their_due_date(
    database: str, status: str, balance: str, due: str | None, days: int
) -> None:
    statement = text("SELECT overdue_days(:status, CAST(:balance AS numeric), CAST(:due AS date), '2026-11-26')")
    with transaction() as session:
        params = {"status": status, "balance": Decimal(balance), "due": due}
        assert session.execute(statement, params).scalar_one() == days


# Each place where users and clients see overdue invoices or their totals.


def api(world: World, person: int) -> dict[str, int]:
    return {row["number"]: row["overdue_days"] for row in world.rows("people", person)}


def csv_file(world: World, person: int) -> dict[str, int]:
    response = world.web.get(f"/v1/people/{person}/invoices.csv", headers=keyed(world))
    return {row["number"]: int(row["overdue_days"]) for row in table(response)}


def json_lines_file(world: World, person: int) -> dict[str, int]:
    response = world.web.get(f"/v1/people/{person}/invoices.jsonl", headers=keyed(world))
    return {row["number"]: row["overdue_days"] for row in map(orjson.loads, response.text.splitlines())}


def keyed(world: World, *scopes: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {access.create_key(world.account, 'test', scopes or ('read',))}"}


BY_INVOICE = {"API": api, "CSV": csv_file, "JSON Lines": json_lines_file}


def numbers(response: httpx.Response) -> list[str]:
    return sorted(set(re.findall("|".join(NAMES.values()), response.text)))


def panel(world: World, person: int) -> list[str]:
    headers = keyed(world, "panel")
    everything = world.web.get(f"/panel/records/person/{person}", headers=headers)
    assert "Overdue (1)" in everything.text
    assert everything.text.count("1 day overdue") == 1
    return numbers(world.web.get(f"/panel/records/person/{person}", headers=headers, params={"status": "OVERDUE"}))


def record_page(world: World, person: int) -> list[str]:
    return numbers(sign_in(world).open(f"/records/person/{person}?status=OVERDUE"))


def account_balances(world: World, person: int) -> list[str]:
    with account_transaction(world.account) as session:
        rows = balances.list_for_record(session, world.account, RecordType.PERSON, person)
    return [f"{row.overdue:.2f} of {row.open:.2f}, {row.overdue_invoices} of {row.invoices}" for row in rows]


def receivables(world: World, person: int) -> list[str]:
    response = world.web.get("/v1/people", headers=keyed(world), params={"sort": "overdue"})
    records = [record for record in response.json()["records"] if record["record"]["id"] == person]
    return [
        f"{record['overdue']} of {record['outstanding']}, {record['overdue_invoices']} of {record['invoices']}"
        for record in records
    ]


def receivables_page(world: World, person: int) -> list[str]:
    page = sign_in(world).open("/receivables?type=person&sort=overdue").text
    row = re.search(rf"/records/person/{person}\".*?</tr>", page, re.DOTALL)
    assert row
    overdue, owed = (re.search(rf"{label} NZD </span>([\d.]+)", row[0]) for label in ("overdue", "outstanding"))
    assert overdue
    assert owed
    return [f"{overdue[1]} of {owed[1]}, 1 of 3"]


BY_SUM = {"balances": account_balances, "receivables": receivables, "receivables page": receivables_page}


@pytest.fixture(params=SURFACES)
def debtor(request: pytest.FixtureRequest, unconnected: World) -> tuple[World, int]:
    """A person with three invoices of an organisation in some time zone."""
    world = unconnected.open(time_zones=[request.param])
    person = world.person("ann@acme.test")
    owe(world, "ann@acme.test")
    world.settle()
    return world, person


@pytest.mark.parametrize("surface", BY_INVOICE.values(), ids=BY_INVOICE.keys())
def test_an_invoice_due_today_is_not_overdue_and_one_due_yesterday_is(
    debtor: tuple[World, int], surface: Callable[[World, int], dict[str, int]]
) -> None:
    assert surface(*debtor) == {"DUE-YESTERDAY": 1, "DUE-TODAY": 0, "DUE-TOMORROW": 0}


@pytest.mark.parametrize("surface", [panel, record_page])
def test_the_overdue_filter_excludes_invoices_due_today(
    debtor: tuple[World, int], surface: Callable[[World, int], list[str]]
) -> None:
    assert surface(*debtor) == ["DUE-YESTERDAY"]


@pytest.mark.parametrize("surface", BY_SUM.values(), ids=BY_SUM.keys())
def test_overdue_totals_exclude_invoices_due_today(
    debtor: tuple[World, int], surface: Callable[[World, int], list[str]]
) -> None:
    assert surface(*debtor) == ["1.00 of 7.00, 1 of 3"]


def test_unmatched_invoices_due_today_are_not_overdue(debtor: tuple[World, int]) -> None:
    world, _ = debtor
    owe(world, world.contact("Stray", "stray@else.test"))
    world.settle()

    (stray,) = table(world.web.get("/v1/unmatched.csv", headers=keyed(world, "admin")))
    assert (stray["name"], stray["open"], stray["overdue"]) == ("Stray", "7.00", "1.00")
    page = sign_in(world).open("/unmatched").text
    assert re.search(r"overdue (NZD )?1\.00|NZD 1\.00 overdue", re.sub(r"\s+", " ", page))


def test_organisations_in_all_time_zones_use_their_own_date(unconnected: World) -> None:
    """One account with five organisations: the dates in Kiritimati and Niue are never the same."""
    world = unconnected.open(time_zones=SURFACES)
    company = world.company()
    people = [world.person(f"ann@{zone}.test".lower(), company=company) for zone in SURFACES]
    for number, zone in enumerate(SURFACES):
        owe(world, f"ann@{zone}.test".lower(), number)
    world.settle()

    assert world.today(3) > world.today(4)
    for person in people:
        for surface in BY_INVOICE.values():
            assert surface(world, person) == {"DUE-YESTERDAY": 1, "DUE-TODAY": 0, "DUE-TOMORROW": 0}
        assert panel(world, person) == record_page(world, person) == ["DUE-YESTERDAY"]
        for by_sum in BY_SUM.values():
            assert by_sum(world, person) == ["1.00 of 7.00, 1 of 3"]
    with account_transaction(world.account) as session:
        (sums,) = balances.list_for_record(session, world.account, RecordType.COMPANY, company)
    assert (f"{sums.overdue} of {sums.open}", sums.overdue_invoices, sums.invoices) == ("5.00 of 35.00", 5, 15)
    world.check()


# Midnight


def days_of(world: World) -> list[date]:
    with transaction() as session:
        return list(
            session.execute(
                text("SELECT balances_as_of FROM xero_organisation WHERE account_id = :account ORDER BY id"),
                {"account": world.account},
            ).scalars()
        )


def test_balances_change_at_an_organisations_own_midnight_without_any_event(unconnected: World) -> None:
    world = unconnected.open(time_zones=[KIRITIMATI, NIUE])
    people = [world.person("ann@kiribati.test"), world.person("ben@niue.test")]
    owe(world, "ann@kiribati.test", 0)
    owe(world, "ben@niue.test", 1)
    world.settle()
    with transaction() as session:
        # The state before midnight in Niue, with nothing due since.
        session.execute(
            text("UPDATE xero_organisation SET balances_as_of = balances_as_of - 1 WHERE time_zone = 'Etc/GMT+11'")
        )
        session.execute(
            text(
                "UPDATE record_balance SET overdue = 0, overdue_1_to_30 = 0, overdue_invoices = 0 WHERE record_id = :id"
            ),
            {"id": people[1]},
        )
        assert world.account in projection.accounts_pending(session), "the sweep finds it"
        comparison = projection.compare(session, world.account)
        assert (comparison.is_clean, comparison.marks) == (True, 1), "as of that day, they were right"

    assert scheduler.sweep() >= 1
    projector.project(world.account)

    assert days_of(world) == [world.today(0), world.today(1)]
    assert [account_balances(world, person) for person in people] == [["1.00 of 7.00, 1 of 3"]] * 2
    with transaction() as session:
        assert world.account not in projection.accounts_pending(session)
    assert world.compare().is_clean


def test_balances_follow_an_organisation_into_a_time_zone_where_it_is_yesterday(unconnected: World) -> None:
    world = unconnected.open(time_zones=[KIRITIMATI])
    person = world.person("ann@acme.test")
    owe(world, "ann@acme.test")
    world.settle()
    assert account_balances(world, person) == ["1.00 of 7.00, 1 of 3"]
    today = world.today()

    move(world, NIUE)
    assert world.today() < today
    assert (api(world, person)["DUE-YESTERDAY"], account_balances(world, person)) == (0, ["0.00 of 7.00, 0 of 3"])
    assert world.compare().is_clean

    move(world, KIRITIMATI)
    assert (api(world, person)["DUE-YESTERDAY"], account_balances(world, person)) == (1, ["1.00 of 7.00, 1 of 3"])
    assert world.compare().is_clean


def move(world: World, zone: str) -> None:
    """An admin changes the time zone in Xero; the nightly reconciliation reads it."""
    world.sandbox.simulate("rename_organisation", tenant=world.tenants[0], name="Acme Sales Ltd 1", timezone=zone)
    world.time_zones[0] = zone
    world.reconcile()
    world.settle()


def test_a_projection_delayed_past_midnight_does_not_turn_the_date_back(world: World) -> None:
    with transaction() as session:
        session.execute(text("SELECT now()"))
        with transaction() as other:
            other.execute(text("UPDATE xero_organisation SET time_zone = 'Pacific/Kiritimati'"))
        projection.project_batch(session, world.account)
        day = session.execute(text("SELECT balances_as_of FROM xero_organisation")).scalar_one()
    assert day == datetime.now(ZoneInfo("Pacific/Kiritimati")).date()


# The source of the time zone


def zones_of(world: World) -> tuple[list[tuple[str | None, str]], dict[str, str]]:
    """Each organisation's time zone by Xero's name and ours, and the account's copy."""
    with transaction() as session:
        organisations = xero_organisations.list_connected(session, world.account)
        copied: Any = session.execute(text("SELECT time_zones FROM account")).scalar_one()
    return [(organisation.xero_time_zone, organisation.time_zone) for organisation in organisations], copied


def test_a_new_organisation_has_its_zone_before_its_first_invoice(unconnected: World) -> None:
    world = unconnected.open(time_zones=[NEW_ZEALAND, UNITED_STATES])
    zones, copied = zones_of(world)
    assert zones == [(NEW_ZEALAND, "Pacific/Auckland"), (UNITED_STATES, "America/Los_Angeles")]
    assert sorted(copied.values()) == ["America/Los_Angeles", "Pacific/Auckland"]


def test_a_missing_time_zone_is_fetched_by_one_catch_up(world: World) -> None:
    with transaction() as session:
        session.execute(text("UPDATE xero_organisation SET xero_time_zone = NULL, time_zone = 'UTC'"))
        session.execute(text("UPDATE account SET time_zones = '{}'"))
    calls_before = world.sandbox.calls("Organisation")
    world.catch_up()
    assert zones_of(world)[0] == [(NEW_ZEALAND, "Pacific/Auckland")]
    assert list(zones_of(world)[1].values()) == ["Pacific/Auckland"]
    world.catch_up()
    assert world.sandbox.calls("Organisation") == calls_before + 1, "it is asked for once; reconciliation refreshes it"


def test_an_unknown_time_zone_falls_back_to_utc_and_is_reported(unconnected: World) -> None:
    world = unconnected.open(time_zones=[NEW_ZEALAND])
    move_to_unknown(world)
    assert zones_of(world) == ([("MARSSTANDARDTIME", "UTC")], {str(organisation_id(world)): "UTC"})
    (account,) = account_status.list_all()
    assert [source.unknown_time_zone for source in account.sources if source.organisation_id] == ["MARSSTANDARDTIME"]
    page = sign_in(world).open("/status").text
    assert "MARSSTANDARDTIME" in page
    assert "UTC" in page


def test_a_missing_or_malformed_time_zone_is_not_overwritten(unconnected: World) -> None:
    world = unconnected.open(time_zones=[NEW_ZEALAND])
    world.sandbox.simulate("rename_organisation", tenant=world.tenants[0], name="Acme", timezone="\u0000\n")
    world.reconcile()
    assert zones_of(world)[0] == [(NEW_ZEALAND, "Pacific/Auckland")]


def move_to_unknown(world: World) -> None:
    world.sandbox.simulate("rename_organisation", tenant=world.tenants[0], name="Acme", timezone="MARSSTANDARDTIME")
    world.run(RunKind.RECONCILIATION)


def organisation_id(world: World) -> int:
    with transaction() as session:
        return xero_organisations.list_connected(session, world.account)[0].id


@pytest.mark.parametrize("names", [[], ["No/Where"], ["No/Where", "Also/Not"], ["'; SELECT 1"]])
def test_a_time_zone_unknown_to_postgresql_is_never_stored(world: World, names: list[str]) -> None:
    save(world, names)
    assert zones_of(world)[0] == [("SOMEWHERE", "UTC")]
    assert world.read("people", 1).status_code == 200


def test_the_first_time_zone_name_known_to_postgresql_is_stored(world: World) -> None:
    save(world, ["No/Where", "Asia/Kolkata", "Asia/Calcutta"])
    assert zones_of(world)[0] == [("SOMEWHERE", "Asia/Kolkata")]


def save(world: World, names: list[str], organisation: int | None = None, session: Any = None) -> None:
    details = {"name": "Acme", "short_code": "!A", "base_currency": "NZD", "xero_time_zone": "SOMEWHERE"}
    organisation_id_ = organisation or organisation_id(world)
    if session is not None:
        mirror.save_organisation_details(session, world.account, organisation_id_, **details, time_zones=names)
        return
    with transaction() as opened:
        mirror.save_organisation_details(opened, world.account, organisation_id_, **details, time_zones=names)


def test_a_removed_organisation_leaves_no_time_zone_behind(unconnected: World) -> None:
    world = unconnected.open(time_zones=[NEW_ZEALAND, UNITED_STATES])
    connect.remove_organisation(world.account, organisation_id(world), actor="test")
    while cleanup_tasks.run_due():
        pass
    assert list(zones_of(world)[1].values()) == ["America/Los_Angeles"]


# Display of times


def test_every_time_on_a_page_has_its_time_zone(world: World, web: httpx.Client) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    browser: AdminBrowser = sign_in(world)
    for path in ("/status", "/settings", "/keys", "/audit", "/progress"):
        page = browser.open(path).text
        for machine in re.findall(r'<time datetime="([^"]*)"', page):
            assert datetime.fromisoformat(machine).tzinfo is not None
        # The chart's caption names the time zone of its hours.
        visible = re.sub(r'datetime="[^"]*"|<svg.*?</svg>', "", page, flags=re.DOTALL)
        clock = re.findall(r"\d{1,2}:\d{2}(?::\d{2})?[^<\"]{0,12}", visible)
        assert all("UTC" in time_text for time_text in clock), (path, clock)
        assert ("<svg" in page) <= (", UTC" in page or "(UTC)" in page)
    assert "<time datetime=" in browser.open("/audit").text


def test_the_command_line_shows_utc_and_its_json_is_iso_8601(world: World) -> None:
    with transaction() as session:
        session.execute(text("UPDATE api_key SET last_used_at = '2026-11-26 10:20:30+00'"))
    assert "last used 2026-11-26 10:20 UTC" in patina("keys", "list").stdout
    (key,) = orjson.loads(patina("keys", "list", "--json").stdout)
    assert key["last_used_at"] == "2026-11-26T10:20:30+00:00"
    payload = orjson.loads(patina("status", "--json").stdout)
    (organisation,) = [source for source in payload["accounts"][0]["sources"] if source["organisation_id"]]
    assert organisation["time_zone"] == "Pacific/Auckland"
    assert datetime.fromisoformat(organisation["synced_through"]).isoformat() == organisation["synced_through"]
