"""Linking unmatched contacts in a real browser: without JavaScript, and with the search field's list of records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support import chromium
from tests.support.databases import clear_budgets
from tests.support.world import World

LOOKS: tuple[tuple[str, Literal["light", "dark"], Any], ...] = (
    ("wide-light", "light", chromium.WIDE),
    ("wide-dark", "dark", chromium.WIDE),
    ("narrow-light", "light", {"width": 320, "height": 720}),
    ("tiny-dark", "dark", {"width": 280, "height": 720}),
)


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium.launched() as chromium_browser:
        yield chromium_browser


@pytest.fixture
def linkable(world: World) -> World:
    """A world with unmatched contacts, and records that they may belong to."""
    clear_budgets("throttle")
    kauri = int(world.simulate_copper("create_record", type="company", name="Kauri Joinery Ltd")["id"])
    world.simulate_copper("set_field", type="company", id=kauri, field="phones", value=["(09) 555 1234"])
    world.person("accounts@rimu.test", company=world.company("rimu.test"))
    world.simulate_copper("create_record", type="opportunity", name="New warehouse for Totara")
    phoned = world.sandbox.simulate(
        "create_contact", name="Kauri Joinery Limited", phones=["+64 9 555 1234"], tenant=world.tenants[0]
    )["contact"]
    world.invoice(str(phoned), "1234.50", due="2026-01-31")
    two = world.contact("Rimu Timber", "acounts@rimu.test")
    world.invoice(two, "800.00")
    world.invoice(two, "90.00", currency="GBP", due="2026-02-28")
    world.invoice(
        world.contact("Totara Homes with a rather long name (Wellington branch)", "totara@gmail.com"), "55.00"
    )
    world.settle()
    return world


def sign_in(browser: Browser, world: World, *, scripts: bool) -> Page:
    page = chromium.opened(browser, str(world.web.base_url), scripts=scripts)
    admin = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)
    page.goto("/connect")
    page.get_by_label("Copper email address").fill(admin["email"])
    page.get_by_label("API key").fill(admin["api_key"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Settings")
    return page


def look_at(page: Page, folder: Path, name: str) -> None:
    """Screenshots in every theme and width; nothing may overflow."""
    for look, scheme, size in LOOKS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        box = page.locator("body").bounding_box()
        assert box is not None
        assert page.locator("body").evaluate("body => body.scrollWidth") <= size["width"], (name, look)
        page.screenshot(path=folder / f"{name}-{look}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(chromium.WIDE)


def test_suggestions_are_ticked_reviewed_linked_and_undone_without_javascript(
    browser: Browser, linkable: World, tmp_path: Path
) -> None:
    page = sign_in(browser, linkable, scripts=False)
    page.goto("/unmatched")
    look_at(page, tmp_path, "unmatched")
    page.get_by_role("button", name="Link selected").click()
    expect(page.get_by_role("alert").filter(has_text="Select at least one suggestion")).to_be_visible()
    page.get_by_role("checkbox", name="Select Kauri Joinery Ltd for Kauri Joinery Limited").check()
    page.get_by_role("checkbox", name="Select A person for Rimu Timber").check()
    page.get_by_role("button", name="Link selected").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("Link 2 contacts?")
    look_at(page, tmp_path, "review")
    page.get_by_role("button", name="Link 2 contacts").click()
    expect(page.get_by_role("status").filter(has_text="2 links made")).to_be_visible()
    look_at(page, tmp_path, "linked")
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("2 links removed.")).to_be_visible()
    page.get_by_role("link", name="Find a record for Totara").click()
    page.get_by_label("Record name, email address or Copper ID").fill("warehouse")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("link", name="New warehouse for Totara")).to_be_visible()
    look_at(page, tmp_path, "contact")
    page.get_by_role("button", name="Link to New warehouse for Totara").click()
    expect(page.get_by_role("status").filter(has_text="1 link made")).to_be_visible()


def test_records_are_listed_while_typing_and_chosen_by_keyboard(
    browser: Browser, linkable: World, tmp_path: Path
) -> None:
    page = sign_in(browser, linkable, scripts=True)
    complaints: list[str] = []
    page.on("console", lambda entry: complaints.append(entry.text) if entry.type == "error" else None)
    page.goto("/unmatched")
    assert chromium.accessibility_faults(page) == [], page.url
    page.get_by_role("link", name="Find a record for Totara").click()
    field = page.get_by_role("combobox", name="Record name, email address or Copper ID")
    field.press_sequentially("ware")
    expect(page.get_by_role("option", name="New warehouse for Totara")).to_be_visible()
    assert chromium.accessibility_faults(page) == [], page.url
    look_at(page, tmp_path, "combobox")
    field.press("ArrowDown")
    expect(page.get_by_role("option", name="New warehouse for Totara")).to_have_attribute("aria-selected", "true")
    field.press("Escape")
    expect(page.get_by_role("option")).to_have_count(0)
    field.press_sequentially("h")
    expect(page.get_by_role("option")).to_have_count(1)
    field.press("ArrowDown")
    field.press("Enter")
    button = page.get_by_role("button", name="Link to New warehouse for Totara")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="1 link made")).to_be_visible()
    assert complaints == []
