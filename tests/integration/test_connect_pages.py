"""The pages for connecting and settings: every step, every error, and access control."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import text

from runtime.redis_client import shared_client
from runtime.settings import override_settings
from store.accounts import account_settings, accounts, copper_credentials, xero_organisations
from store.accounts.copper_credentials import CopperCredentials
from store.db.database import transaction
from store.db.enums import RecordType
from tests.support.admin import AdminBrowser, sign_in
from tests.support.databases import clear_budgets
from tests.support.serving import serving
from tests.support.world import Sandbox, World
from worker.sync import cleanup_tasks, run_processor
from worker.vendors.sync_types import RunKind

FORM = {"record_type": ["lead", "person"], "invoice_limit": "7", "visible": "everyone"}


@pytest.fixture(autouse=True)
def nobody_tried_before(database: str) -> None:
    """Reset the rate limits, because all tests have the same address."""
    clear_budgets("throttle")


@pytest.fixture
def new_admin(sandbox: Sandbox, web: httpx.Client) -> tuple[AdminBrowser, dict[str, str]]:
    """A browser at an installation without accounts, and a Copper admin's credentials."""
    copper_account = sandbox.simulate("add_account", name="Acme Sales")
    for number in (1, 2):
        sandbox.simulate("add_organisation", name=f"Acme Ltd {number}")
    return AdminBrowser(web), {"key": copper_account["api_key"], "email": copper_account["email"]}


@pytest.fixture
def admin(world: World) -> AdminBrowser:
    """A signed-in admin of the world's account."""
    return sign_in(world)


def count(table: str) -> int:
    with transaction() as session:
        return int(session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def audit_actions() -> list[str]:
    with transaction() as session:
        return list(session.execute(text("SELECT action FROM audit_log ORDER BY id")).scalars())


def test_an_admin_connects_selects_organisations_and_finishes(
    new_admin: tuple[AdminBrowser, dict[str, str]], sandbox: Sandbox, web: httpx.Client
) -> None:
    browser, credentials = new_admin
    page = browser.open("/")
    assert "Sign in or connect Copper" in page.text
    page = browser.sign_in(**credentials)
    assert page.url.path == "/connect/xero"
    assert sandbox.state()["accounts"][0]["subscriptions"] == 12

    page = browser.send("/connect/xero")
    assert page.url.path == "/connect/organisations", page.text
    tenants = re.findall(r'name="tenant" value="([^"]+)"', page.text)
    assert len(tenants) == 2
    for nothing in ({}, {"tenant": "no-such-organisation"}):
        refused = browser.send("/connect/organisations", nothing)
        assert (refused.status_code, "Select at least one" in refused.text) == (422, True)
    page = browser.send("/connect/organisations", tenant=tenants[0])
    assert (page.url.path, page.url.query) == ("/settings", b"setup=1")
    assert count("sync_run") == 2, "the import begins as soon as organisations are chosen"

    page = browser.send("/settings", FORM, setup="1", bill_type="lead")
    assert page.url.path == "/progress"
    assert 'http-equiv="refresh"' in page.text, "it refreshes while something is imported"
    assert count("sync_run") == 2, "nothing is imported twice"
    with transaction() as session:
        (account,) = accounts.list_accounts(session)
        saved = account_settings.get(session, account.id)
        organisations = xero_organisations.list_connected(session, account.id)
    assert (saved.record_types, saved.invoice_limit, saved.bill_record_types, saved.visible_to_teams) == (
        ("lead", "person"),
        7,
        (RecordType.LEAD,),
        None,
    )
    assert [str(organisation.tenant_id) for organisation in organisations] == [tenants[0]]
    for run in run_processor.start_account_runs(account.id, RunKind.BACKFILL):
        while run_processor.step(run.account_id, run.id).has_more:
            pass
    page = browser.open("/progress")
    assert "From now on, changes sync automatically" in page.text
    assert "Step 4 of 4: add the panel to Copper" in page.text
    assert "refresh" not in page.text
    assert {"copper.connected", "admin.signed_in", "organisation.connected", "settings.changed"} <= set(audit_actions())
    assert "Acme Ltd 1" in browser.open("/audit").text


def test_a_wrong_key_changes_nothing_and_the_page_says_what_to_check(
    new_admin: tuple[AdminBrowser, dict[str, str]],
) -> None:
    browser, credentials = new_admin
    for key, email in (
        ("wrong", credentials["email"]),
        (credentials["key"], "other@acme.test"),
        ("", ""),
        ("é", "é@x"),
        ("a\r\nX-Evil: 1", credentials["email"]),
    ):
        page = browser.sign_in(key, email)
        assert (page.status_code, "accept this API key and email address" in page.text) == (422, True)
    assert count("account") == count("browser_session") == 0


def test_an_unavailable_copper_is_distinguished_from_a_wrong_key(
    new_admin: tuple[AdminBrowser, dict[str, str]], sandbox: Sandbox
) -> None:
    browser, credentials = new_admin
    sandbox.faults(api=[{"vendor": "copper", "type": "status", "status": 503}])
    page = browser.sign_in(**credentials)
    assert (page.status_code, "Copper is unavailable right now" in page.text) == (503, True)
    assert count("account") == 0


def test_webhooks_that_could_not_be_created_are_created_on_the_next_attempt(
    new_admin: tuple[AdminBrowser, dict[str, str]], sandbox: Sandbox
) -> None:
    browser, credentials = new_admin
    sandbox.faults(api=[{"vendor": "copper", "path": "/webhooks", "type": "status", "status": 503}])
    assert browser.sign_in(**credentials).status_code == 503
    assert count("browser_session") == 0
    sandbox.faults()
    assert browser.sign_in(**credentials).url.path == "/connect/xero"
    assert sandbox.state()["accounts"][0]["subscriptions"] == 12


def test_signing_in_again_neither_subscribes_nor_connects_again(world: World) -> None:
    before = world.sandbox.state()["accounts"][0]["subscriptions"]
    page = sign_in(world).page
    assert page is not None
    assert page.url.path == "/settings"
    assert world.sandbox.state()["accounts"][0]["subscriptions"] == before == 12


@pytest.mark.parametrize(
    "path",
    ["/settings", "/keys", "/audit", "/disconnect", "/progress", "/connect/xero", "/connect/organisations"],
)
def test_admin_pages_redirect_other_users(world: World, path: str) -> None:
    assert AdminBrowser(world.web).open(path).url.path == "/connect"
    viewer = sign_in_with_copper(world, viewer_of(world))
    assert viewer.page is not None
    assert viewer.page.url.path == "/viewer"
    response = viewer.open(path)
    assert (response.status_code, "for admins" in response.text) == (403, True)


def viewer_of(world: World) -> str:
    return str(add_viewer(world)["email"])


def add_viewer(world: World) -> dict[str, Any]:
    return world.sandbox.simulate("add_user", account=world.copper, name="Vic Viewer")


def sign_in_with_copper(world: World, email: str, *, browser: AdminBrowser | None = None) -> AdminBrowser:
    """The OAuth flow of a browser: a redirect to Copper, and a cross-site POST back without our cookies."""
    browser = browser or AdminBrowser(world.web)
    browser.open("/connect")
    away = browser.send("/signin/copper", follow=False)
    page = httpx.get(f"{away.headers['location']}&login_hint={email}").text
    fields = dict(re.findall(r'name="(code|state)" value="([^"]*)"', page))
    posted = httpx.post(f"{world.web.base_url}/callback/copper", data=fields)
    assert posted.status_code == 303
    browser.open(posted.headers["location"])
    return browser


def test_a_user_who_was_made_an_admin_signs_in_as_one_until_that_is_revoked(world: World, admin: AdminBrowser) -> None:
    viewer = add_viewer(world)
    user, email = viewer["user"], viewer["email"]
    admin.open("/settings")
    admin.send("/admins", user=str(user), name="Vic")
    named = sign_in_with_copper(world, email)
    assert named.page is not None
    assert named.page.url.path == "/settings"

    admin.open("/settings")
    admin.send(f"/admins/{user}/remove")
    assert named.open("/settings").url.path == "/connect", "their sessions ended"
    assert {"admin.added", "admin.removed"} <= set(audit_actions())


def test_a_sign_in_started_in_another_browser_is_refused(world: World) -> None:
    email = viewer_of(world)
    attacker = AdminBrowser(world.web)
    attacker.open("/connect")
    away = attacker.send("/signin/copper", follow=False)
    page = httpx.get(f"{away.headers['location']}&login_hint={email}").text
    fields = dict(re.findall(r'name="(code|state)" value="([^"]*)"', page))
    posted = httpx.post(f"{world.web.base_url}/callback/copper", data=fields)

    victim = AdminBrowser(world.web)
    victim.open("/connect")
    response = victim.open(posted.headers["location"])
    assert (response.status_code, "another browser" in response.text) == (400, True)
    assert victim.open("/settings").url.path == "/connect"
    reopened = attacker.open(posted.headers["location"])
    assert (reopened.status_code, "already finished" in reopened.text) == (400, True)
    assert count("browser_session") == 0


# Xero's callback


def way_back(admin: AdminBrowser) -> str:
    """The URL to which Xero redirects after consent."""
    admin.open("/connect/xero")
    away = admin.send("/connect/xero", follow=False)
    location = httpx.get(away.headers["location"]).headers["location"]
    return str(location)


def test_a_state_is_valid_once_in_its_own_browser_for_ten_minutes(world: World, admin: AdminBrowser) -> None:
    grants = count("xero_grant")
    callback = way_back(admin)
    other_browser = sign_in(world)
    response = other_browser.open(callback)
    assert (response.status_code, "another browser" in response.text) == (400, True)
    assert admin.open(callback).status_code == 400, "whoever tried it, it is used"

    old = way_back(admin)
    with transaction() as session:
        session.execute(text("UPDATE oauth_state SET expires_at = now() - interval '1 s'"))
    response = admin.open(old)
    assert (response.status_code, "longer than ten minutes" in response.text) == (400, True)

    callback = way_back(admin)
    assert admin.open(callback).url.path == "/connect/organisations"
    assert admin.open(callback).status_code == 400, "a second use"
    assert count("xero_grant") == grants + 1

    made_up = f"/callback/xero?state=made-up&code={parse_qs(urlsplit(way_back(admin)).query)['code'][0]}"
    assert admin.open(made_up).status_code == 400
    assert count("xero_grant") == grants + 1


def test_consent_that_is_denied_connects_nothing(world: World, admin: AdminBrowser) -> None:
    world.sandbox.control("PUT", "app", json={"auto_consent": False})
    admin.open("/connect/xero")
    away = admin.send("/connect/xero", follow=False).headers["location"]
    callback = httpx.post(away, data={"answer": "cancel"}).headers["location"]
    grants = count("xero_grant")
    response = admin.open(callback)
    assert (response.status_code, "You didn&#39;t grant access in Xero" in response.text) == (400, True)
    assert count("xero_grant") == grants


# Forms


def test_a_form_without_csrf_token_or_from_another_site_changes_nothing(world: World, admin: AdminBrowser) -> None:
    admin.open("/settings")
    token = admin.csrf()
    tries = [
        ({"csrf": ""}, {}),
        ({}, {}),
        ({"csrf": token[:-1] + ("A" if token[-1] != "A" else "B")}, {}),
        ({"csrf": token}, {"origin": "https://evil.test"}),
        ({"csrf": token}, {"sec-fetch-site": "cross-site"}),
        ({"csrf": sign_in(world).csrf()}, {}),
    ]
    for values, headers in tries:
        response = admin.http.post("/settings", data={**FORM, **values}, headers=headers)
        assert response.status_code == 403, (values, headers)
    with transaction() as session:
        assert account_settings.get(session, world.account).invoice_limit == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"invoice_limit": "0"}, "1 to 50"),
        ({"invoice_limit": "51"}, "1 to 50"),
        ({"invoice_limit": "²"}, "1 to 50"),
        ({"invoice_limit": "9" * 5_000}, "1 to 50"),
        ({"invoice_limit": "٣"}, "1 to 50"),
        ({"invoice_limit": "\uff11"}, "1 to 50"),
        ({"invoice_limit": "-1"}, "1 to 50"),
        ({"invoice_limit": " "}, "1 to 50"),
        ({"invoice_limit": "1_0"}, "1 to 50"),
        ({"record_type": ["cat"]}, "Choose from leads"),
        ({"visible": "teams"}, "at least one team"),
        ({"visible": "teams", "team": ["x"]}, "at least one team"),
        ({"visible": "teams", "team": ["²"]}, "at least one team"),
        ({"visible": "teams", "team": ["9" * 30]}, "at least one team"),
        ({"visible": "nobody"}, "Choose who can see invoices"),
    ],
)
def test_invalid_settings_are_reported_and_change_nothing(
    world: World, admin: AdminBrowser, values: dict[str, object], message: str
) -> None:
    admin.open("/settings")
    response = admin.send("/settings", {**FORM, **values})
    assert (response.status_code, message in response.text) == (422, True)
    with transaction() as session:
        saved = account_settings.get(session, world.account)
    assert (saved.invoice_limit, len(saved.record_types)) == (5, 4)


def test_settings_take_effect_on_the_next_read(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    for _ in range(3):
        world.invoice("ann@acme.test")
    world.settle()
    admin.open("/settings")
    admin.send("/settings", {**FORM, "invoice_limit": "2", "visible": "teams", "team": ["1"]})
    assert len(world.read("people", person).json()["invoices"]) == 2
    page = admin.open("/settings")
    assert re.search(r'name="team" value="1" checked', page.text), "Copper's teams are offered"
    admin.send("/settings", {**FORM, "record_type": ["company"]})
    assert world.read("people", person).json()["invoices"] == []


# Keys


def test_a_key_is_shown_once_and_revocation_is_immediate(world: World, admin: AdminBrowser) -> None:
    admin.open("/keys")
    page = admin.send("/keys", name="The CRM", scope="read")
    key = one_time_secret(page)
    assert key not in admin.open("/keys").text
    headers = {"Authorization": f"Bearer {key}"}
    assert world.web.get("/v1/people/1/invoices", headers=headers).status_code == 200

    number = re.findall(r'href="/keys/(\d+)/revoke"', admin.open("/keys").text)[-1]
    admin.open(f"/keys/{number}/revoke")
    admin.send(f"/keys/{number}/revoke")
    assert world.web.get("/v1/people/1/invoices", headers=headers).status_code == 401
    assert admin.send(f"/keys/{number}/revoke").status_code == 404
    assert {"key.created", "key.revoked"} <= set(audit_actions())


def one_time_secret(page: httpx.Response) -> str:
    """The key, or the panel's URL, that a page shows."""
    match = re.search(r'<code id="secret"[^>]*>([^<]+)</code>', page.text)
    assert match, page.text
    return unescape(match[1])


def test_a_key_with_another_scope_is_refused_by_the_api(world: World, admin: AdminBrowser) -> None:
    admin.open("/keys")
    assert admin.send("/keys", name="x", scope="root").status_code == 422
    assert world.read("people", 1).status_code == 200
    with transaction() as session:
        session.execute(text("UPDATE api_key SET scopes = '{other}'"))
    assert world.read("people", 1).status_code == 401


def test_the_last_use_of_a_key_is_recorded_with_a_delay(world: World, admin: AdminBrowser) -> None:
    from tests.support.serving import wait_until

    world.read("people", 1)
    wait_until(lambda: 'data-label="last used "><time' in admin.open("/keys").text, description="the key's last use")


# Organisations, reconnecting, the Copper key


def test_an_organisation_is_added_and_removed_again(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    second_tenant = world.sandbox.simulate("add_organisation", name="Second Ltd")["tenant"]
    contact = world.sandbox.simulate("create_contact", name="Ann", email="ann@acme.test", tenant=second_tenant)[
        "contact"
    ]
    added = world.sandbox.simulate("create_invoice", contact=contact, number="SECOND-1")
    world.settle()
    world.sandbox.control("PUT", "app", json={"consent_tenant_ids": [*world.tenants, second_tenant]})
    admin.open("/connect/xero")
    admin.send("/connect/xero")
    page = admin.send("/connect/organisations", tenant=second_tenant)
    assert page.url.path == "/progress"
    world.backfill()
    assert set(world.invoice_numbers("people", person)) == {invoice.number, added["number"]}

    page = admin.open("/settings")
    number = re.findall(r'href="/organisations/(\d+)/remove"', page.text)[-1]
    page = admin.open(f"/organisations/{number}/remove")
    assert "1 invoice of Second Ltd, now on 1 record in Copper" in page.text
    page = admin.send(f"/organisations/{number}/remove")
    assert (page.url.path, "Second Ltd removed." in page.text) == ("/settings", True)
    assert world.invoice_numbers("people", person) == [invoice.number], "its rows are gone at once"
    assert world.compare().is_clean
    assert cleanup_tasks.run_due() == 2
    assert world.invoice_numbers("people", person) == [invoice.number]
    assert world.compare().is_clean
    assert "Second Ltd" not in admin.open("/settings").text
    assert count("xero_invoice") == 1
    world.invoice("ann@acme.test")
    world.settle()
    assert len(world.invoice_numbers("people", person)) == 2, "the other one goes on"
    assert admin.send(f"/organisations/{number}/remove").status_code == 404


def test_a_lost_connection_is_shown_and_restored_in_two_clicks(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    world.settle()
    world.sandbox.simulate("disconnect", tenant=world.tenants[0])
    invoice = world.invoice(contact)
    world.settle_once()
    page = admin.open("/settings")
    assert "Disconnected in Xero" in page.text
    assert "is disconnected. Reconnect it to resume syncing." in page.text

    admin.open("/connect/xero")
    page = admin.send("/connect/xero")
    admin.send("/connect/organisations", tenant=world.tenants[0])
    world.settle()
    assert world.invoice_numbers("people", person) == [invoice.number]
    assert "Disconnected" not in admin.open("/settings").text


def keys_of(*account_ids: int) -> list[CopperCredentials]:
    with transaction() as session:
        return [copper_credentials.get(session, account_id) for account_id in account_ids]


def test_the_copper_key_can_only_be_replaced_by_one_of_the_same_account(world: World, admin: AdminBrowser) -> None:
    other_account = world.sandbox.simulate("add_account", name="Another")
    admin.open("/settings")
    response = admin.send("/copper/key", key=other_account["api_key"], email=other_account["email"])
    assert (response.status_code, "another Copper account" in response.text) == (422, True)

    connected = World(world.sandbox, world.web).open(name="Other Sales").account
    before = keys_of(world.account, connected)
    admin.open("/settings")
    response = admin.send("/copper/key", key=before[1].api_key, email=before[1].email)
    assert (response.status_code, "another Copper account" in response.text) == (422, True), (
        "also one that is known here"
    )
    assert keys_of(world.account, connected) == before

    second = world.sandbox.simulate("add_user", account=world.copper, name="Second Admin", admin=True)
    admin.open("/settings")
    admin.send("/copper/key", key=second["api_key"], email=second["email"])
    while cleanup_tasks.run_due():
        pass
    assert world.sandbox.state()["accounts"][0]["subscriptions"] == 12, "the old key's subscriptions are gone"
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    assert world.invoice_numbers("people", person) == [invoice.number]


# Disconnecting


def test_disconnecting_requires_the_account_name_and_leaves_nothing_behind(world: World, admin: AdminBrowser) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    other_world = World(world.sandbox, world.web).open(name="Other Sales")
    kept_person = other_world.person("ann@acme.test")
    invoice = other_world.invoice("ann@acme.test")
    other_world.settle()
    page = admin.open("/disconnect")
    assert "1 record and 1 invoice" in page.text
    response = admin.send("/disconnect", name="acme")
    assert (response.status_code, count("account")) == (422, 2)

    page = admin.send("/disconnect", name="Acme Sales")
    assert (page.url.path, "Your account is disconnected" in page.text) == ("/disconnected", True)
    assert admin.open("/disconnected").url.path == "/connect", "it is said once"
    assert world.read("people", 1).status_code == 401
    assert admin.open("/settings").url.path == "/connect"
    while cleanup_tasks.run_due():
        pass
    copper_account = next(
        account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper
    )
    assert copper_account["subscriptions"] == 0
    with transaction() as session:
        tables = session.execute(
            text(
                "SELECT table_name FROM information_schema.columns WHERE column_name = 'account_id'"
                " AND table_schema = 'public'"
            )
        ).scalars()
        remaining = {
            table: session.execute(
                text(f"SELECT count(*) FROM {table} WHERE account_id = :a"), {"a": world.account}
            ).scalar_one()
            for table in tables
        }
    assert not any(remaining.values()), remaining
    assert other_world.invoice_numbers("people", kept_person) == [invoice.number], "another account does not notice"
    other_world.check()


def test_an_unavailable_vendor_does_not_prevent_disconnecting(world: World, admin: AdminBrowser) -> None:
    down = [{"vendor": vendor, "type": "status", "status": 503} for vendor in ("xero", "copper")]
    world.sandbox.faults(api=down)
    admin.open("/disconnect")
    assert admin.send("/disconnect", name="Acme Sales").url.path == "/disconnected"
    assert world.read("people", 1).status_code == 401
    assert cleanup_tasks.run_due() == 1, "the data goes, the vendors are told later"
    assert count("cleanup_task") == 2

    world.sandbox.faults()
    with transaction() as session:
        session.execute(text("UPDATE cleanup_task SET not_before = now()"))
    assert cleanup_tasks.run_due() == 2
    assert count("cleanup_task") == 0
    assert world.sandbox.state()["accounts"][0]["subscriptions"] == 0


# Headers, limits


def test_every_page_has_its_security_headers(world: World, admin: AdminBrowser) -> None:
    for path in ("/connect", "/settings", "/keys", "/v1/people/1/invoices", "/nowhere"):
        headers = admin.open(path).headers
        assert "script-src" not in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    assert "<script" not in admin.open("/settings").text
    assert "'unsafe-inline'" not in admin.open("/docs").headers["content-security-policy"].split("style-src")[0]
    assert "strict-transport-security" not in admin.open("/connect").headers


def test_cookies_are_signed_and_httponly(world: World, admin: AdminBrowser) -> None:
    browser = AdminBrowser(world.web)
    browser.open("/connect")
    state = world.sandbox.state()["accounts"][0]
    response = browser.send("/connect", follow=False, key=state["api_key"], email=state["email"])
    cookies = response.headers.get_list("set-cookie")
    assert all("HttpOnly" in cookie and "SameSite=lax" in cookie and "Path=/" in cookie for cookie in cookies)

    name = "patina-session"
    value = admin.http.cookies[name]
    forged = value[:-2] + ("AA" if not value.endswith("AA") else "BB")
    response = admin.http.get("/settings", headers={"cookie": f"{name}={forged}"})
    assert response.headers["location"] == "/connect"


def test_every_sign_in_creates_a_new_session_and_signing_out_ends_it(world: World, admin: AdminBrowser) -> None:
    first = admin.http.cookies["patina-session"]
    state = world.sandbox.state()["accounts"][0]
    admin.sign_in(state["api_key"], state["email"])
    assert admin.http.cookies["patina-session"] != first
    token = admin.http.cookies["patina-session"]
    admin.open("/settings")
    admin.send("/signout")
    assert admin.http.get("/settings", headers={"cookie": f"patina-session={token}"}).status_code == 303


def test_sign_in_attempts_are_limited(new_admin: tuple[AdminBrowser, dict[str, str]]) -> None:
    browser, credentials = new_admin
    responses = [browser.sign_in(f"wrong-{number}", credentials["email"]) for number in range(16)]
    assert [response.status_code for response in responses[:10]] == [422] * 10
    refused = [response for response in responses if response.status_code == 429]
    assert refused
    assert 0 < int(refused[0].headers["retry-after"]) <= 60
    assert count("account") == 0
    assert shared_client().ping()


def test_calls_of_the_api_are_limited_by_key(world: World, no_counts: None) -> None:
    override_settings({"API_REQUESTS_PER_MINUTE": "3"})
    responses = [world.web.get("/v1/people/1/invoices", headers={"Authorization": "Bearer x-1"}) for _ in range(4)]
    assert [response.status_code for response in responses] == [401, 401, 401, 429]
    assert responses[-1].headers["content-type"] == "application/problem+json"
    assert 0 < int(responses[-1].headers["retry-after"]) <= 60


def test_behind_tls_cookies_are_secure_and_hsts_is_sent(world: World) -> None:
    from web.app import create

    override_settings({"PUBLIC_URL": "https://patina.example"})
    with serving(create()) as url, httpx.Client(base_url=url) as plain:
        response = plain.get("/connect")
    assert response.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
    (cookie,) = response.headers.get_list("set-cookie")
    assert cookie.startswith("__Host-patina-browser=")
    assert "Secure" in cookie
    assert "Domain" not in cookie


def test_no_redirect_leaves_the_site(world: World, admin: AdminBrowser) -> None:
    for path in ("//evil.test", "/connect?next=https://evil.test", "/settings?setup=https://evil.test", "/static/x"):
        response = admin.http.get(path)
        assert response.headers.get("location", "/").startswith("/"), path
        assert not response.headers.get("location", "/").startswith("//"), path
