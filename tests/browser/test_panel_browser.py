"""The panel in a real browser, within the sandbox's Copper page; and that page against the real SDK."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from playwright.sync_api import Browser, FrameLocator, Page, Request, expect
from sqlalchemy import text

from runtime.settings import override_settings
from services import access
from store.accounts import account_settings
from store.db.database import transaction
from tests.support import chromium, databases
from tests.support.world import World

SDK = "copper-sdk@0.9.1"
SDK_SHA512 = "AFDx3JyetvBFoHpQmmIWgbpUjPhSmQxQVn8+bzsUOiRS2LxkswIOyQPddop0OjaJSxQzFpzSHLvXTd9IO/Zyyg=="
MAX_BYTES = 60_000
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


class Copper:
    """The sandbox's Copper page, on another site than the panel, as in production."""

    def __init__(self, page: Page, world: World) -> None:
        self.page = page
        self.world = world
        self.site = world.sandbox.url.replace("127.0.0.1", "localhost")
        override_settings({"PANEL_ORIGINS": self.site})
        token = access.create_key(world.account, "The panel", ["panel"])
        world.simulate_copper("install_app", url=f"{world.web.base_url}/panel?token={token}")

    def open(self, word: str, record: int) -> FrameLocator:
        self.page.goto(f"{self.site}/copper/companies/{self.world.copper}/app#/{word}/{record}")
        return self.frame

    @property
    def frame(self) -> FrameLocator:
        return self.page.frame_locator("iframe")

    def heard(self, message_type: str) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.page.evaluate("window.receivedMessages")
        return [message for message in messages if message["type"] == message_type]


@pytest.fixture
def copper(browser: Browser, world: World) -> Iterator[Copper]:
    databases.clear_budgets("throttle")
    context = browser.new_context(viewport=chromium.WIDE, locale="en-GB", timezone_id="Pacific/Auckland")
    page = context.new_page()
    page.set_default_timeout(10_000)
    yield Copper(page, world)
    context.close()


def fill(world: World) -> tuple[int, int]:
    """A company with a person who has seven invoices, two of them overdue; and a lead without an email address."""
    company = world.company()
    world.person("ann@acme.test", company=company)
    contact = world.contact("Acme Ltd", "ann@acme.test")
    for number in range(7):
        world.invoice(contact, f"{100 + number}.50", due="2020-01-31" if number < 2 else "2999-01-31")
    lead = world.lead()
    world.settle()
    return company, lead


def test_the_panel_shows_the_record_that_is_open_in_copper(copper: Copper, pictures: Path) -> None:
    company, lead = fill(copper.world)
    requests: list[Request] = []
    copper.page.on(
        "request",
        lambda request: requests.append(request) if "/panel" in request.url or "/static" in request.url else None,
    )
    complaints: list[str] = []
    copper.page.on(
        "console", lambda entry: complaints.append(entry.text) if entry.type in {"error", "warning"} else None
    )
    panel = copper.open("organization", company)
    rows = panel.locator("tbody tr")
    expect(rows).to_have_count(5)
    expect(copper.page.locator("#count")).to_have_text("7")
    expect(panel.locator("#balances")).to_have_text(re.compile(r"\s*Overdue NZD 202.00\s+Outstanding NZD 724.50\s*"))
    expect(panel.locator("#last-synced")).to_contain_text("Live · Last synced")
    expect(panel.locator("#announcement")).to_have_text("A company: 7 invoices, NZD 724.50 outstanding")
    first = [request for request in requests if "wait" not in (request.headers.get("prefer") or "")]
    assert len(first) == 2, [request.url for request in first]
    sizes = [response.body() for request in first if (response := request.response())]
    assert sum(map(len, sizes)) < MAX_BYTES

    panel.get_by_role("link", name="Show all 7").click()
    expect(rows).to_have_count(7)
    panel.get_by_label("Status").select_option("OVERDUE")
    expect(rows).to_have_count(2)
    expect(panel.locator("#announcement")).to_have_text("Overdue: 2 invoices shown")
    expect(rows.first.locator(".chip")).to_have_text(re.compile(r"^Overdue [\d,]+ d$"))
    panel.get_by_label("Status").select_option("")

    copper.page.goto(f"{copper.page.url.partition('#')[0]}#/lead/{lead}")
    expect(panel.get_by_text("This lead has no email address, so no invoices can be matched.")).to_be_visible()
    expect(copper.page.locator("#count")).to_have_text("0")
    assert [message["id"] for message in copper.heard("init")] == [-1]
    assert complaints == []


def test_match_details_open_in_place_and_lead_to_the_record_in_copper(copper: Copper) -> None:
    company, _ = fill(copper.world)
    panel = copper.open("organization", company)
    button = panel.get_by_role("button", name="Match details").first
    button.focus()
    copper.page.keyboard.press("Space")
    details = panel.locator(".details")
    expect(details).to_contain_text("Matched by ann@acme.test, the email address of A person (at this company)")
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(button).to_have_attribute("aria-controls", str(details.get_attribute("id")))
    number = panel.locator("td.number a").first.inner_text().partition("\n")[0]
    expect(details).to_have_attribute("aria-label", f"Match details of {number}")
    details.get_by_role("link", name="A person").click()
    expect(copper.page.locator("#name")).to_have_text("A person")
    expect(panel.locator("tbody tr")).to_have_count(5)
    assert copper.heard("navigateToEntityDetail")[0]["entityType"] == "person"


def open_details(copper: Copper) -> FrameLocator:
    """Open a company's panel and the match details of its first invoice."""
    company, _ = fill(copper.world)
    panel = copper.open("organization", company)
    panel.get_by_role("button", name="Match details").first.click()
    expect(panel.get_by_role("button", name="Copy link for the customer")).to_be_visible()
    return panel


def test_a_customer_link_is_copied_with_one_click_and_errors_are_said_in_place(copper: Copper) -> None:
    panel = open_details(copper)
    copper.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button, line = panel.get_by_role("button", name="Copy link for the customer"), panel.locator(".customer-link")
    copper.world.sandbox.faults(
        api=[{"vendor": "xero", "path": "/OnlineInvoice", "times": 1, "type": "status", "status": 503}]
    )
    button.click()
    expect(line).to_contain_text("Xero is unavailable right now. Try again in a moment.")
    expect(panel.locator("#announcement")).to_have_text("Xero is unavailable right now. Try again in a moment.")
    copper.world.sandbox.faults(
        api=[{"vendor": "xero", "path": "/OnlineInvoice", "times": 1, "type": "latency", "seconds": 2}]
    )
    button.click()
    expect(line).to_contain_text("Getting the link from Xero…")
    button.click(force=True)
    expect(line).to_contain_text("Link copied.")
    expect(panel.locator("#announcement")).to_have_text("Link copied.")
    expect(button).to_be_focused()
    with transaction() as session:
        url = session.execute(text("SELECT online_url FROM xero_invoice WHERE online_url <> ''")).scalar_one()
    pasted = copper.page.evaluate("""async () => {
        const area = document.body.appendChild(document.createElement("textarea"));
        area.focus();
        return navigator.clipboard.readText();
    }""")
    assert pasted == url
    assert copper.world.sandbox.calls("/OnlineInvoice") == 2, "a click while it works does nothing"


def test_a_customer_link_that_cannot_be_copied_is_shown_selected(copper: Copper, pictures: Path) -> None:
    panel = open_details(copper)
    panel.locator("body").evaluate("""() => {
        document.execCommand = () => false;
        navigator.clipboard.writeText = () => Promise.reject(new Error("not allowed"));
    }""")
    panel.get_by_role("button", name="Copy link for the customer").click()
    field = panel.get_by_label("Link for the customer", exact=True)
    expect(field).to_be_focused()
    expect(field).to_have_value(re.compile(r"https://in\.xero\.com/.+"))
    selected = field.evaluate("field => field.value.slice(field.selectionStart, field.selectionEnd)")
    assert selected == field.input_value()
    expect(panel.locator(".customer-link")).to_contain_text("Press Ctrl+C or ⌘C to copy the link:")
    for width, scheme in product((1000, 320), SCHEMES):
        copper.page.set_viewport_size({"width": width, "height": 800})
        copper.page.emulate_media(color_scheme=scheme)
        body = panel.locator("body")
        assert body.evaluate("body => body.scrollWidth <= body.clientWidth")
        body.screenshot(path=pictures / f"panel-link-{width}-{scheme}.png")
    assert copper.world.sandbox.calls("/OnlineInvoice") == 1


def test_a_double_click_on_match_details_opens_them_once(copper: Copper) -> None:
    company, _ = fill(copper.world)
    panel = copper.open("organization", company)
    button = panel.get_by_role("button", name="Match details").first
    button.dblclick()
    expect(panel.locator(".details .reasons")).to_have_count(1)
    expect(panel.locator(".details")).to_have_count(1)
    button.click()
    expect(panel.locator(".details")).to_have_count(0)
    button.evaluate("button => { button.click(); button.click(); }")
    expect(panel.locator(".details .reasons")).to_have_count(1)
    expect(panel.locator(".details")).to_have_count(1)
    # The second click of a double click, after the response to the first one.
    button.dispatch_event("click", {"detail": 2, "bubbles": True})
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(panel.locator(".details .reasons")).to_have_count(1)


def test_everything_can_be_reached_by_keyboard_in_page_order(copper: Copper) -> None:
    company, _ = fill(copper.world)
    panel = copper.open("organization", company)
    expect(panel.get_by_role("link", name="Show all 7")).to_be_visible()
    panel.get_by_label("Sort by").focus()

    def press(key: str) -> str:
        copper.page.keyboard.press(key)
        return " ".join(panel.locator(":focus").inner_text().split())

    reached = [press("Tab") for _ in range(6)]
    numbers = [text.split()[0] for text in panel.locator("td.number a").all_inner_texts()]
    assert reached == [*(f"{number} (opens in Xero)" for number in numbers), "Show all 7"], "a row is one tab stop"
    panel.get_by_role("link", name=numbers[0]).focus()
    first, second = numbers[:2]
    keys = ["ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowUp"]
    assert [press(key) for key in keys] == [
        *(f"Copy {first}", f"Match details of {first}", f"Match details of {first}", f"Match details of {second}"),
        *(f"Copy {second}", f"Copy {first}", f"Copy {first}"),
    ]


def test_a_change_appears_through_a_single_long_poll(copper: Copper) -> None:
    person = copper.world.person("ann@acme.test")
    invoice = copper.world.invoice("ann@acme.test")
    copper.world.settle()
    panel = copper.open("contact", person)
    expect(panel.locator(".chip")).to_have_text("Awaiting payment")
    requests: list[Request] = []
    copper.page.on("request", lambda request: requests.append(request) if "/panel/records" in request.url else None)
    copper.page.wait_for_timeout(1_000)
    assert len(requests) <= 1, "one request is held, and no other made"
    copper.world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    copper.world.settle()
    expect(panel.locator(".chip")).to_have_text("Paid")
    assert len(requests) <= 3


def test_the_rows_stay_visible_while_patina_is_unreachable(copper: Copper) -> None:
    person = copper.world.person("ann@acme.test")
    invoice = copper.world.invoice("ann@acme.test")
    copper.world.settle()
    panel = copper.open("contact", person)
    expect(panel.locator("tbody tr")).to_have_count(1)
    copper.page.route("**/panel/records/**", lambda route: route.abort())
    copper.world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    copper.world.settle()
    note = panel.locator("#note")
    expect(note).to_have_text(
        re.compile(r"^Can't reach Patina\. These figures may be out of date\. Retrying in \d+ second")
    )
    expect(note.locator("span"), "the seconds are not announced").to_have_attribute("aria-hidden", "true")
    seconds = note.locator("span").inner_text()
    expect(note.locator("span"), "it counts down").not_to_have_text(seconds)
    expect(panel.locator("tbody tr")).to_have_count(1)
    expect(panel.locator("#last-synced")).to_have_text(re.compile("^Updated "))
    copper.page.unroute("**/panel/records/**")
    panel.get_by_role("button", name="Retry").click()
    expect(panel.locator(".chip")).to_have_text("Paid")
    expect(note).to_be_empty()
    expect(panel.get_by_role("button", name="Retry")).to_have_count(0)
    expect(panel.locator("#last-synced")).to_contain_text("Live")


def enter_number(window: Page, panel: FrameLocator) -> None:
    """Read the number in the panel and type it into the window, like a user."""
    expect(panel.locator("#number")).to_have_text(re.compile(r"^\d\d$"))
    window.keyboard.type(panel.locator("#number").inner_text())
    window.keyboard.press("Enter")


def test_a_window_with_an_opener_shows_no_code(copper: Copper) -> None:
    """The page that opened the window may be another site's, so a user must not be asked to pass a code to it."""
    company, _ = fill(copper.world)
    with transaction() as session:
        account_settings.update(
            session, copper.world.account, account_settings.AccountSettings("", ("company",), 5, (1,))
        )
    panel = copper.open("organization", company)
    with copper.page.expect_popup() as popup:
        panel.get_by_role("button", name="Sign in with Copper").click()
    window = popup.value
    window.get_by_role("button", name="Allow access").click()
    copper.page.route("**/panel/session", lambda route: route.abort())
    enter_number(window, panel)
    expect(window.get_by_text("Go back to the panel in Copper.")).to_be_visible()
    expect(panel.locator("#note")).to_have_text("Can't reach Patina. Try again.")
    expect(window.locator("#code")).to_be_empty()
    expect(window.locator("#with-code")).to_be_hidden()


def test_a_viewer_signs_in_once_in_a_separate_window(copper: Copper, pictures: Path) -> None:
    company, _ = fill(copper.world)
    with transaction() as session:
        account_settings.update(
            session, copper.world.account, account_settings.AccountSettings("", ("company",), 5, (1,))
        )
    panel = copper.open("organization", company)
    expect(panel.get_by_text("Invoices are visible to certain teams only.")).to_be_visible()
    copper.page.locator("iframe").screenshot(path=pictures / "panel-signin.png")
    with copper.page.expect_popup() as popup:
        panel.get_by_role("button", name="Sign in with Copper").click()
    window = popup.value
    window.get_by_role("button", name="Allow access").click()
    expect(window.get_by_text("as Sam Admin of Acme Sales")).to_be_visible()
    for scheme in SCHEMES:
        window.emulate_media(color_scheme=scheme)
        window.screenshot(path=pictures / f"panel-confirm-{scheme}.png")
    copper.page.locator("iframe").screenshot(path=pictures / "panel-number.png")
    enter_number(window, panel)
    expect(panel.locator("tbody tr")).to_have_count(5)
    expect(panel.get_by_role("button", name="Sign in with Copper")).to_have_count(0)
    if not window.is_closed():
        window.wait_for_event("close")
    copper.page.reload()
    expect(panel.locator("tbody tr")).to_have_count(5)
    cookies = [cookie for cookie in copper.page.context.cookies() if cookie["name"] == "patina-panel"]
    assert [cookie["sameSite"] for cookie in cookies] == ["None"]
    assert str(cookies[0].get("partitionKey")).startswith("http://localhost"), cookies


def test_a_window_without_an_opener_shows_a_code_to_enter(copper: Copper) -> None:
    company, _ = fill(copper.world)
    with transaction() as session:
        account_settings.update(
            session, copper.world.account, account_settings.AccountSettings("", ("company",), 5, (1,))
        )
    panel = copper.open("organization", company)
    with copper.page.expect_popup() as popup:
        panel.get_by_role("button", name="Sign in with Copper").click()
    popup.value.wait_for_url("**/oauth/authorize**")
    address = popup.value.url
    popup.value.close()
    alone = copper.page.context.new_page()
    alone.goto(address)
    alone.get_by_role("button", name="Allow access").click()
    expect(alone.get_by_label("Number in the panel")).to_be_focused()
    enter_number(alone, panel)
    expect(alone.locator("#code")).not_to_be_empty()
    code = alone.locator("#code").inner_text()
    expect(alone, "it does not stay in the address").not_to_have_url(re.compile("#"))
    panel.get_by_label("If the sign-in window shows a code, enter it here.").fill(code.lower())
    panel.get_by_role("button", name="Continue").click()
    expect(panel.locator("tbody tr")).to_have_count(5)


def test_the_panel_is_accessible_in_every_theme_and_width(copper: Copper, pictures: Path) -> None:
    company, lead = fill(copper.world)
    paid, void = copper.world.invoice("ann@acme.test"), copper.world.invoice("ann@acme.test")
    copper.world.invoice("ann@acme.test", status="DRAFT")
    copper.world.sandbox.simulate("pay_invoice", invoice=paid.id)
    copper.world.sandbox.simulate("void_invoice", invoice=void.id)
    copper.world.settle()
    with transaction() as session:
        account_settings.update(
            session, copper.world.account, account_settings.AccountSettings("", ("company", "lead"), 10, None)
        )
    for record_word, record, name in (("organization", company, "panel"), ("lead", lead, "panel-empty")):
        panel = copper.open(record_word, record)
        expect(panel.get_by_text("Last synced")).to_be_visible()
        for scheme in SCHEMES:
            copper.page.emulate_media(color_scheme=scheme)
            for width in (1_300, 620):
                copper.page.set_viewport_size({"width": width, "height": 900})
                element = copper.page.locator("iframe")
                wide = panel.locator("body").evaluate("body => body.scrollWidth - innerWidth")
                assert wide <= 0, "nothing sticks out"
                size = "wide" if width > 1_000 else "narrow"
                element.screenshot(path=pictures / f"{name}-{size}-{scheme}.png")
            assert chromium.accessibility_faults(copper.page, within="iframe") == []


def test_the_narrowest_panel_is_280_pixels(browser: Browser, copper: Copper) -> None:
    company, _ = fill(copper.world)
    panel = copper.open("organization", company)
    copper.page.locator("iframe").evaluate("frame => { frame.style.width = '280px'; frame.style.flex = 'none'; }")
    expect(panel.locator("tbody tr")).to_have_count(5)
    assert panel.locator("body").evaluate("body => body.scrollWidth - innerWidth") <= 0


@pytest.fixture(scope="session")
def sdk() -> str:
    """The real SDK from npm, verified by its hash; skipped if it is not available."""
    package = databases.HOME / "copper-sdk-0.9.1.tgz"
    if not package.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("no npm: the real copper-sdk cannot be fetched")
        completed = subprocess.run(
            [npm, "pack", SDK, "--pack-destination", str(databases.HOME)], capture_output=True, timeout=60, check=False
        )
        if completed.returncode:
            pytest.skip("npm could not fetch copper-sdk")
    content = package.read_bytes()
    assert base64.b64encode(hashlib.sha512(content).digest()).decode() == SDK_SHA512
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        member = archive.extractfile("package/dist/copper-sdk.js")
        assert member is not None
        return member.read().decode()


def test_the_sandbox_page_answers_the_real_sdk(copper: Copper, sdk: str) -> None:
    person = copper.world.person("ann@acme.test")
    copper.world.simulate_copper("install_app", url="http://app.test/")
    copper.page.route(
        "http://app.test/**",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f"<script>{sdk}</script><script>const sdk = (window.Copper.default || window.Copper).init();"
            "sdk.on('contextUpdated', (data) => { window.updated = data; });</script>",
        ),
    )
    copper.open("contact", person).locator("script").first.wait_for(state="attached")
    frame = copper.page.frames[1]
    assert frame.url.startswith("http://app.test/?location=sidebar&origin=")
    context = frame.evaluate("sdk.getContext().then((one) => [one.type, one.context.id || one.context.toObject().id])")
    assert context == ["person", person]
    user_info = frame.evaluate("sdk.getUserInfo()")
    assert user_info["account"] == {"id": copper.world.copper, "name": "Acme Sales"}
    assert (user_info["user"]["name"], user_info["user"]["roles"]) == ("Sam Admin", ["user", "admin"])
    frame.evaluate("sdk.setAppUI({count: 4})")
    expect(copper.page.locator("#count")).to_have_text("4")
    company = copper.world.company()
    copper.page.reload()
    copper.frame.locator("script").first.wait_for(state="attached")
    frame = copper.page.frames[1]
    frame.evaluate(f"sdk.navigateToEntityDetail('company', {company})")
    frame.wait_for_function(f"window.updated && window.updated.entityData.id === {company}")


def test_a_page_that_impersonates_copper_gets_nothing(copper: Copper, browser: Browser) -> None:
    company, _ = fill(copper.world)
    address = copper.world.sandbox.control("GET", "state")
    assert address
    token = access.create_key(copper.world.account, "x", ["panel"])
    url = f"{copper.world.web.base_url}/panel?token={token}&origin=http://evil.test&instanceId=1"
    assert httpx.get(url, trust_env=False).status_code == 403
    copper.page.route(
        "http://evil.test/**",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f"<iframe src='{url.replace('http://evil.test', copper.site)}'></iframe>",
        ),
    )
    copper.page.goto("http://evil.test/")
    copper.page.wait_for_timeout(500)
    assert copper.page.frames[1].url in {"", "about:blank", "chrome-error://chromewebdata/"}, (
        "it may not be framed there"
    )
    assert company
