"""The panel in a real browser, within a page that plays Copper's side; and that page against the real SDK."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FrameLocator, Page, Request, expect

from runtime.settings import override
from store import accounts
from store.database import transaction
from tests import chromium, databases
from tests.test_browser import browser as browser
from tests.test_browser import pictures as pictures
from tests.world import World
from worker import connect

SDK = "copper-sdk@0.9.1"
SDK_SHA512 = "AFDx3JyetvBFoHpQmmIWgbpUjPhSmQxQVn8+bzsUOiRS2LxkswIOyQPddop0OjaJSxQzFpzSHLvXTd9IO/Zyyg=="
MOST_BYTES = 60_000
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


class Copper:
    """The page that plays Copper, on another site than the panel, as it is in life."""

    def __init__(self, page: Page, world: World) -> None:
        self.page = page
        self.world = world
        self.site = world.sandbox.url.replace("127.0.0.1", "localhost")
        override({"PANEL_ORIGINS": self.site})
        token = connect.make_key(world.account, "The panel", ["panel"])
        world.copper_act("install_app", url=f"{world.web.base_url}/panel?token={token}")

    def open(self, word: str, record: int) -> FrameLocator:
        self.page.goto(f"{self.site}/copper/companies/{self.world.copper}/app#/{word}/{record}")
        return self.frame

    @property
    def frame(self) -> FrameLocator:
        return self.page.frame_locator("iframe")

    def heard(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.page.evaluate("window.heard")
        return [one for one in found if one["type"] == kind]


@pytest.fixture
def copper(browser: Browser, world: World) -> Iterator[Copper]:
    databases.forget_budgets("throttle")
    context = browser.new_context(viewport=chromium.WIDE, locale="en-GB", timezone_id="Pacific/Auckland")
    page = context.new_page()
    page.set_default_timeout(10_000)
    yield Copper(page, world)
    context.close()


def fill(world: World) -> tuple[int, int]:
    """A company whose person has seven invoices, two of them overdue; and a lead without an address."""
    company = world.company()
    world.person("ann@acme.test", company=company)
    contact = world.contact("Acme Ltd", "ann@acme.test")
    for number in range(7):
        world.invoice(contact, f"{100 + number}.50", due="2020-01-31" if number < 2 else "2999-01-31")
    lead = world.lead()
    world.settle()
    return company, lead


def test_the_panel_shows_the_record_that_copper_shows(copper: Copper, pictures: Path) -> None:
    company, lead = fill(copper.world)
    asked: list[Request] = []
    copper.page.on("request", lambda one: asked.append(one) if "/panel" in one.url or "/static" in one.url else None)
    complaints: list[str] = []
    copper.page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
    panel = copper.open("organization", company)
    rows = panel.locator("tbody tr")
    expect(rows).to_have_count(5)
    expect(copper.page.locator("#count")).to_have_text("7")
    expect(panel.locator("#sums")).to_have_text("NZD 724.50 outstanding · NZD 202.00 overdue")
    expect(panel.locator("#as-of")).to_contain_text("Live · Last synced")
    expect(panel.locator("#announcement")).to_have_text("A company: 7 invoices, NZD 724.50 outstanding")
    first = [one for one in asked if "wait" not in (one.headers.get("prefer") or "")]
    assert len(first) == 4, [one.url for one in first]
    sizes = [answer.body() for one in first if (answer := one.response())]
    assert sum(map(len, sizes)) < MOST_BYTES

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
    assert [one["id"] for one in copper.heard("init")] == [-1]
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


def test_a_double_click_on_match_details_opens_one_row(copper: Copper) -> None:
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
    # The second click of a double click, after the answer to the first one.
    button.dispatch_event("click", {"detail": 2, "bubbles": True})
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(panel.locator(".details .reasons")).to_have_count(1)


def test_everything_is_reached_by_keyboard_in_the_order_of_the_page(copper: Copper) -> None:
    company, _ = fill(copper.world)
    panel = copper.open("organization", company)
    expect(panel.get_by_role("link", name="Show all 7")).to_be_visible()
    panel.get_by_label("Status").focus()
    reached = []
    for _ in range(11):
        copper.page.keyboard.press("Tab")
        reached.append(" ".join(panel.locator(":focus").inner_text().split()))
    numbers = [text.split()[0] for text in panel.locator("td.number a").all_inner_texts()]
    wanted = [text for n in numbers for text in (f"{n} (opens in Xero)", f"Match details of {n}")]
    assert reached == [*wanted, "Show all 7"]


def test_a_change_shows_by_itself_by_one_held_request(copper: Copper) -> None:
    person = copper.world.person("ann@acme.test")
    invoice = copper.world.invoice("ann@acme.test")
    copper.world.settle()
    panel = copper.open("contact", person)
    expect(panel.locator(".chip")).to_have_text("Awaiting payment")
    asked: list[Request] = []
    copper.page.on("request", lambda one: asked.append(one) if "/panel/records" in one.url else None)
    copper.page.wait_for_timeout(1_000)
    assert len(asked) <= 1, "one request is held, and no other made"
    copper.world.sandbox.act("pay_invoice", invoice=invoice.id)
    copper.world.settle()
    expect(panel.locator(".chip")).to_have_text("Paid")
    assert len(asked) <= 3


def test_what_was_shown_of_a_record_stays_while_patina_is_not_reached(copper: Copper) -> None:
    person = copper.world.person("ann@acme.test")
    invoice = copper.world.invoice("ann@acme.test")
    copper.world.settle()
    panel = copper.open("contact", person)
    expect(panel.locator("tbody tr")).to_have_count(1)
    copper.page.route("**/panel/records/**", lambda route: route.abort())
    copper.world.sandbox.act("pay_invoice", invoice=invoice.id)
    copper.world.settle()
    note = panel.locator("#note")
    expect(note).to_have_text(
        re.compile(r"^Can't reach Patina\. These figures may be out of date\. Retrying in \d+ second")
    )
    expect(note.locator("span"), "the seconds are not announced").to_have_attribute("aria-hidden", "true")
    seconds = note.locator("span").inner_text()
    expect(note.locator("span"), "it counts down").not_to_have_text(seconds)
    expect(panel.locator("tbody tr")).to_have_count(1)
    expect(panel.locator("#as-of")).to_have_text(re.compile("^Updated "))
    copper.page.unroute("**/panel/records/**")
    panel.get_by_role("button", name="Retry").click()
    expect(panel.locator(".chip")).to_have_text("Paid")
    expect(note).to_be_empty()
    expect(panel.get_by_role("button", name="Retry")).to_have_count(0)
    expect(panel.locator("#as-of")).to_contain_text("Live")


def enter_number(window: Page, panel: FrameLocator) -> None:
    """What a person does: read the number in the panel, type it into the window."""
    expect(panel.locator("#number")).to_have_text(re.compile(r"^\d\d$"))
    window.keyboard.type(panel.locator("#number").inner_text())
    window.keyboard.press("Enter")


def test_a_window_with_an_opener_shows_no_code(copper: Copper) -> None:
    """Another site's page that opened it would be waited for in vain: nobody is to read a code out to it."""
    company, _ = fill(copper.world)
    with transaction() as session:
        accounts.choose(session, copper.world.account, accounts.Choices("", ("company",), 5, False, (1,)))
    panel = copper.open("organization", company)
    with copper.page.expect_popup() as opened:
        panel.get_by_role("button", name="Sign in with Copper").click()
    window = opened.value
    window.get_by_role("button", name="Allow access").click()
    copper.page.route("**/panel/session", lambda route: route.abort())
    enter_number(window, panel)
    expect(window.get_by_text("Go back to the panel in Copper.")).to_be_visible()
    expect(panel.locator("#note")).to_have_text("Can't reach Patina. Try again.")
    expect(window.locator("#code")).to_be_empty()
    expect(window.locator("#with-code")).to_be_hidden()


def test_a_viewer_signs_in_once_in_a_window_of_its_own(copper: Copper, pictures: Path) -> None:
    company, _ = fill(copper.world)
    with transaction() as session:
        accounts.choose(session, copper.world.account, accounts.Choices("", ("company",), 5, False, (1,)))
    panel = copper.open("organization", company)
    expect(panel.get_by_text("Invoices are visible to certain teams only.")).to_be_visible()
    copper.page.locator("iframe").screenshot(path=pictures / "panel-signin.png")
    with copper.page.expect_popup() as opened:
        panel.get_by_role("button", name="Sign in with Copper").click()
    window = opened.value
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
    cookies = [one for one in copper.page.context.cookies() if one["name"] == "patina-panel"]
    assert [one["sameSite"] for one in cookies] == ["None"]
    assert str(cookies[0].get("partitionKey")).startswith("http://localhost"), cookies


def test_a_window_that_lost_its_opener_shows_a_code_to_enter(copper: Copper) -> None:
    company, _ = fill(copper.world)
    with transaction() as session:
        accounts.choose(session, copper.world.account, accounts.Choices("", ("company",), 5, False, (1,)))
    panel = copper.open("organization", company)
    with copper.page.expect_popup() as opened:
        panel.get_by_role("button", name="Sign in with Copper").click()
    opened.value.wait_for_url("**/oauth/authorize**")
    address = opened.value.url
    opened.value.close()
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


def test_the_panel_is_readable_by_everybody_in_all_its_looks(copper: Copper, pictures: Path) -> None:
    company, lead = fill(copper.world)
    paid, void = copper.world.invoice("ann@acme.test"), copper.world.invoice("ann@acme.test")
    copper.world.invoice("ann@acme.test", status="DRAFT")
    copper.world.sandbox.act("pay_invoice", invoice=paid.id)
    copper.world.sandbox.act("void_invoice", invoice=void.id)
    copper.world.settle()
    with transaction() as session:
        accounts.choose(session, copper.world.account, accounts.Choices("", ("company", "lead"), 10, False, None))
    for word, record, name in (("organization", company, "panel"), ("lead", lead, "panel-empty")):
        panel = copper.open(word, record)
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
            found = Axe().run(copper.page)
            bad = [one for one in found.response["violations"] if one["impact"] in {"serious", "critical"}]
            bad = [node for one in bad for node in one["nodes"] if "iframe" in str(node["target"])]
            assert bad == []


def test_the_narrowest_panel_is_280_pixels(browser: Browser, copper: Copper) -> None:
    company, _ = fill(copper.world)
    panel = copper.open("organization", company)
    copper.page.locator("iframe").evaluate("frame => { frame.style.width = '280px'; frame.style.flex = 'none'; }")
    expect(panel.locator("tbody tr")).to_have_count(5)
    assert panel.locator("body").evaluate("body => body.scrollWidth - innerWidth") <= 0


@pytest.fixture(scope="session")
def sdk() -> str:
    """The real SDK, from npm, held against the hash known here; skipped where it cannot be had."""
    known = databases.HOME / "copper-sdk-0.9.1.tgz"
    if not known.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("no npm: the real copper-sdk cannot be fetched")
        done = subprocess.run(
            [npm, "pack", SDK, "--pack-destination", str(databases.HOME)], capture_output=True, timeout=60, check=False
        )
        if done.returncode:
            pytest.skip("npm could not fetch copper-sdk")
    content = known.read_bytes()
    assert base64.b64encode(hashlib.sha512(content).digest()).decode() == SDK_SHA512
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        member = archive.extractfile("package/dist/copper-sdk.js")
        assert member is not None
        return member.read().decode()


def test_the_page_that_plays_copper_answers_the_real_sdk(copper: Copper, sdk: str) -> None:
    person = copper.world.person("ann@acme.test")
    copper.world.copper_act("install_app", url="http://app.test/")
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
    who = frame.evaluate("sdk.getUserInfo()")
    assert who["account"] == {"id": copper.world.copper, "name": "Acme Sales"}
    assert (who["user"]["name"], who["user"]["roles"]) == ("Sam Admin", ["user", "admin"])
    frame.evaluate("sdk.setAppUI({count: 4})")
    expect(copper.page.locator("#count")).to_have_text("4")
    company = copper.world.company()
    copper.page.reload()
    copper.frame.locator("script").first.wait_for(state="attached")
    frame = copper.page.frames[1]
    frame.evaluate(f"sdk.navigateToEntityDetail('company', {company})")
    frame.wait_for_function(f"window.updated && window.updated.entityData.id === {company}")


def test_what_claims_to_be_copper_and_is_not_gets_nothing(copper: Copper, browser: Browser) -> None:
    company, _ = fill(copper.world)
    address = copper.world.sandbox.control("GET", "state")
    assert address
    token = connect.make_key(copper.world.account, "x", ["panel"])
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
