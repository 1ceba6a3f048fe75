"""The sandbox's Copper page: a CRM, and the parent that Copper's own App SDK expects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Frame, Page, expect

from tests.clients import environment
from tests.support import chromium
from tests.support.world import Sandbox

pytestmark = pytest.mark.timeout(900)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
APP = "http://app.test/panel?token=t"


class Crm:
    """The sandbox's Copper page, with a company, two people, an opportunity and a lead."""

    def __init__(self, page: Page, sandbox: Sandbox) -> None:
        self.page = page
        self.sandbox = sandbox
        self.account = sandbox.simulate("add_account", name="Acme Sales")
        self.company = self.make("company", "Beacon Foods")
        self.ann = self.make("person", "Ann Lee", emails=["ann@beacon.test"], company=self.company)
        self.bob = self.make("person", "Bob <b>Moe</b>", emails=["bob@else.test"])
        self.deal = self.make("opportunity", "Fit-out", company=self.company, primary_contact=self.ann)
        self.lead = self.make("lead", "Lea Fay", emails=["lea@x.test"])
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def make(self, record_type: str, name: str, **values: Any) -> int:
        record = self.sandbox.simulate(
            "create_record", type=record_type, name=name, account=self.account["account"], **values
        )
        return int(record["id"])

    def define(self, name: str, data_type: str, **values: Any) -> int:
        """Define a custom field of people and companies."""
        types = ["person", "company"]
        field = self.act("define_field", name=name, data_type=data_type, available_on=types, **values)
        return int(field["field"])

    def fill(self, record_type: str, record_id: int, field: int, value: Any) -> None:
        self.act("set_custom_field", type=record_type, id=record_id, field=field, value=value)

    def act(self, action: str, **values: Any) -> dict[str, Any]:
        return self.sandbox.simulate(action, account=self.account["account"], **values)

    def record(self, plural: str, record_id: int) -> dict[str, Any]:
        payload: dict[str, Any] = self.ask(f"{plural}/{record_id}")
        return payload

    def definitions(self) -> list[dict[str, Any]]:
        payload: list[dict[str, Any]] = self.ask("custom_field_definitions")
        return payload

    def ask(self, path: str) -> Any:
        headers = {"X-PW-AccessToken": self.account["api_key"], "X-PW-Application": "developer_api"}
        headers["X-PW-UserEmail"] = self.account["email"]
        return self.sandbox.http.get(f"/copper/developer_api/v1/{path}", headers=headers).json()

    def open(self, address: str = "") -> None:
        self.page.goto(f"{self.sandbox.url}/copper/companies/{self.account['account']}/app{address}")

    def open_app(self, sdk: str, address: str) -> Frame:
        """Open a record with an installed app, a page that only loads the SDK."""
        self.sandbox.simulate("install_app", url=APP, account=self.account["account"])
        script = "const sdk = (window.Copper.default || window.Copper).init(); window.events = [];"
        for event in ("contextUpdated", "addButtonClicked", "hello"):
            script += f"sdk.on('{event}', (data) => window.events.push(['{event}', data]));"
        body = f"<script>{sdk}</script><script>{script}</script>"
        self.page.route("http://app.test/**", lambda route: route.fulfill(content_type="text/html", body=body))
        self.open(address)
        return self.frame("sidebar")

    def frame(self, location: str) -> Frame:
        """The app's frame at a location, with the SDK loaded."""
        element = self.page.wait_for_selector(f"iframe[src*='location={location}']")
        content = element.content_frame() if element else None
        assert content is not None
        content.wait_for_function("window.events !== undefined")
        return content


@pytest.fixture
def crm(browser: Browser, sandbox: Sandbox) -> Iterator[Crm]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB")
    page = context.new_page()
    page.set_default_timeout(10_000)
    crm_page = Crm(page, sandbox)
    yield crm_page
    context.close()
    assert crm_page.complaints == []


@pytest.fixture(scope="session")
def sdk() -> str:
    """The real SDK, as published by Copper."""
    path = environment.node_modules("npm") / "copper-sdk" / "dist" / "copper-sdk.js"
    return path.read_text()


def rejection(frame: Frame, call: str) -> str:
    """The error message of a rejected SDK call."""
    message: str = frame.evaluate(f"{call}.then(() => 'not rejected', (error) => String(error))")
    return message


def test_the_sdk_learns_which_record_which_user_and_which_account(crm: Crm, sdk: str) -> None:
    frame = crm.open_app(sdk, f"#/contact/{crm.ann}")
    assert frame.url == f"{APP}&location=sidebar&origin={quoted(crm.sandbox.url)}&instanceId=sandbox-sidebar"
    context = frame.evaluate("sdk.getContext().then((found) => [found.type, found.context.toObject()])")
    assert context[0] == "person"
    assert context[1] == crm.record("people", crm.ann), "the fields are those of the developer API"
    assert frame.evaluate("sdk.getUserInfo()") == {
        "account": {"id": crm.account["account"], "name": "Acme Sales"},
        "user": {
            "id": crm.account["account"] * 10 + 1,
            "name": "Sam Admin",
            "email": crm.account["email"],
            "roles": ["user", "admin"],
        },
    }
    assert frame.evaluate("sdk.getConfig()")["config"] == {}


def quoted(address: str) -> str:
    return address.replace(":", "%3A").replace("/", "%2F")


def test_setui_only_changes_the_given_properties(crm: Crm, sdk: str) -> None:
    frame = crm.open_app(sdk, f"#/organization/{crm.company}")
    frame.evaluate("sdk.setAppUI({count: 4})")
    frame.evaluate("sdk.setAppUI({height: 321})")
    iframe = crm.page.locator("iframe")
    expect(iframe).to_have_css("height", "321px")
    expect(crm.page.locator("#count")).to_have_text("4")
    frame.evaluate("sdk.setAppUI({disableAddButton: false})")
    crm.page.locator("#add").click()
    frame.wait_for_function("events.some(([name]) => name === 'addButtonClicked')")
    frame.evaluate("sdk.showFullScreen()")
    expect(crm.page.locator("#app-card.full")).to_be_visible()
    frame.evaluate("sdk.closeFullScreen()")
    expect(crm.page.locator("#app-card.full")).to_have_count(0)


def test_the_app_navigates_to_another_record_and_is_notified(crm: Crm, sdk: str) -> None:
    frame = crm.open_app(sdk, f"#/organization/{crm.company}")
    frame.evaluate(f"sdk.navigateToEntityDetail('opportunity', {crm.deal})")
    frame.wait_for_function(f"events.some(([, data]) => data.entityData.id === {crm.deal})")
    expect(crm.page.locator("#name")).to_have_text("Fit-out")
    assert "not supported" in rejection(frame, "sdk.navigateToEntityDetail('task', 1)")


def test_the_app_saves_editable_fields(crm: Crm, sdk: str) -> None:
    frame = crm.open_app(sdk, f"#/contact/{crm.ann}")
    saved = frame.evaluate(
        "sdk.getContext().then(({context}) => { context.name = 'Ann Moe'; return context.save(); })"
        ".then(({context}) => context.name)"
    )
    assert saved == "Ann Moe" == crm.record("people", crm.ann)["name"]
    expect(crm.page.locator("#name")).to_have_text("Ann Moe")
    edit = f"sdk.saveContext({{type: 'person', toObject: () => ({{id: {crm.ann}, title: 'x'}})}})"
    assert "title cannot be edited" in rejection(frame, edit)


def test_the_app_calls_the_developer_api_as_its_user(crm: Crm, sdk: str) -> None:
    frame = crm.open_app(sdk, f"#/organization/{crm.company}")
    assert frame.evaluate("sdk.api('/v1/users/me')")["email"] == crm.account["email"]
    body = "JSON.stringify({emails: ['ann@beacon.test']})"
    people = frame.evaluate(f"sdk.api('/v1/people/search', {{method: 'POST', body: {body}}})")
    assert [person["id"] for person in people] == [crm.ann]
    assert "does not support POST /activities" in rejection(frame, "sdk.logActivity(0, 'called')")
    assert "does not support POST /people" in rejection(frame, "sdk.createEntity('person', {name: 'x'})")
    assert "not found" in rejection(frame, "sdk.api('/v1/people/1')")


def test_unsupported_messages_are_answered_with_an_error(crm: Crm, sdk: str) -> None:
    frame = crm.open_app(sdk, f"#/lead/{crm.lead}")
    for call in ("sdk.getRouteInfo()", "sdk.getSelectedRecords()", "sdk.navigateToSavedFilter('person', 1)"):
        assert rejection(frame, call) == "not supported by the sandbox"
    assert rejection(frame, "sdk._deferredPost('dance')") == "not supported by the sandbox"
    for number, unknown in enumerate(("__proto__", "constructor", "toString"), 70):
        response = frame.evaluate(
            "([type, id]) => new Promise((done) => {"
            "addEventListener('message', (event) => { if (event.data.id === id) done(event.data.error); });"
            "top.postMessage({type, id, instanceId: sdk.instanceId}, sdk.parentOrigin); })",
            [unknown, number],
        )
        assert response == "not supported by the sandbox"
    crm.complaints.clear()  # The SDK itself fails on a response to one of these names.


def test_a_modal_is_a_second_frame_that_can_message_the_first(crm: Crm, sdk: str) -> None:
    frame = crm.open_app(sdk, f"#/lead/{crm.lead}")
    frame.evaluate("sdk.getUserInfo()")
    frame.evaluate("sdk.showModal({width: 300})")
    modal = crm.frame("modal")
    assert modal.evaluate("sdk.getContext()")["type"] == "lead"
    modal.evaluate("sdk.publishMessage('hello', 'sidebar', {a: 1})")
    frame.wait_for_function("events.some(([name, data]) => name === 'hello' && data.a === 1)")
    modal.evaluate("sdk.closeModal()")
    expect(crm.page.locator("iframe")).to_have_count(1)


def test_messages_from_other_origins_are_ignored(crm: Crm, sdk: str) -> None:
    frame = crm.open_app(sdk, f"#/lead/{crm.lead}")
    frame.evaluate("sdk.getUserInfo()")
    before = crm.page.evaluate("receivedMessages.length")
    crm.page.evaluate(
        "window.postMessage({type: 'setUI', data: {count: 9}, instanceId: 'sandbox-sidebar', id: 1}, '*')"
    )
    frame.evaluate("top.postMessage({type: 'setUI', data: {count: 9}, instanceId: 'other', id: 1}, '*')")
    frame.evaluate("sdk.getUserInfo()")
    assert crm.page.evaluate("receivedMessages.length") == before + 1
    expect(crm.page.locator("#count")).to_have_text("0")


def test_records_are_found_and_opened_by_keyboard(crm: Crm) -> None:
    crm.open()
    page = crm.page
    expect(page.get_by_role("heading", name="Companies")).to_be_visible()
    page.get_by_role("link", name="People 2").press("Enter")
    expect(page.get_by_role("heading", name="People")).to_be_visible()
    page.get_by_label("Search").press_sequentially("beacon ann")
    expect(page.locator("#list tbody tr")).to_have_count(1)
    page.get_by_role("link", name="Ann Lee").press("Enter")
    expect(page.locator("#name")).to_have_text("Ann Lee")
    expect(page.locator("#initials")).to_have_text("AL")
    expect(page.get_by_role("link", name="People 2")).to_have_attribute("aria-current", "page")
    page.locator("#links").get_by_role("link", name="Beacon Foods").press("Enter")
    expect(page.locator("#name")).to_have_text("Beacon Foods")
    expect(page.locator("#links")).to_contain_text("ann@beacon.test")
    page.locator("#links").get_by_role("link", name="Fit-out").press("Enter")
    expect(page.locator("#fields")).to_contain_text("Primary contact")
    page.go_back()
    expect(page.locator("#name")).to_have_text("Beacon Foods")
    crm.open("#/contact/1")
    expect(page.get_by_text("There is no such record.")).to_be_visible()


def test_a_record_is_edited_in_place(crm: Crm) -> None:
    crm.open(f"#/contact/{crm.bob}")
    page = crm.page
    expect(page.locator("#name")).to_have_text("Bob <b>Moe</b>")
    page.get_by_role("button", name="Edit").press("Enter")
    expect(page.get_by_label("Name")).to_be_focused()
    page.get_by_label("Emails").fill("bob@beacon.test, b@home.test")
    page.get_by_label("Emails").press("Enter")
    expect(page.locator("#fields")).to_contain_text("b@home.test")
    emails = [email["email"] for email in crm.record("people", crm.bob)["emails"]]
    assert emails == ["bob@beacon.test", "b@home.test"]
    page.get_by_role("button", name="Edit").press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_label("Name")).to_have_count(1)
    expect(page.locator("#form")).to_be_hidden()


def test_a_record_page_has_its_custom_fields_with_formatted_values(crm: Crm) -> None:
    page = crm.page
    crm.open(f"#/contact/{crm.ann}")
    expect(page.locator("#name")).to_have_text("Ann Lee")
    expect(page.locator("#custom")).to_be_hidden()
    for name, data_type, value, options in (
        ("Xero overdue NZD", "Currency", 1234.5, {"currency": "NZD"}),
        ("Xero overdue JPY", "Currency", 0, {"currency": "JPY"}),
        ("Overdue since", "Date", "02/28/2026", {}),
        ("Score", "Float", 12345.678, {}),
        ("Discount", "Percentage", 12.5, {}),
        ("On hold", "Checkbox", False, {}),
        ("Note", "Text", "<b>bold</b>", {}),
        ("Ledger", "URL", "https://xero.test/?a=1", {}),
        ("Script", "URL", "javascript:alert(1)", {}),
        ("Limit", "Currency", None, {"currency": "USD"}),
        ("Paid on", "Date", None, {}),
    ):
        crm.fill("person", crm.ann, crm.define(name, data_type, **options), value)
    colour = crm.define("Colour", "MultiSelect", options=["Red", "Blue"])
    (definition,) = [entry for entry in crm.definitions() if entry["id"] == colour]
    crm.fill("person", crm.ann, colour, [option["id"] for option in definition["options"]])
    page.reload()
    expect(page.locator("#custom").get_by_role("heading", name="Custom fields")).to_be_visible()
    labels, values = (page.locator(f"#custom-fields {tag}").all_inner_texts() for tag in ("dt", "dd"))
    assert dict(zip(labels, values, strict=True)) == {
        "Xero overdue NZD": "NZ$1,234.50",
        "Xero overdue JPY": "JP¥0",
        "Overdue since": "28 Feb 2026",
        "Score": "12,345.678",
        "Discount": "12.5%",
        "On hold": "No",
        "Note": "<b>bold</b>",
        "Ledger": "https://xero.test/?a=1",
        "Script": "javascript:alert(1)",
        "Limit": "None",
        "Paid on": "None",
        "Colour": "RedBlue",
    }
    expect(page.locator("#custom-fields a")).to_have_attribute("href", "https://xero.test/?a=1")
    crm.open(f"#/deal/{crm.deal}")
    expect(page.locator("#name")).to_have_text("Fit-out")
    expect(page.locator("#custom")).to_be_hidden()


def test_what_is_overdue_in_xero_is_a_saved_list(crm: Crm) -> None:
    page = crm.page
    crm.open()
    expect(page.get_by_role("heading", name="Companies")).to_be_visible()
    saved = page.get_by_role("navigation", name="Saved lists")
    expect(saved).to_be_hidden()
    nzd = crm.define("Xero overdue NZD", "Currency", currency="NZD", canonical_name="patina_xero_overdue_nzd")
    usd = crm.define("Xero overdue USD", "Currency", currency="USD", canonical_name="patina_xero_overdue_usd")
    crm.fill("company", crm.company, nzd, 120.5)
    crm.fill("person", crm.ann, usd, 7)
    crm.fill("person", crm.bob, nzd, 0)

    page.get_by_role("link", name="People 2").press("Enter")
    saved.get_by_role("link", name="Xero overdue 2").press("Enter")
    expect(page.get_by_role("heading", name="Xero overdue")).to_be_visible()
    expect(saved.get_by_role("link")).to_have_attribute("aria-current", "page")
    tabs = page.get_by_role("navigation", name="Records in this list")
    expect(tabs.get_by_role("link", name="Companies 1")).to_have_attribute("aria-current", "page")
    expect(page.locator("#list thead th")).to_contain_text(["Name", "Xero overdue NZD", "Xero overdue USD"])
    expect(page.locator("#list tbody tr")).to_contain_text(["Beacon FoodsNZ$120.50"])
    tabs.get_by_role("link", name="People 1").press("Enter")
    expect(page.locator("#list tbody tr")).to_contain_text(["Ann LeeUS$7.00ann@beacon.test"])
    page.get_by_label("Search").fill("nobody")
    expect(page.get_by_text('No people match "nobody".')).to_be_visible()

    crm.fill("person", crm.ann, usd, None)
    page.get_by_label("Search").fill("")
    expect(page.get_by_text("No people are overdue.")).to_be_visible()
    expect(tabs.get_by_role("link", name="People 0")).to_be_visible()
    page.get_by_role("link", name="People 2").press("Enter")
    expect(page.locator("#list tbody tr")).to_have_count(2)
    expect(tabs).to_be_hidden()
    assert saved.get_by_role("link").get_attribute("aria-current") is None
    for field in (nzd, usd):
        crm.act("delete_field", field=field)
    crm.open("#/overdue/person")
    expect(page.get_by_text("No people are overdue.")).to_be_visible()
    expect(saved).to_be_hidden()


def test_the_page_fits_every_width_and_is_accessible_in_light_and_dark(crm: Crm) -> None:
    overdue = crm.define("Xero overdue NZD", "Currency", currency="NZD", canonical_name="patina_xero_overdue_nzd")
    crm.fill("company", crm.company, overdue, 120.5)
    for scheme in SCHEMES:
        crm.page.emulate_media(color_scheme=scheme)
        for address in ("", "#/overdue/company", f"#/organization/{crm.company}", f"#/contact/{crm.bob}"):
            crm.open(address)
            expect(crm.page.locator("h1:visible")).to_have_count(1)
            for width in (1280, 800, 390):
                crm.page.set_viewport_size({"width": width, "height": 844})
                assert crm.page.evaluate("document.documentElement.scrollWidth") <= width
            assert chromium.accessibility_faults(crm.page) == []


def test_a_list_is_loaded_fifty_rows_at_a_time(crm: Crm) -> None:
    for number in range(60):
        crm.make("lead", f"Lead {number:02d}")
    crm.open("#/list/lead")
    rows = crm.page.locator("#list tbody tr")
    expect(rows).to_have_count(50)
    crm.page.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(61)
    expect(crm.page.get_by_role("button", name="Show more")).to_be_hidden()
