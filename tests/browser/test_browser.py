"""The complete set-up in a real browser, without JavaScript, by keyboard and on a phone; screenshots of every page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from sqlalchemy import text

from store.accounts import api_keys, xero_organisations
from store.db.database import transaction
from store.db.enums import FieldMeasure
from tests.support import chromium, fields_in_copper
from tests.support.databases import clear_budgets
from tests.support.processes import Processes, patina
from tests.support.serving import wait_until
from tests.support.world import Sandbox, World

LOOKS: tuple[tuple[str, Literal["light", "dark"], Any], ...] = (
    ("wide-light", "light", chromium.WIDE),
    ("wide-dark", "dark", chromium.WIDE),
    ("narrow-light", "light", chromium.NARROW),
    ("narrow-dark", "dark", chromium.NARROW),
)


def picture(page: Page, folder: Path, name: str) -> None:
    """Screenshots of the page in every theme and width; on a phone nothing may overflow."""
    for look, scheme, size in LOOKS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        box = page.locator("body").bounding_box()
        assert box is not None
        assert box["width"] <= size["width"]
        page.screenshot(path=folder / f"{name}-{look}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(chromium.WIDE)


@pytest.fixture
def setting(unconnected: World, sandbox: Sandbox, processes: Processes) -> dict[str, Any]:
    """A Copper account and two Xero organisations, not connected yet, and workers."""
    clear_budgets("throttle")
    processes += [patina("worker"), patina("scheduler")]
    copper_account = sandbox.simulate("add_account", name="Acme Sales")
    tenants = [
        sandbox.simulate("add_organisation", name=f"Acme {city}", currency=currency)["tenant"]
        for city, currency in (("Auckland", "NZD"), ("London", "GBP"))
    ]
    sandbox.control("PUT", "app", json={"auto_consent": False})
    company = sandbox.simulate(
        "create_record", type="company", name="Kauri Joinery", account=copper_account["account"]
    )["id"]
    sandbox.simulate(
        "create_record",
        type="person",
        name="Ann",
        emails=["ann@kauri.test"],
        company=company,
        account=copper_account["account"],
    )
    for tenant in tenants:
        contact = sandbox.simulate("create_contact", name="Kauri Joinery", email="ann@kauri.test", tenant=tenant)[
            "contact"
        ]
        for _ in range(3):
            sandbox.simulate("create_invoice", contact=contact)
    return {**copper_account, "company": company}


def sign_in(page: Page, setting: dict[str, Any], key: str | None = None) -> None:
    """Move by keyboard: the tab order is the order of the page."""
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to main content")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Patina")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.type(setting["email"])
    page.keyboard.press("Tab")
    page.keyboard.type(key or setting["api_key"])
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")


def connect(page: Page, setting: dict[str, Any], pictures: Path) -> str:
    """Connect Copper, Xero and organisations, with every error on the way; returns the callback URL of Xero."""
    page.goto("/")
    picture(page, pictures, "connect")
    sign_in(page, setting, "a wrong key")
    expect(page.get_by_role("alert").filter(has_text="Copper didn't accept this API key")).to_be_visible()
    expect(page.get_by_label("Copper email address")).to_have_value(setting["email"])
    picture(page, pictures, "connect-refused")
    sign_in(page, setting)

    expect(page.get_by_role("heading", level=1)).to_have_text("Connect Xero")
    picture(page, pictures, "xero")
    page.get_by_role("button", name="Continue to Xero").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert").filter(has_text="You didn't grant access in Xero")).to_be_visible()
    page.get_by_role("button", name="Continue to Xero").click()
    page.get_by_role("button", name="Allow access").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("Choose organisations")
    return_url = page.url
    picture(page, pictures, "organisations")
    page.get_by_label("Acme London").uncheck()
    page.get_by_role("button", name="Continue").click()
    return return_url


def record_types(page: Page) -> Locator:
    """The choices of the settings page for the records that show invoices."""
    return page.get_by_role("group", name="Show invoices on")


def choose(page: Page, pictures: Path) -> None:
    """The settings page, and the backfill until it ends."""
    expect(page.get_by_role("heading", level=1)).to_have_text("Choose what to show")
    page.get_by_label("Invoices shown initially").fill("2")
    record_types(page).get_by_label("Leads").uncheck()
    page.get_by_role("button", name="Save and continue").click()
    page.wait_for_url("**/progress")
    expect(page.get_by_role("heading", level=1)).to_have_text("Import complete", timeout=30_000)
    picture(page, pictures, "progress")


def add_panel(page: Page, pictures: Path) -> None:
    """The last step: the panel's URL, shown once."""
    page.get_by_role("link", name="Step 4 of 4").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Add the panel to Copper")
    page.get_by_role("button", name="Create panel URL").click()
    expect(page.get_by_label("Panel URL")).to_contain_text("/panel?token=pat_")
    expect(page.get_by_role("button", name="Copy")).to_be_hidden()
    picture(page, pictures, "panel-setup")
    page.reload()
    expect(page.get_by_text("can't be shown again")).to_be_visible()
    page.get_by_role("button", name="Finish without the panel").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Status")


def make_key(page: Page, pictures: Path) -> str:
    page.get_by_role("link", name="Settings").click()
    page.get_by_role("link", name="API keys").click()
    page.get_by_label("Name").fill("The CRM")
    page.get_by_role("button", name="Create").click()
    key = page.get_by_text(re.compile("^pat_[0-9a-f]{8}_")).inner_text()
    page.goto("/keys")
    picture(page, pictures, "keys")
    return key


def test_an_admin_connects_sees_a_record_and_disconnects(
    browser: Browser, web: httpx.Client, setting: dict[str, Any], pictures: Path
) -> None:
    page = chromium.opened(browser, str(web.base_url))
    return_url = connect(page, setting, pictures)
    choose(page, pictures)
    add_panel(page, pictures)
    headers = {"Authorization": f"Bearer {make_key(page, pictures)}"}
    path = f"/v1/companies/{setting['company']}/invoices"

    def row_count() -> int:
        return len(web.get(path, headers=headers).json()["invoices"])

    wait_until(lambda: row_count() == 2, description="the first two of the record's invoices")

    page.get_by_role("link", name="Settings").click()
    expect(record_types(page).get_by_label("Leads")).not_to_be_checked()
    picture(page, pictures, "settings")
    page.get_by_role("link", name="Remove Acme Auckland").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Remove Acme Auckland?")
    picture(page, pictures, "remove-organisation")
    page.get_by_role("link", name="Audit log").click()
    picture(page, pictures, "audit-log")
    page.goto(return_url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Connect Xero")

    page.goto("/disconnect")
    picture(page, pictures, "disconnect")
    page.get_by_label("Type Acme Sales to confirm").fill("Acme Sales")
    page.get_by_role("button", name="Disconnect").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Disconnected")
    assert web.get(path, headers=headers).status_code == 401


def test_a_copper_user_who_is_not_an_admin_sees_no_admin_pages(browser: Browser, world: World, pictures: Path) -> None:
    clear_budgets("throttle")
    viewer = world.sandbox.simulate("add_user", account=world.copper, name="Vic Viewer")
    page = chromium.opened(browser, str(world.web.base_url))
    page.goto("/connect")
    page.get_by_role("button", name="Sign in with Copper").click()
    page.wait_for_url("**/oauth/authorize**")
    page.goto(f"{page.url}&login_hint={viewer['email']}")
    page.get_by_role("button", name="Allow access").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Signed in")
    picture(page, pictures, "viewer")
    response = page.goto("/settings")
    assert response is not None
    assert response.status == 403
    expect(page.get_by_text("This page is for admins")).to_be_visible()


def test_the_api_documentation_works_under_its_content_security_policy(browser: Browser, web: httpx.Client) -> None:
    page = chromium.opened(browser, str(web.base_url), scripts=True)
    complaints: list[str] = []
    page.on("console", lambda entry: complaints.append(entry.text) if entry.type == "error" else None)
    page.goto("/docs")
    expect(page.get_by_text("The invoices of a record")).to_be_visible()
    assert complaints == []


def test_the_admin_pages_are_readable_in_every_theme_and_width(browser: Browser, world: World, pictures: Path) -> None:
    clear_budgets("throttle")
    company = world.company()
    world.simulate_copper("update_record", type="company", id=company, name="Kauri Joinery")
    person = world.person("ann@kauri.test", company=company)
    world.simulate_copper("update_record", type="person", id=person, name="Ann Aroha")
    contact = world.contact("Kauri Joinery", "ann@kauri.test")
    for number in range(7):
        world.invoice(contact, f"{1_100 + number * 37}.50", due="2026-01-31" if number < 2 else "2999-01-31")
    for name, email in (("Kauri accounts", "accounts@kauri.test"), ("Kauri (typo)", "an@kauri.test")):
        world.invoice(world.contact(name, email), "480.00", due="2026-02-28")
    world.lead("lee@rimu.test")
    world.person()
    world.settle()
    for name in ("Rimu Timber", "Totara Homes", "Matai Design"):
        owing = world.company()
        world.simulate_copper("update_record", type="company", id=owing, name=name)
        world.person(f"office@{name[:4].lower()}.test", company=owing)
        world.invoice(f"office@{name[:4].lower()}.test", f"{len(name) * 131}.00", due="2026-03-31")
    world.settle()
    world.reconcile()
    spread_freshness(world)
    fields_in_copper.turn_on(world, FieldMeasure.OVERDUE, FieldMeasure.OUTSTANDING)
    fields_in_copper.write(world)
    page = chromium.opened(browser, str(world.web.base_url))
    admin = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)
    page.goto("/connect")
    sign_in(page, {"email": admin["email"], "api_key": admin["api_key"]})
    expect(page.get_by_role("heading", level=1)).to_have_text("Settings")
    invoice = world.rows("companies", company)[0]["id"]
    for path, name in (
        ("/sessions", "sessions"),
        (f"/records/company/{company}", "record"),
        (f"/records/company/{company}/invoices/{invoice}/match", "match-details"),
        (f"/records/company/{company}/match", "match"),
        ("/receivables", "receivables"),
        ("/invoices", "invoices"),
        (f"/invoices/{invoice}", "invoice"),
        ("/unmatched", "unmatched"),
        ("/settings/fields", "fields"),
        ("/status", "status"),
    ):
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        picture(page, pictures, name)
    page.goto("/records")
    page.get_by_label("Name, email address").fill("kauri")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("link", name="Kauri Joinery")).to_be_visible()
    picture(page, pictures, "records")
    page.goto(f"/records/company/{company}")
    page.get_by_role("link", name="Show all 7").click()
    expect(page.locator(".invoices tbody tr")).to_have_count(7)
    page.get_by_label("Status").select_option(label="Overdue (2)")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".invoices tbody tr")).to_have_count(2)


def test_receivables_fit_any_width_and_print_as_a_table_alone(browser: Browser, world: World) -> None:
    clear_budgets("throttle")
    for number, currency in enumerate(("NZD", "GBP", "JPY")):
        company = world.company()
        name = "Whakatane and Eastern Bay of Plenty Horticultural Supplies Limited"
        world.simulate_copper("update_record", type="company", id=company, name=name)
        world.person(f"p{number}@acme.test", company=company)
        for due in ("2020-01-31", "2999-01-31"):
            world.invoice(f"p{number}@acme.test", "98765432.00", currency=currency, due=due)
    world.settle()
    page = chromium.opened(browser, str(world.web.base_url))
    admin = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)
    page.goto("/connect")
    sign_in(page, {"email": admin["email"], "api_key": admin["api_key"]})
    expect(page.get_by_role("heading", level=1)).to_have_text("Settings")
    page.goto("/receivables")
    for width in (280, 360, 700, 1023, 1055, 1056, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        scroll_width = page.locator("html").evaluate("element => element.scrollWidth")
        assert scroll_width <= width, f"it scrolls sideways at {width} px"
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 1_000, "height": 700})
    for selector in ("nav", "form", ".pages"):
        assert not page.locator(selector).first.is_visible(), selector
    for label in ("Company", "Owner", "Not due", "61–90 days", "Over 90 days", "Overdue", "Outstanding"):  # noqa: RUF001
        expect(page.get_by_role("columnheader", name=label, exact=True)).to_be_visible()
    assert page.locator(".receivables thead").evaluate("e => getComputedStyle(e).display") == "table-header-group"
    assert page.locator("html").evaluate("element => element.scrollWidth") <= 1_000


def spread_freshness(world: World) -> None:
    """Give the account a day of events, so that the screenshot shows some."""
    with transaction() as session:
        session.execute(
            text("""
            INSERT INTO event_latency (account_id, hour, bucket, events)
            SELECT :account, date_trunc('hour', now()) - make_interval(hours => ago), bucket,
                   CASE bucket WHEN 1 THEN 60 + ago WHEN 2 THEN 200 WHEN 3 THEN 40 ELSE 1 + ago % 5 END
            FROM generate_series(1, 23) AS ago, unnest('{1,2,3,5,8}'::int[]) AS bucket
            WHERE bucket < 8 OR ago % 4 = 0"""),
            {"account": world.account},
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault_on_any_page(browser: Browser, world: World, scheme: Literal["light", "dark"]) -> None:
    clear_budgets("throttle")
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    invoice = world.invoice("ann@acme.test", due="2020-01-31")
    near = world.invoice(world.contact("Near", "an@acme.test"))
    world.lead("lee@rimu.test")
    world.settle()
    page = chromium.opened(browser, str(world.web.base_url), scripts=True)
    page.emulate_media(color_scheme=scheme)
    admin = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)
    page.goto("/connect")
    assert chromium.accessibility_faults(page) == [], page.url
    sign_in(page, {"email": admin["email"], "api_key": admin["api_key"]})
    expect(page.get_by_role("heading", level=1)).to_have_text("Settings")
    for path in (
        *(
            "/settings",
            "/status",
            "/records",
            "/sessions",
            f"/records/person/{person}",
            f"/records/company/{company}/match",
        ),
        *("/invoices", "/invoices?currency=USD", f"/invoices/{invoice.id}", f"/invoices/{near.id}"),
        *(
            "/receivables",
            "/unmatched",
            "/keys",
            "/audit",
            "/settings/columns",
            "/settings/fields",
            "/disconnect",
            "/connect/xero",
            "/progress",
        ),
        *("/setup/panel", "/settings?setup=1", "/nowhere", *asking(world)),
    ):
        page.goto(path)
        assert chromium.accessibility_faults(page) == [], page.url
    page.goto("/settings")
    page.get_by_label("Invoices shown initially").fill("17")
    for name in ("Leads", "People", "Companies", "Opportunities"):
        record_types(page).get_by_label(name).uncheck()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="Please check this field")).to_be_focused()
    expect(page.get_by_label("Invoices shown initially")).to_have_value("17")
    assert chromium.accessibility_faults(page) == [], page.url


def asking(world: World) -> tuple[str, str]:
    """The confirmation pages for removing an organisation or a key."""
    with transaction() as session:
        organisation = xero_organisations.list_connected(session, world.account)[0].id
        key = api_keys.list_active(session, world.account)[0].id
    return f"/organisations/{organisation}/remove", f"/keys/{key}/revoke"


def test_a_key_can_be_copied_with_a_button_when_scripts_are_enabled(browser: Browser, world: World) -> None:
    clear_budgets("throttle")
    page = chromium.opened(browser, str(world.web.base_url), scripts=True)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    complaints: list[str] = []
    page.on("console", lambda entry: complaints.append(entry.text) if entry.type == "error" else None)
    admin = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)
    page.goto("/connect")
    sign_in(page, {"email": admin["email"], "api_key": admin["api_key"]})
    page.get_by_role("link", name="Settings").click()
    page.get_by_role("link", name="API keys").click()
    page.get_by_label("Name").fill("The CRM")
    page.get_by_role("button", name="Create").click()
    key = page.get_by_label("API key", exact=True).inner_text()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == key
    assert complaints == []


def test_a_customer_link_is_shown_without_scripts_and_copied_with_them(
    browser: Browser, world: World, pictures: Path
) -> None:
    clear_budgets("throttle")
    person = world.person("ann@kauri.test")
    invoice = world.invoice(world.contact("Kauri Joinery", "ann@kauri.test"), currency="USD").id
    world.settle()
    admin = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)
    for scripts in (False, True):
        page = chromium.opened(browser, str(world.web.base_url), scripts=scripts)
        page.goto("/connect")
        sign_in(page, {"email": admin["email"], "api_key": admin["api_key"]})
        expect(page.get_by_role("heading", level=1)).to_have_text("Settings")
        page.goto(f"/records/person/{person}")
        expect(page.get_by_text("outstanding in all, at the invoices' own exchange rates")).to_be_visible()
        page.goto(f"/records/person/{person}/invoices/{invoice}/match")
        page.get_by_role("link", name="Link for the customer").click()
        if not scripts:
            picture(page, pictures, "customer-link-request")
            page.get_by_role("button", name="Get the link").click()
        link = page.get_by_label("Link for the customer", exact=True)
        expect(link).to_contain_text("https://in.xero.com/")
        picture(page, pictures, "customer-link")
    assert chromium.accessibility_faults(page) == [], page.url
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == link.inner_text()
