"""The panel in a page that answers late, never, wrongly or with an error; and on a bad network."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from playwright.sync_api import Browser, FrameLocator, Locator, Page, Route, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route as HttpRoute

from runtime.settings import override_settings, settings
from services import access
from store.accounts import account_settings
from store.db.database import transaction
from tests.browser.test_panel_browser import fill
from tests.support import chromium, databases
from tests.support.serving import serving
from tests.support.world import World
from web.panel import long_polls
from web.panel.long_polls import PollQuota

# The parent's side of the App SDK's messages, controlled by the test: `answer` defines the answer to `getContext`.
HOST = """<!doctype html><title>Host</title>
<iframe name="panel" title="Xero invoices" style="width: 1000px; height: 600px; border: 0"></iframe>
<script>
  const frame = document.querySelector("iframe"), query = new URLSearchParams(location.search);
  window.heard = []; window.badges = []; window.asked = []; window.answer = () => undefined;
  window.send = (message) => frame.contentWindow.postMessage(message, "*");
  window.show = (type, id) => {
    const data = { entityType: type, entityData: { id } };
    window.answer = () => ({ data });
    send({ type: "contextUpdated", id: -1, data });
  };
  addEventListener("message", ({ data }) => {
    window.heard.push(data);
    if (data.type === "setUI") window.badges.push(data.data.count);
    if (data.type !== "getContext") return;
    window.asked.push(data.id);
    const answer = window.answer();
    if (answer !== undefined) send({ type: "getContext", id: data.id, ...answer });
  });
  const first = query.get("first");
  if (first) window.answer = () => ({ data: JSON.parse(first) });
  frame.src = query.get("panel") + `&origin=${location.origin}&instanceId=1`;
</script>"""


def person(record: int) -> dict[str, Any]:
    return {"entityType": "person", "entityData": {"id": record}}


class Host:
    """The host page, and the panel in it."""

    def __init__(self, page: Page, world: World, site: str) -> None:
        self.page, self.world, self.site = page, world, site
        override_settings({"PANEL_ORIGINS": site})
        token = access.create_key(world.account, "The panel", ["panel"])
        self.url = f"{world.web.base_url}/panel?token={token}"

    def open(self, record_word: str = "", record: int = 0) -> FrameLocator:
        """Open the panel; without a record, `getContext` is not answered."""
        first = json.dumps({"entityType": record_word, "entityData": {"id": record}}) if record_word else ""
        query = httpx.QueryParams({"panel": self.url, "first": first})
        self.page.goto(f"{self.site}/?{query}")
        return self.panel

    @property
    def panel(self) -> FrameLocator:
        return self.page.frame_locator("iframe")

    def show(self, record_word: str, record: int) -> None:
        self.page.evaluate("([kind, id]) => show(kind, id)", [record_word, record])

    def send(self, message: Any) -> None:
        self.page.evaluate("message => send(message)", message)

    def set_answer(self, script: str) -> None:
        """Set the answer to `getContext`: a function that returns the message's fields, or undefined."""
        self.page.evaluate(f"() => {{ window.answer = {script}; }}")

    def last_asked(self) -> int:
        return int(self.page.evaluate("asked.at(-1)"))

    def expect_badge(self, count: int) -> None:
        self.page.wait_for_function("count => badges.at(-1) === count", arg=count)


async def host_page(_: Request) -> HTMLResponse:
    return HTMLResponse(HOST)


@pytest.fixture
def host(browser: Browser, world: World) -> Iterator[Host]:
    databases.clear_budgets("throttle")
    context = browser.new_context(viewport={"width": 1100, "height": 700}, locale="en-GB")
    page = context.new_page()
    page.set_default_timeout(10_000)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    with serving(Starlette(routes=[HttpRoute("/", host_page)])) as url:
        yield Host(page, world, url.replace("127.0.0.1", "localhost"))
        context.close()
    assert complaints == [], "the script never throws"


@pytest.fixture
def host_with_storage(browser: Browser, world: World) -> Iterator[Host]:
    """A host on the panel's own site, in whose frames Chromium lets the panel keep something."""
    databases.clear_budgets("throttle")
    page = browser.new_context(viewport={"width": 1100, "height": 700}, locale="en-GB").new_page()
    page.set_default_timeout(10_000)
    with serving(Starlette(routes=[HttpRoute("/", host_page)])) as url:
        yield Host(page, world, url)


def two_people(world: World) -> tuple[int, int, str, str]:
    """Two people with an invoice each, and the invoice numbers."""
    first, second = world.person("ann@acme.test"), world.person("bob@acme.test")
    ann_invoice, bob_invoice = world.invoice("ann@acme.test", "120.00"), world.invoice("bob@acme.test", "990.00")
    world.settle()
    return first, second, ann_invoice.number, bob_invoice.number


class Gate:
    """Blocks requests of the panel until it is opened."""

    def __init__(self, page: Page, pattern: str) -> None:
        self.page, self.held, self.is_open = page, list[Route](), False
        page.route(pattern, self.come)

    def come(self, route: Route) -> None:
        self.held.append(route)
        if self.is_open:
            route.continue_()

    def wait(self, count: int = 1) -> None:
        until = time.monotonic() + 10
        while len(self.held) < count:
            assert time.monotonic() < until, f"{len(self.held)} requests came"
            self.page.wait_for_timeout(20)

    def open(self) -> None:
        self.is_open = True
        for route in self.held:
            route.continue_()


# Another record


def test_the_old_record_disappears_as_soon_as_the_context_changes(host: Host) -> None:
    ann, bob, number, bob_number = two_people(host.world)
    panel = host.open("person", ann)
    panel.get_by_role("button", name="Match details").click()
    expect(panel.locator(".details .reasons")).to_have_count(1)
    host.expect_badge(1)
    gate = Gate(host.page, f"**/panel/records/person/{bob}*")
    host.show("person", bob)
    expect(panel.locator("#record")).to_have_text("Loading invoices…")
    expect(panel.locator("#note")).to_be_empty()
    host.expect_badge(0)
    assert panel.get_by_text(number).count() == 0
    gate.wait()
    gate.open()
    expect(panel.locator("#rows")).to_contain_text(bob_number)
    host.expect_badge(1)


def test_the_old_record_disappears_before_copper_names_the_next_one(host: Host) -> None:
    ann, bob, _, bob_number = two_people(host.world)
    panel = host.open("person", ann)
    expect(panel.locator("tbody tr")).to_have_count(1)
    host.set_answer("() => undefined")
    host.send({"type": "contextUpdated", "id": -1})
    expect(panel.locator("#record")).to_have_text("Loading invoices…")
    host.expect_badge(0)
    host.send({"type": "getContext", "id": host.last_asked(), "data": person(bob)})
    expect(panel.locator("#rows")).to_contain_text(bob_number)


def test_a_response_for_another_record_is_never_shown(host: Host) -> None:
    ann, bob, number, bob_number = two_people(host.world)
    panel = host.open("person", ann)
    expect(panel.locator("tbody tr")).to_have_count(1)
    delayed: list[Route] = []
    host.page.route(f"**/panel/records/person/{bob}*", lambda route: delayed.append(route))
    host.show("person", bob)
    host.show("person", ann)
    host.show("person", bob)
    host.show("person", ann)
    expect(panel.locator("#rows")).to_contain_text(number)
    for route in delayed:
        route.fulfill(status=200, content_type="text/html", body=late_answer(bob, bob_number))
    host.page.unroute(f"**/panel/records/person/{bob}*")
    host.world.invoice("ann@acme.test", "5.00")
    host.world.settle()
    expect(panel.locator("tbody tr"), "it follows the current record").to_have_count(2)
    assert panel.get_by_text(bob_number).count() == 0
    expect(panel.locator("#rows")).to_contain_text(number)


def late_answer(record: int, number: str) -> str:
    return (
        f'<div class="record" data-record="person/{record}" data-count="9" data-summary="x"><table><tbody id="rows">'
        f'<tr id="row-x" data-number="{number}"><td>{number}</td></tr></tbody></table></div>'
    )


def always(status: int, body: str) -> Callable[[Route], None]:
    return lambda route: route.fulfill(status=status, content_type="text/html", body=body)


def test_a_response_for_another_record_or_from_another_server_is_ignored(host: Host) -> None:
    ann, bob, number, bob_number = two_people(host.world)
    bodies = [late_answer(bob, bob_number), "<h1>Welcome to the hotel's network</h1>", '{"detail": "no"}']
    panel = host.open()
    for status, body in [(200, bodies[0]), (200, bodies[1]), (403, bodies[2]), (502, bodies[1])]:
        host.page.route(f"**/panel/records/person/{ann}*", always(status, body))
        host.show("person", ann)
        expect(panel.locator("#note")).to_contain_text(
            "Can't reach Patina. Invoices can't be shown right now. Retrying in"
        )
        expect(panel.locator("#record")).to_have_text("")
        host.expect_badge(0)
        host.page.unroute(f"**/panel/records/person/{ann}*")
        host.show("person", bob)
        expect(panel.locator("#rows")).to_contain_text(bob_number)
    host.show("person", ann)
    expect(panel.locator("#rows")).to_contain_text(number)


def test_match_details_that_arrive_after_the_record_changed_are_dropped(host: Host) -> None:
    ann, bob, _, bob_number = two_people(host.world)
    panel = host.open("person", ann)
    gate = Gate(host.page, "**/match")
    panel.get_by_role("button", name="Match details").click()
    expect(panel.locator(".details")).to_have_text("Loading…")
    gate.wait()
    host.show("person", bob)
    expect(panel.locator("#rows")).to_contain_text(bob_number)
    gate.open()
    panel.get_by_role("button", name="Match details").click()
    expect(panel.locator(".details")).to_contain_text("bob@acme.test")
    assert panel.get_by_text("ann@acme.test").count() == 0
    expect(panel.locator(".details")).to_have_count(1)


def test_a_hanging_database_is_reported_within_seconds_and_without_old_figures(host: Host, tmp_path: Path) -> None:
    ann, bob, number, bob_number = two_people(host.world)
    panel = host.open("person", ann)
    expect(panel.locator("#rows")).to_contain_text(number)
    with psycopg.connect(databases.database_url(database_name())) as connection:
        connection.execute("LOCK TABLE record_invoice IN ACCESS EXCLUSIVE MODE")
        host.show("person", bob)
        expect(panel.locator("#record")).to_have_text("Loading invoices…")
        note = panel.locator("#note")
        expect(note).to_have_text(
            re.compile(r"^Can't reach Patina\. Invoices can't be shown right now\. Retrying in \d+ seconds\.$"),
            timeout=8_000,
        )
        host.expect_badge(0)
        assert panel.get_by_text(number).count() == 0
        host.page.screenshot(path=tmp_path / "panel-unreachable.png")
        expect(panel.get_by_role("button", name="Retry")).to_be_visible()
        connection.rollback()
    expect(panel.locator("#rows")).to_contain_text(bob_number)
    expect(note).to_be_empty()


def database_name() -> str:
    match = re.search(r"/([^/?]+)\?", settings().database_url or "")
    assert match
    return match.group(1)


def test_a_request_without_a_response_is_aborted_and_retried(host: Host) -> None:
    ann, _, number, _ = two_people(host.world)
    host.page.clock.install()
    panel = host.open()
    gate = Gate(host.page, "**/panel/records/**")
    host.show("person", ann)
    gate.wait()
    host.page.clock.fast_forward(5_000)
    expect(panel.locator("#note")).to_contain_text("Retrying in 25 seconds.")
    host.page.clock.fast_forward(26_000)
    expect(panel.locator("#note")).to_have_text(re.compile(r"Retrying in [3-7] seconds\.$"))
    host.page.clock.fast_forward(8_000)
    gate.wait(2)
    gate.open()
    expect(panel.locator("#rows")).to_contain_text(number)


def test_a_panel_that_may_not_long_poll_shows_its_time_and_refreshes(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PollQuota.LIMITS, "address", 0)
    monkeypatch.setattr(long_polls, "RETRY_AFTER_SECONDS", 1)
    monkeypatch.setattr(long_polls, "MAX_REJECTION_DELAY_SECONDS", 2.0)
    ann, _, number, _ = two_people(host.world)
    panel = host.open("person", ann)
    expect(panel.locator("#rows")).to_contain_text(number)
    expect(panel.locator("#last-synced")).to_contain_text("Updated")
    expect(panel.locator("#note")).to_be_empty()
    host.world.invoice("ann@acme.test", "5.00")
    host.world.settle()
    expect(panel.locator("tbody tr"), "it looks again").to_have_count(2)
    expect(panel.locator("#last-synced"), "and claims to be live no more").to_contain_text("Updated")


def test_a_busy_patina_is_reported_and_retried_after_retry_after(host: Host) -> None:
    ann, _, number, _ = two_people(host.world)
    busy = {"status": 503, "headers": {"Retry-After": "2"}, "content_type": "application/problem+json", "body": "{}"}
    host.page.route("**/panel/records/**", lambda route: route.fulfill(**busy))
    panel = host.open("person", ann)
    expect(panel.locator("#note")).to_contain_text("Patina is busy.")
    host.page.unroute("**/panel/records/**")
    expect(panel.locator("#rows")).to_contain_text(number)


def test_a_long_poll_survives_its_wait_but_not_a_dead_network(host: Host) -> None:
    ann, _, number, _ = two_people(host.world)
    host.page.clock.install()
    panel = host.open("person", ann)
    expect(panel.locator("#rows")).to_contain_text(number)
    gate = Gate(host.page, "**/panel/records/**")
    host.show("person", ann)
    gate.wait()
    gate.held[0].continue_()
    gate.wait(2)
    assert gate.held[1].request.headers["prefer"] == "wait=20"
    host.page.clock.fast_forward(25_000)
    expect(panel.locator("#note")).to_be_empty()
    expect(panel.locator("#last-synced")).to_contain_text("Live")
    host.page.clock.fast_forward(6_000)
    expect(panel.locator("#note")).to_contain_text("These figures may be out of date.")
    expect(panel.locator("#last-synced")).to_contain_text("Updated")
    expect(panel.locator("#rows")).to_contain_text(number)


# Copper's answers


@pytest.mark.parametrize("response", ['{error: "no context"}', "{}", "{data: null}", '{data: "", error: "x"}'])
def test_an_error_instead_of_the_context_clears_the_old_record(host: Host, response: str) -> None:
    ann, bob, _, bob_number = two_people(host.world)
    panel = host.open("person", ann)
    expect(panel.locator("tbody tr")).to_have_count(1)
    host.set_answer(f"() => ({response})")
    host.send({"type": "contextUpdated", "id": -1, "data": person(ann)})
    expect(panel.locator("#note")).to_have_text(
        "Copper didn't say which record is open. Open the record again, or reload the page."
    )
    expect(panel.locator("#record")).to_have_text("")
    host.expect_badge(0)
    host.show("person", bob)
    expect(panel.locator("#rows")).to_contain_text(bob_number)
    expect(panel.locator("#note")).to_be_empty()


def test_no_context_within_five_seconds_clears_the_record_and_a_late_one_is_shown(host: Host) -> None:
    ann, bob, _, bob_number = two_people(host.world)
    panel = host.open("person", ann)
    expect(panel.locator("tbody tr")).to_have_count(1)
    host.set_answer("() => undefined")
    host.send({"type": "contextUpdated", "id": -1, "data": person(ann)})
    expect(panel.locator("#note")).to_contain_text("Copper didn't say which record is open.", timeout=8_000)
    expect(panel.locator("#record")).to_have_text("")
    host.expect_badge(0)
    request_id = host.last_asked()
    panel.get_by_role("button", name="Retry").click()
    host.page.wait_for_function("asked => window.asked.at(-1) > asked", arg=request_id)
    host.send({"type": "getContext", "id": request_id, "data": person(ann)})
    host.send({"type": "getContext", "id": host.last_asked(), "data": person(bob)})
    expect(panel.locator("#rows")).to_contain_text(bob_number)
    expect(panel.locator("#note")).to_be_empty()


def test_a_click_during_a_context_request_does_not_lose_its_response(host: Host) -> None:
    company, lead = fill(host.world)
    panel = host.open("company", company)
    panel.get_by_role("button", name="Match details").first.click()
    link = panel.locator(".details").get_by_role("link", name="A person")
    expect(link).to_be_visible()
    host.set_answer("() => undefined")
    host.send({"type": "contextUpdated", "id": -1, "data": {"entityType": "company", "entityData": {"id": company}}})
    host.page.wait_for_function("asked.length === 2")
    request_id = host.last_asked()
    link.click()
    host.page.wait_for_function("heard.some((message) => message.type === 'navigateToEntityDetail')")
    context = {"entityType": "lead", "entityData": {"id": lead}}
    host.send({"type": "navigateToEntityDetail", "id": request_id, "data": context})
    host.send({"type": "getContext", "id": request_id, "data": context})
    expect(panel.locator("#empty")).to_contain_text("This lead has no email address")
    host.expect_badge(0)


def test_malformed_messages_neither_throw_nor_change_anything(host: Host) -> None:
    ann, _, number, _ = two_people(host.world)
    panel = host.open("person", ann)
    expect(panel.locator("tbody tr")).to_have_count(1)
    request_id = host.last_asked()
    names = ("__proto__", "constructor", "toString", "hasOwnProperty", "valueOf", "x" * 10**6)
    odd: list[Any] = [None, 1, [], {}, [["getContext"]]]
    messages: list[Any] = [
        *({"type": message_type} for message_type in (*names, *odd)),
        *(None, 0, "getContext", [], {}, {"id": request_id}, {"type": "getContext"}),
        {"type": "x" * 10**6, "id": "x" * 10**6},
        {"type": "getContext", "id": request_id, "data": "x" * 10**6},
        {"type": "getContext", "id": str(request_id), "data": person(1)},
        {"type": "getContext", "id": request_id, "data": person(1)},
        {"type": "getContext", "id": request_id + 1, "data": person(1)},
        {"type": "getContext", "id": -1, "data": person(1)},
        {"type": "getContext", "id": 0, "error": "late"},
    ]
    for message in messages:
        host.send(message)
    host.world.invoice("ann@acme.test", "5.00")
    host.world.settle()
    expect(panel.locator("tbody tr")).to_have_count(2)
    expect(panel.locator("#rows")).to_contain_text(number)
    assert host.page.evaluate("asked.length") == 1


def test_messages_of_another_page_are_ignored(host: Host) -> None:
    ann, bob, number, bob_number = two_people(host.world)
    panel = host.open("person", ann)
    expect(panel.locator("tbody tr")).to_have_count(1)
    # From the panel's own site, which is not the framing site.
    for message in ({"type": "contextUpdated", "id": -1, "data": person(bob)}, {"type": "contextUpdated"}):
        panel.locator("body").evaluate("(_, message) => postMessage(message, '*')", message)
    host.world.invoice("ann@acme.test", "5.00")
    host.world.settle()
    expect(panel.locator("tbody tr")).to_have_count(2)
    expect(panel.locator("#rows")).to_contain_text(number)
    assert host.page.evaluate("asked.length") == 1, "nobody was asked which record is next"
    assert panel.get_by_text(bob_number).count() == 0


def test_an_invalid_record_id_is_reported_and_not_requested(host: Host) -> None:
    ann, _, number, _ = two_people(host.world)
    requested: list[str] = []
    host.page.on("request", lambda request: requested.append(request.url) if "/panel/records" in request.url else None)
    panel = host.open("person", ann)
    expect(panel.locator("tbody tr")).to_have_count(1)
    while len(requested) < 2:
        # The second request waits for a change of Ann's invoices.
        host.page.wait_for_timeout(20)
    odd = "Copper sent a record ID that isn't valid. Open the record again."
    hint = "Open a lead, person, company or opportunity to see its invoices."
    for record_word, record, expected_text in (
        ("'person'", "2 ** 53", odd),
        ("'person'", "-1", odd),
        ("'person'", "0", odd),
        ("'person'", "1.5", odd),
        ("'person'", "NaN", odd),
        ("'person'", "'../person/1'", odd),
        ("'person'", "'9007199254740993'", odd),
        ("'person'", "'1'.repeat(1e6)", odd),
        ("'person'", "{}", odd),
        ("'person'", "[1]", odd),
        ("'person'", "true", odd),
        ("'person'", "null", hint),
        ("'person'", "undefined", hint),
        ("'task'", "1", hint),
        ("'project'", "1", hint),
        ("'__proto__'", "1", hint),
        ("['person']", "1", hint),
        ("null", "1", hint),
    ):
        host.set_answer(f"() => ({{data: {{entityType: {record_word}, entityData: {{id: {record}}}}}}})")
        host.send({"type": "contextUpdated", "id": -1})
        expect(panel.locator("#record"), f"{record_word} {record}").to_have_text(expected_text)
        host.expect_badge(0)
        assert requested[2:] == []
        host.set_answer("() => ({})")
        host.send({"type": "contextUpdated", "id": -1})
        expect(panel.locator("#record")).to_have_text("")
    host.set_answer("() => ({data: {entityType: 'person', entityData: null}})")
    host.send({"type": "contextUpdated", "id": -1})
    expect(panel.locator("#record")).to_have_text(hint)
    host.set_answer(f"() => ({{data: {{entityType: 'person', entityData: {{id: '{ann}'}}}}}})")
    host.send({"type": "contextUpdated", "id": -1})
    expect(panel.locator("#rows"), "a number as text is a number").to_contain_text(number)


# State of the viewer


def many(world: World, count: int) -> int:
    """A person with this number of invoices, of which five are shown initially."""
    record = world.person("ann@acme.test")
    contact = world.contact("Acme Ltd", "ann@acme.test")
    for number in range(count):
        world.invoice(contact, f"{number + 1}.00", due="2999-01-31")
    world.settle()
    return record


def focused(panel: FrameLocator) -> str:
    return str(panel.locator("body").evaluate("() => document.activeElement.id"))


def top_of(element: Locator) -> int:
    """The distance of an element from the frame's top edge, in pixels."""
    return int(element.evaluate("one => Math.round(one.getBoundingClientRect().top)"))


def test_a_live_change_keeps_scroll_position_focus_and_open_details(host: Host) -> None:
    record = many(host.world, 30)
    host.page.set_viewport_size({"width": 1100, "height": 500})
    panel = host.open("person", record)
    panel.get_by_role("link", name="Show all 30").click()
    rows = panel.locator("tr[data-number]")
    expect(rows).to_have_count(30)
    button = panel.get_by_role("button", name="Match details").nth(20)
    button.click()
    expect(panel.locator(".details .reasons")).to_have_count(1)
    panel.locator("body").evaluate("() => document.scrollingElement.scrollTo(0, 400)")
    before, last = focused(panel), str(rows.last.get_attribute("data-number"))
    top = top_of(panel.locator(f"#{before}"))
    assert before.startswith("match-")
    paid = str(rows.nth(20).get_attribute("id")).removeprefix("row-")
    host.world.sandbox.simulate("pay_invoice", invoice=paid)
    host.world.settle()
    expect(panel.locator(f"#row-{paid} .chip")).to_have_text("Paid")
    assert abs(top_of(panel.locator(f"#{before}")) - top) <= 1
    assert focused(panel) == before
    expect(panel.locator(".details .reasons")).to_have_count(1)
    expect(button).to_have_attribute("aria-expanded", "true")
    number = panel.locator(f"#row-{paid}").get_attribute("data-number")
    expect(panel.locator("#announcement")).to_have_text(f"{number} updated")
    added = host.world.invoice(host.world.contacts["ann@acme.test"], "77.00", due="2999-01-31")
    host.world.settle()
    expect(panel.locator("#announcement")).to_have_text(f"{added.number} added")
    expect(rows).to_have_count(30)
    assert focused(panel) == before
    expect(panel.locator(".details .reasons")).to_have_count(1)
    assert last not in panel.locator("tbody").inner_text(), "it made room, and nothing else moved"
    assert abs(top_of(panel.locator(f"#{before}")) - top) <= 1


def test_focus_stays_on_the_filter_and_on_a_link_during_a_live_change(host: Host) -> None:
    record = many(host.world, 6)
    panel = host.open("person", record)
    panel.get_by_role("link", name="Show all 6").click()
    rows = panel.locator("tr[data-number]")
    expect(rows).to_have_count(6)
    first = rows.last.locator("a")
    host.world.invoice(host.world.contacts["ann@acme.test"], "3.00", status="DRAFT")
    host.world.settle()
    expect(panel.get_by_label("Status")).to_be_visible()
    for target, name in ((panel.get_by_label("Status"), "status"), (first, str(first.get_attribute("id")))):
        target.focus()
        added = host.world.invoice(host.world.contacts["ann@acme.test"], "9.00", due="2999-01-31")
        host.world.settle()
        expect(panel.locator("#announcement")).to_contain_text(f"{added.number} added")
        if name == "status":
            assert focused(panel) == name


def test_show_all_moves_the_focus_to_the_first_new_row_and_show_fewer_moves_it_back(host: Host) -> None:
    record = many(host.world, 7)
    panel = host.open("person", record)
    show_all = panel.get_by_role("link", name="Show all 7")
    show_all.focus()
    host.page.keyboard.press("Enter")
    rows = panel.locator("tr[data-number]")
    expect(rows).to_have_count(7)
    expect(rows.nth(5).locator("a")).to_be_focused()
    expect(panel.locator("#announcement")).to_have_text("7 invoices shown")
    fewer = panel.get_by_role("link", name="Show fewer")
    fewer.focus()
    host.page.keyboard.press("Enter")
    expect(rows).to_have_count(5)
    expect(show_all).to_be_focused()
    expect(fewer).to_have_count(0)


def test_a_changed_row_fades_in_unless_reduced_motion_is_preferred(host: Host) -> None:
    record = many(host.world, 3)
    panel = host.open("person", record)
    rows = panel.locator("tr[data-number]")
    expect(rows).to_have_count(3)
    expect(panel.locator(".changed"), "what is new to the viewer does not flash").to_have_count(0)
    animation = "row => getComputedStyle(row).animationName"
    for motion, expected, index in (("reduce", "none", 0), ("no-preference", "changed", 1)):
        host.page.emulate_media(reduced_motion=motion)  # type: ignore[arg-type]
        invoice = str(rows.nth(index).get_attribute("id")).removeprefix("row-")
        host.world.sandbox.simulate("pay_invoice", invoice=invoice)
        host.world.settle()
        changed = panel.locator(f"#row-{invoice}.changed")
        assert changed.evaluate(animation) == expected
        assert expected == "none" or changed.evaluate("row => getComputedStyle(row).animationDuration") == "1.5s"
    expect(panel.locator(".changed"), "and it is over").to_have_count(0)


def test_a_filter_that_failed_is_reverted(host: Host) -> None:
    company, _ = fill(host.world)
    panel = host.open("company", company)
    rows = panel.locator("tr[data-number]")
    expect(rows).to_have_count(5)
    host.page.route("**/panel/records/**", lambda route: route.abort())
    panel.get_by_label("Status").select_option("OVERDUE")
    expect(panel.locator("#note")).to_contain_text("Can't reach Patina. These figures may be out of date.")
    expect(panel.get_by_label("Status")).to_have_value("")
    expect(rows).to_have_count(5)
    host.page.unroute("**/panel/records/**")
    panel.locator("#retry").click()
    expect(panel.locator("#note")).to_be_empty()
    expect(rows).to_have_count(5)
    panel.get_by_label("Status").select_option("OVERDUE")
    expect(rows).to_have_count(2)
    expect(panel.locator("#note")).to_be_empty()


def test_only_rows_are_dimmed_while_loading_and_stay_readable(host: Host) -> None:
    company, _ = fill(host.world)
    panel = host.open("company", company)
    expect(panel.locator("tr[data-number]")).to_have_count(5)
    for scheme in ("light", "dark"):
        host.page.emulate_media(color_scheme=scheme)
        gate = Gate(host.page, "**/panel/records/**")
        panel.get_by_label("Status").select_option("AUTHORISED")
        gate.wait()
        expect(panel.locator("#record")).to_have_attribute("aria-busy", "true")
        panel.locator("body").evaluate("() => Promise.all(document.getAnimations().map((one) => one.finished))")
        assert panel.locator("#record").evaluate("place => getComputedStyle(place).opacity") == "1"
        colours = "row => [...row.querySelectorAll('a, .chip, td')].map((one) => getComputedStyle(one).color)"
        assert len(set(panel.locator("tr[data-number]").first.evaluate(colours))) == 1
        assert chromium.accessibility_faults(host.page, rules=["color-contrast"]) == []
        gate.open()
        expect(panel.locator("tr[data-number]")).to_have_count(5)
        panel.get_by_label("Status").select_option("")
        expect(panel.locator("#record")).to_have_attribute("aria-busy", "false")


def test_filters_are_kept_for_the_next_visit_if_the_browser_lets_the_panel(host_with_storage: Host) -> None:
    host = host_with_storage
    queries: list[bytes] = []
    host.page.on(
        "request", lambda sent: queries.append(httpx.URL(sent.url).query) if "/panel/records/" in sent.url else None
    )
    company, _ = fill(host.world)
    panel = host.open("company", company)
    expect(panel.locator("tr[data-number]")).to_have_count(5)
    assert set(queries) == {b""}
    panel.get_by_label("Status").select_option("OVERDUE")
    expect(panel.locator("tr[data-number]")).to_have_count(2)

    panel = host.open("company", company)
    expect(panel.get_by_label("Status")).to_have_value("OVERDUE")
    expect(panel.locator("tr[data-number]")).to_have_count(2)

    panel.locator("body").evaluate("""() => localStorage.setItem("patina-filters",
        JSON.stringify({ status: null, organisation: ["x"], currency: 7, type: {}, sort: "up and down" }))""")
    queries.clear()
    panel = host.open("company", company)
    expect(panel.locator("tr[data-number]")).to_have_count(5)
    assert set(queries) == {b""}


def test_match_details_that_failed_to_load_can_be_retried(host: Host) -> None:
    ann, _, _, _ = two_people(host.world)
    panel = host.open("person", ann)
    host.page.route("**/match", lambda route: route.abort())
    panel.get_by_role("button", name="Match details").click()
    expect(panel.locator(".details")).to_have_text("Couldn't load the reason. Try again.")
    host.page.unroute("**/match")
    panel.get_by_role("button", name="Try again.").click()
    expect(panel.locator(".details")).to_contain_text("Matched by ann@acme.test")
    expect(panel.get_by_role("button", name="Match details")).to_be_focused()


# Layout


def test_nothing_overflows_and_no_status_is_cut_from_280_to_1100_pixels(host: Host, tmp_path: Path) -> None:
    company, _ = fill(host.world)
    world = host.world
    contact = world.contacts["ann@acme.test"]
    paid, void = world.invoice(contact, "1234567.89"), world.invoice(contact)
    world.invoice(contact, "2850.69", status="DRAFT")
    world.invoice(contact, "10000000.00", status="SUBMITTED", number="INV-" + "0123456789" * 4)
    world.sandbox.simulate("pay_invoice", invoice=paid.id)
    world.sandbox.simulate("void_invoice", invoice=void.id)
    world.settle()
    with transaction() as session:
        account_settings.update(session, world.account, account_settings.AccountSettings("", ("company",), 20, None))
    panel = host.open("company", company)
    expect(panel.locator("tr[data-number]")).to_have_count(11)
    panel.get_by_role("button", name="Match details").first.click()
    expect(panel.locator(".details .reasons")).to_have_count(1)
    max_right = "chips => Math.max(...chips.map((one) => one.getBoundingClientRect().right))"
    overflowing = """body => [...body.querySelectorAll("*")]
        .filter((element) => element.getBoundingClientRect().right > innerWidth + 0.5)
        .map((element) => `${element.tagName} ${element.className} ${element.getBoundingClientRect().right}`)"""
    wide = "cells => cells.filter((one) => one.scrollWidth > one.clientWidth).length"
    cut = "chips => chips.filter((one) => one.scrollWidth > one.clientWidth || one.getClientRects().length > 1).length"
    for width in (280, 300, 360, 420, 500, 600, 641, 660, 700, 711, 799, 820, 919, 921, 1100):
        host.page.locator("iframe").evaluate("(frame, width) => { frame.style.width = `${width}px`; }", width)
        assert panel.locator("body").evaluate(overflowing) == [], f"{width} px"
        assert panel.locator("body").evaluate("body => body.scrollWidth - innerWidth") <= 0, f"{width} px"
        assert panel.locator(".chip").evaluate_all(cut) == 0, f"{width} px"
        assert panel.locator(".chip").evaluate_all(max_right) <= width
        assert panel.locator("td.amount").evaluate_all(wide) == 0, f"amounts overlap at {width} px"
        if width in (280, 420, 700, 921, 1100):
            for scheme in ("light", "dark"):
                host.page.emulate_media(color_scheme=scheme)
                host.page.locator("iframe").screenshot(path=tmp_path / f"panel-{width}-{scheme}.png")


def test_without_javascript_the_panel_only_says_so(browser: Browser, host: Host) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{host.url}&origin={host.site}&instanceId=1")
    expect(page.locator("noscript .error")).to_be_visible()
    expect(page.get_by_text("Loading invoices…")).to_be_hidden()
    context.close()


def test_the_panel_url_opened_outside_copper_says_what_to_do(host: Host) -> None:
    response = host.world.web.get("/panel", params={"origin": "https://evil.test"})
    assert response.status_code == 403
    assert "Open this in Copper" in response.text
    assert "This page only works inside Copper. Add its URL there as an embedded app." in response.text
    host.page.goto(f"{host.url}&origin={host.site}")
    expect(host.page.get_by_text("This page only works inside Copper.")).to_be_visible()
    host.page.goto(f"{host.world.web.base_url}/panel?origin={host.site}&instanceId=1")
    expect(host.page.get_by_text("This panel URL is incomplete.")).to_be_visible()
