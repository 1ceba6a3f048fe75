"""The whole set-up in a real browser, without JavaScript, by keyboard and on a phone; and pictures of every page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests import chromium
from tests.conftest import Processes, patina
from tests.databases import forget_budgets
from tests.serving import wait_until
from tests.world import Sandbox, World

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
LOOKS: tuple[tuple[str, Literal["light", "dark"], Any], ...] = (
    ("wide-light", "light", chromium.WIDE),
    ("wide-dark", "dark", chromium.WIDE),
    ("narrow-light", "light", chromium.NARROW),
    ("narrow-dark", "dark", chromium.NARROW),
)


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium.launched() as found:
        yield found


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures go: into the documentation with PATINA_PICTURES=1 (`make pictures`), else away."""
    return IMAGES if os.environ.get("PATINA_PICTURES") else tmp_path


def picture(page: Page, folder: Path, name: str) -> None:
    """The page in all its looks; on a phone nothing may stick out."""
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
    """A Copper account and two Xero organisations that nobody has connected yet, and workers."""
    forget_budgets("throttle")
    processes += [patina("worker"), patina("scheduler")]
    made = sandbox.act("add_account", name="Acme Sales")
    tenants = [
        sandbox.act("add_organisation", name=f"Acme {place}", currency=currency)["tenant"]
        for place, currency in (("Auckland", "NZD"), ("London", "GBP"))
    ]
    sandbox.control("PUT", "app", json={"auto_consent": False})
    company = sandbox.act("make_record", type="company", name="Kauri Joinery", account=made["account"])["id"]
    sandbox.act(
        "make_record", type="person", name="Ann", emails=["ann@kauri.test"], company=company, account=made["account"]
    )
    for tenant in tenants:
        contact = sandbox.act("make_contact", name="Kauri Joinery", email="ann@kauri.test", tenant=tenant)["contact"]
        for _ in range(3):
            sandbox.act("make_invoice", contact=contact)
    return {**made, "company": company}


def sign_in(page: Page, setting: dict[str, Any], key: str | None = None) -> None:
    """By keyboard alone: the order of the page is the order of the keyboard."""
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.type(setting["email"])
    page.keyboard.press("Tab")
    page.keyboard.type(key or setting["api_key"])
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")


def connect(page: Page, setting: dict[str, Any], pictures: Path) -> str:
    """Copper, Xero, organisations, with every refusal on the way; returns the address that Xero led back to."""
    page.goto("/")
    picture(page, pictures, "connect")
    sign_in(page, setting, "a wrong key")
    expect(page.get_by_role("alert")).to_contain_text("Copper does not know this key")
    sign_in(page, setting)

    expect(page.get_by_role("heading", level=1)).to_have_text("Connect Xero")
    picture(page, pictures, "xero")
    page.get_by_role("button", name="Continue to Xero").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("Xero gave no consent")
    page.get_by_role("button", name="Continue to Xero").click()
    page.get_by_role("button", name="Allow access").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("Choose organisations")
    back = page.url
    picture(page, pictures, "organisations")
    page.get_by_label("Acme London").uncheck()
    page.get_by_role("button", name="Show these").click()
    return back


def choose(page: Page, pictures: Path) -> None:
    """The settings, and the backfill as it ends."""
    expect(page.get_by_role("heading", level=1)).to_have_text("Choose what is shown")
    page.get_by_label("Invoices shown at first").fill("2")
    page.get_by_label("Leads").uncheck()
    page.get_by_role("button", name="Save and fetch the invoices").click()
    page.wait_for_url("**/progress")
    expect(page.get_by_role("heading", level=1)).to_have_text("Fetched", timeout=30_000)
    picture(page, pictures, "progress")


def make_key(page: Page, pictures: Path) -> str:
    page.get_by_role("link", name="API keys").click()
    page.get_by_label("Name").fill("The CRM")
    page.get_by_role("button", name="Make").click()
    key = page.get_by_text(re.compile("^pat_[0-9a-f]{8}_")).inner_text()
    page.goto("/keys")
    picture(page, pictures, "keys")
    return key


@pytest.mark.timeout(150)
def test_an_admin_sets_everything_up_sees_a_record_and_leaves_again(
    browser: Browser, web: httpx.Client, setting: dict[str, Any], pictures: Path
) -> None:
    page = chromium.opened(browser, str(web.base_url))
    back = connect(page, setting, pictures)
    choose(page, pictures)
    headers = {"Authorization": f"Bearer {make_key(page, pictures)}"}
    path = f"/v1/companies/{setting['company']}/invoices"

    def shown() -> int:
        return len(web.get(path, headers=headers).json()["invoices"])

    wait_until(lambda: shown() == 2, what="the first two of the record's invoices")

    page.get_by_role("link", name="Settings").click()
    expect(page.get_by_label("Leads")).not_to_be_checked()
    picture(page, pictures, "settings")
    page.get_by_role("link", name="Trail").click()
    picture(page, pictures, "trail")
    page.goto(back)
    expect(page.get_by_role("heading", level=1)).to_have_text("Connect Xero")

    page.goto("/disconnect")
    picture(page, pictures, "disconnect")
    page.get_by_label("Write Acme Sales to confirm").fill("Acme Sales")
    page.get_by_role("button", name="Disconnect").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Disconnected")
    assert web.get(path, headers=headers).status_code == 401


@pytest.mark.timeout(90)
def test_a_user_of_copper_who_is_no_admin_sees_no_admins_page(browser: Browser, world: World, pictures: Path) -> None:
    forget_budgets("throttle")
    viewer = world.sandbox.act("add_user", account=world.copper, name="Vic Viewer")
    page = chromium.opened(browser, str(world.web.base_url))
    page.goto("/connect")
    page.get_by_role("button", name="Sign in with Copper").click()
    page.goto(f"{page.url}&login_hint={viewer['email']}")
    page.get_by_role("button", name="Allow access").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Signed in")
    picture(page, pictures, "viewer")
    answer = page.goto("/settings")
    assert answer is not None
    assert answer.status == 403
    expect(page.get_by_text("This page is for admins")).to_be_visible()


def test_the_description_of_the_api_runs_under_its_policy(browser: Browser, web: httpx.Client) -> None:
    page = chromium.opened(browser, str(web.base_url), scripts=True)
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.goto("/docs")
    expect(page.get_by_text("The invoices of a record")).to_be_visible()
    assert complaints == []
