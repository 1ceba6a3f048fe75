"""Connecting and settings in a browser: every step, every refusal, and nobody else gets in."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import text

from runtime.settings import override
from store import accounts
from store.accounts import CopperAccess
from store.database import transaction
from tests.admin import AdminBrowser
from tests.databases import forget_budgets
from tests.serving import serving
from tests.world import Sandbox, World
from worker import leftovers, sync
from worker.broker import client
from worker.steps import Kind

FORM = {"record_type": ["lead", "person"], "shown": "7", "visible": "everyone"}


@pytest.fixture(autouse=True)
def nobody_tried_before(database: str) -> None:
    """Tries to sign in are counted by address, and all tests have the same."""
    forget_budgets("throttle")


@pytest.fixture
def fresh(sandbox: Sandbox, web: httpx.Client) -> tuple[AdminBrowser, dict[str, str]]:
    """A browser in front of a Patina where nobody has connected, and a Copper admin's key."""
    made = sandbox.act("add_account", name="Acme Sales")
    for number in (1, 2):
        sandbox.act("add_organisation", name=f"Acme Ltd {number}")
    return AdminBrowser(web), {"key": made["api_key"], "email": made["email"]}


@pytest.fixture
def admin(world: World) -> AdminBrowser:
    """A signed-in admin of the world's account."""
    return sign_in(world)


def sign_in(world: World) -> AdminBrowser:
    state = next(one for one in world.sandbox.state()["accounts"] if one["account"] == world.copper)
    browser = AdminBrowser(world.web)
    assert browser.sign_in(state["api_key"], state["email"]).status_code == 200
    return browser


def count(table: str) -> int:
    with transaction() as session:
        return int(session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def audited() -> list[str]:
    with transaction() as session:
        return list(session.execute(text("SELECT action FROM audit ORDER BY id")).scalars())


def test_an_admin_connects_chooses_and_is_done(
    fresh: tuple[AdminBrowser, dict[str, str]], sandbox: Sandbox, web: httpx.Client
) -> None:
    browser, credentials = fresh
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
    assert (page.url.path, page.url.query) == ("/settings", b"first=1")
    assert count("sync_run") == 2, "the import begins as soon as organisations are chosen"

    page = browser.send("/settings", FORM, first="1", bills="1")
    assert page.url.path == "/progress"
    assert 'http-equiv="refresh"' in page.text, "it refreshes while something is imported"
    assert count("sync_run") == 2, "nothing is imported twice"
    with transaction() as session:
        (account,) = accounts.accounts(session)
        chosen = accounts.choices(session, account.id)
        organisations = accounts.organisations(session, account.id)
    assert (chosen.record_types, chosen.shown, chosen.show_bills, chosen.visible_to_teams) == (
        ("lead", "person"),
        7,
        True,
        None,
    )
    assert [str(one.tenant_id) for one in organisations] == [tenants[0]]
    for run in sync.begin(account.id, Kind.BACKFILL):
        while sync.step(run.account_id, run.id).more:
            pass
    page = browser.open("/progress")
    assert "From now on, changes sync automatically" in page.text
    assert "Step 4 of 4: add the panel to Copper" in page.text
    assert "refresh" not in page.text
    assert {"copper.connected", "admin.signed_in", "organisation.connected", "settings.changed"} <= set(audited())
    assert "Acme Ltd 1" in browser.open("/trail").text


def test_a_wrong_key_changes_nothing_and_says_what_to_check(fresh: tuple[AdminBrowser, dict[str, str]]) -> None:
    browser, credentials = fresh
    for key, email in (
        ("wrong", credentials["email"]),
        (credentials["key"], "other@acme.test"),
        ("", ""),
        ("é", "é@x"),
        ("a\r\nX-Evil: 1", credentials["email"]),
    ):
        page = browser.sign_in(key, email)
        assert (page.status_code, "accept this API key and email address" in page.text) == (422, True)
    assert count("account") == count("web_session") == 0


def test_copper_being_away_is_told_apart_from_a_wrong_key(
    fresh: tuple[AdminBrowser, dict[str, str]], sandbox: Sandbox
) -> None:
    browser, credentials = fresh
    sandbox.faults(api=[{"vendor": "copper", "kind": "status", "status": 503}])
    page = browser.sign_in(**credentials)
    assert (page.status_code, "Copper does not answer at the moment" in page.text) == (503, True)
    assert count("account") == 0


def test_webhooks_that_could_not_be_made_are_made_with_the_next_try(
    fresh: tuple[AdminBrowser, dict[str, str]], sandbox: Sandbox
) -> None:
    browser, credentials = fresh
    sandbox.faults(api=[{"vendor": "copper", "path": "/webhooks", "kind": "status", "status": 503}])
    assert browser.sign_in(**credentials).status_code == 503
    assert count("web_session") == 0
    sandbox.faults()
    assert browser.sign_in(**credentials).url.path == "/connect/xero"
    assert sandbox.state()["accounts"][0]["subscriptions"] == 12


def test_signing_in_again_neither_subscribes_nor_connects_anew(world: World) -> None:
    before = world.sandbox.state()["accounts"][0]["subscriptions"]
    page = sign_in(world).page
    assert page is not None
    assert page.url.path == "/settings"
    assert world.sandbox.state()["accounts"][0]["subscriptions"] == before == 12


@pytest.mark.parametrize(
    "path",
    ["/settings", "/keys", "/trail", "/disconnect", "/progress", "/connect/xero", "/connect/organisations"],
)
def test_pages_for_admins_send_others_away(world: World, path: str) -> None:
    assert AdminBrowser(world.web).open(path).url.path == "/connect"
    viewer = sign_in_with_copper(world, viewer_of(world))
    assert viewer.page is not None
    assert viewer.page.url.path == "/viewer"
    answer = viewer.open(path)
    assert (answer.status_code, "for admins" in answer.text) == (403, True)


def viewer_of(world: World) -> str:
    return str(add_viewer(world)["email"])


def add_viewer(world: World) -> dict[str, Any]:
    return world.sandbox.act("add_user", account=world.copper, name="Vic Viewer")


def sign_in_with_copper(world: World, email: str, *, browser: AdminBrowser | None = None) -> AdminBrowser:
    """The dance as a browser does it: there by a redirect, back by a cross-site POST without our cookies."""
    browser = browser or AdminBrowser(world.web)
    browser.open("/connect")
    away = browser.send("/signin/copper", follow=False)
    page = httpx.get(f"{away.headers['location']}&login_hint={email}").text
    fields = dict(re.findall(r'name="(code|state)" value="([^"]*)"', page))
    posted = httpx.post(f"{world.web.base_url}/callback/copper", data=fields)
    assert posted.status_code == 303
    browser.open(posted.headers["location"])
    return browser


def test_a_user_whom_an_admin_named_signs_in_as_one_until_that_is_taken_back(world: World, admin: AdminBrowser) -> None:
    made = add_viewer(world)
    user, email = made["user"], made["email"]
    admin.open("/settings")
    admin.send("/admins", user=str(user), name="Vic")
    named = sign_in_with_copper(world, email)
    assert named.page is not None
    assert named.page.url.path == "/settings"

    admin.open("/settings")
    admin.send(f"/admins/{user}/remove")
    assert named.open("/settings").url.path == "/connect", "their sessions ended"
    assert {"admin.named", "admin.removed"} <= set(audited())


def test_a_sign_in_that_another_browser_began_is_refused(world: World) -> None:
    email = viewer_of(world)
    attacker = AdminBrowser(world.web)
    attacker.open("/connect")
    away = attacker.send("/signin/copper", follow=False)
    page = httpx.get(f"{away.headers['location']}&login_hint={email}").text
    fields = dict(re.findall(r'name="(code|state)" value="([^"]*)"', page))
    posted = httpx.post(f"{world.web.base_url}/callback/copper", data=fields)

    victim = AdminBrowser(world.web)
    victim.open("/connect")
    answer = victim.open(posted.headers["location"])
    assert (answer.status_code, "another browser" in answer.text) == (400, True)
    assert victim.open("/settings").url.path == "/connect"
    again = attacker.open(posted.headers["location"])
    assert (again.status_code, "finished already" in again.text) == (400, True)
    assert count("web_session") == 0


# Xero's way back


def way_back(admin: AdminBrowser) -> str:
    """Where Xero sends the browser after consent."""
    admin.open("/connect/xero")
    away = admin.send("/connect/xero", follow=False)
    location = httpx.get(away.headers["location"]).headers["location"]
    return str(location)


def test_a_state_works_once_in_its_own_browser_within_ten_minutes(world: World, admin: AdminBrowser) -> None:
    grants = count("xero_grant")
    back = way_back(admin)
    other = sign_in(world)
    answer = other.open(back)
    assert (answer.status_code, "another browser" in answer.text) == (400, True)
    assert admin.open(back).status_code == 400, "whoever tried it, it is used"

    old = way_back(admin)
    with transaction() as session:
        session.execute(text("UPDATE oauth_state SET expires_at = now() - interval '1 s'"))
    answer = admin.open(old)
    assert (answer.status_code, "longer than ten minutes" in answer.text) == (400, True)

    good = way_back(admin)
    assert admin.open(good).url.path == "/connect/organisations"
    assert admin.open(good).status_code == 400, "a second use"
    assert count("xero_grant") == grants + 1

    made_up = f"/callback/xero?state=made-up&code={parse_qs(urlsplit(way_back(admin)).query)['code'][0]}"
    assert admin.open(made_up).status_code == 400
    assert count("xero_grant") == grants + 1


def test_consent_that_is_denied_connects_nothing(world: World, admin: AdminBrowser) -> None:
    world.sandbox.control("PUT", "app", json={"auto_consent": False})
    admin.open("/connect/xero")
    away = admin.send("/connect/xero", follow=False).headers["location"]
    back = httpx.post(away, data={"answer": "cancel"}).headers["location"]
    grants = count("xero_grant")
    answer = admin.open(back)
    assert (answer.status_code, "You didn&#39;t grant access in Xero" in answer.text) == (400, True)
    assert count("xero_grant") == grants


# Forms


def test_a_form_without_its_token_or_from_another_site_changes_nothing(world: World, admin: AdminBrowser) -> None:
    admin.open("/settings")
    right = admin.csrf()
    tries = [
        ({"csrf": ""}, {}),
        ({}, {}),
        ({"csrf": right[:-1] + ("A" if right[-1] != "A" else "B")}, {}),
        ({"csrf": right}, {"origin": "https://evil.test"}),
        ({"csrf": right}, {"sec-fetch-site": "cross-site"}),
        ({"csrf": sign_in(world).csrf()}, {}),
    ]
    for values, headers in tries:
        answer = admin.http.post("/settings", data={**FORM, **values}, headers=headers)
        assert answer.status_code == 403, (values, headers)
    with transaction() as session:
        assert accounts.choices(session, world.account).shown == 5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shown": "0"}, "1 to 50"),
        ({"shown": "51"}, "1 to 50"),
        ({"shown": "²"}, "1 to 50"),
        ({"shown": "9" * 5_000}, "1 to 50"),
        ({"shown": "٣"}, "1 to 50"),
        ({"shown": "\uff11"}, "1 to 50"),
        ({"shown": "-1"}, "1 to 50"),
        ({"shown": " "}, "1 to 50"),
        ({"shown": "1_0"}, "1 to 50"),
        ({"record_type": ["cat"]}, "Choose from leads"),
        ({"visible": "teams"}, "at least one team"),
        ({"visible": "teams", "team": ["x"]}, "at least one team"),
        ({"visible": "teams", "team": ["²"]}, "at least one team"),
        ({"visible": "teams", "team": ["9" * 30]}, "at least one team"),
        ({"visible": "nobody"}, "Choose who can see invoices"),
    ],
)
def test_settings_that_make_no_sense_are_named_and_change_nothing(
    world: World, admin: AdminBrowser, values: dict[str, object], said: str
) -> None:
    admin.open("/settings")
    answer = admin.send("/settings", {**FORM, **values})
    assert (answer.status_code, said in answer.text) == (422, True)
    with transaction() as session:
        chosen = accounts.choices(session, world.account)
    assert (chosen.shown, len(chosen.record_types)) == (5, 4)


def test_settings_take_effect_with_the_next_read(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    for _ in range(3):
        world.invoice("ann@acme.test")
    world.settle()
    admin.open("/settings")
    admin.send("/settings", {**FORM, "shown": "2", "visible": "teams", "team": ["1"]})
    assert len(world.read("people", person).json()["invoices"]) == 2
    page = admin.open("/settings")
    assert re.search(r'name="team" value="1" checked', page.text), "Copper's teams are offered"
    admin.send("/settings", {**FORM, "record_type": ["company"]})
    assert world.read("people", person).json()["invoices"] == []


# Keys


def test_a_key_is_shown_once_and_revoked_at_once(world: World, admin: AdminBrowser) -> None:
    admin.open("/keys")
    page = admin.send("/keys", name="The CRM", scope="read")
    key = shown_once(page)
    assert key not in admin.open("/keys").text
    headers = {"Authorization": f"Bearer {key}"}
    assert world.web.get("/v1/people/1/invoices", headers=headers).status_code == 200

    number = re.findall(r'href="/keys/(\d+)/revoke"', admin.open("/keys").text)[-1]
    admin.open(f"/keys/{number}/revoke")
    admin.send(f"/keys/{number}/revoke")
    assert world.web.get("/v1/people/1/invoices", headers=headers).status_code == 401
    assert admin.send(f"/keys/{number}/revoke").status_code == 404
    assert {"key.made", "key.revoked"} <= set(audited())


def shown_once(page: httpx.Response) -> str:
    """The key, or the panel's URL, that a page shows."""
    found = re.search(r'<code id="secret"[^>]*>([^<]+)</code>', page.text)
    assert found, page.text
    return unescape(found[1])


def test_a_key_of_another_scope_does_not_open_the_api(world: World, admin: AdminBrowser) -> None:
    admin.open("/keys")
    assert admin.send("/keys", name="x", scope="root").status_code == 422
    assert world.read("people", 1).status_code == 200
    with transaction() as session:
        session.execute(text("UPDATE api_key SET scopes = '{other}'"))
    assert world.read("people", 1).status_code == 401


def test_the_use_of_a_key_is_noted_in_a_while(world: World, admin: AdminBrowser) -> None:
    from tests.serving import wait_until

    world.read("people", 1)
    wait_until(lambda: 'data-label="last used "><time' in admin.open("/keys").text, what="the key's last use")


# Organisations, reconnecting, the Copper key


def test_an_organisation_is_added_and_dropped_again(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    kept = world.invoice("ann@acme.test")
    other = world.sandbox.act("add_organisation", name="Second Ltd")["tenant"]
    contact = world.sandbox.act("make_contact", name="Ann", email="ann@acme.test", tenant=other)["contact"]
    added = world.sandbox.act("make_invoice", contact=contact, number="SECOND-1")
    world.settle()
    world.sandbox.control("PUT", "app", json={"consent_to": [*world.tenants, other]})
    admin.open("/connect/xero")
    admin.send("/connect/xero")
    page = admin.send("/connect/organisations", tenant=other)
    assert page.url.path == "/progress"
    world.backfill()
    assert set(world.shown("people", person)) == {kept.number, added["number"]}

    page = admin.open("/settings")
    number = re.findall(r'href="/organisations/(\d+)/drop"', page.text)[-1]
    page = admin.open(f"/organisations/{number}/drop")
    assert "1 invoice of Second Ltd, now on 1 record in Copper" in page.text
    page = admin.send(f"/organisations/{number}/drop")
    assert (page.url.path, "Second Ltd removed." in page.text) == ("/settings", True)
    assert world.shown("people", person) == [kept.number], "its rows are gone at once"
    assert world.compare().clean
    assert leftovers.clean_up() == 2
    assert world.shown("people", person) == [kept.number]
    assert world.compare().clean
    assert "Second Ltd" not in admin.open("/settings").text
    assert count("invoice") == 1
    world.invoice("ann@acme.test")
    world.settle()
    assert len(world.shown("people", person)) == 2, "the other one goes on"
    assert admin.send(f"/organisations/{number}/drop").status_code == 404


def test_a_dead_connection_says_so_and_is_back_in_two_clicks(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    world.settle()
    world.sandbox.act("disconnect", tenant=world.tenants[0])
    invoice = world.invoice(contact)
    world.settle_without_end()
    page = admin.open("/settings")
    assert "Disconnected in Xero" in page.text
    assert "is disconnected. Reconnect it to resume syncing." in page.text

    admin.open("/connect/xero")
    page = admin.send("/connect/xero")
    admin.send("/connect/organisations", tenant=world.tenants[0])
    world.settle()
    assert world.shown("people", person) == [invoice.number]
    assert "Disconnected" not in admin.open("/settings").text


def keys_of(*account_ids: int) -> list[CopperAccess]:
    with transaction() as session:
        return [accounts.copper_access(session, account_id) for account_id in account_ids]


def test_the_copper_key_is_replaced_by_another_one_of_the_same_account_only(world: World, admin: AdminBrowser) -> None:
    other = world.sandbox.act("add_account", name="Another")
    admin.open("/settings")
    answer = admin.send("/copper/key", key=other["api_key"], email=other["email"])
    assert (answer.status_code, "another Copper account" in answer.text) == (422, True)

    connected = World(world.sandbox, world.web).open(name="Other Sales").account
    before = keys_of(world.account, connected)
    admin.open("/settings")
    answer = admin.send("/copper/key", key=before[1].api_key, email=before[1].email)
    assert (answer.status_code, "another Copper account" in answer.text) == (422, True), "also one that is known here"
    assert keys_of(world.account, connected) == before

    second = world.sandbox.act("add_user", account=world.copper, name="Second Admin", admin=True)
    admin.open("/settings")
    admin.send("/copper/key", key=second["api_key"], email=second["email"])
    while leftovers.clean_up():
        pass
    assert world.sandbox.state()["accounts"][0]["subscriptions"] == 12, "the old key's subscriptions are gone"
    person = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test")
    world.settle()
    assert world.shown("people", person) == [invoice.number]


# Disconnecting


def test_disconnecting_needs_the_accounts_name_and_leaves_nothing(world: World, admin: AdminBrowser) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    other = World(world.sandbox, world.web).open(name="Other Sales")
    kept = other.person("ann@acme.test")
    invoice = other.invoice("ann@acme.test")
    other.settle()
    page = admin.open("/disconnect")
    assert "1 record and 1 invoice" in page.text
    answer = admin.send("/disconnect", name="acme")
    assert (answer.status_code, count("account")) == (422, 2)

    page = admin.send("/disconnect", name="Acme Sales")
    assert (page.url.path, "Your account is disconnected" in page.text) == ("/goodbye", True)
    assert admin.open("/goodbye").url.path == "/connect", "it is said once"
    assert world.read("people", 1).status_code == 401
    assert admin.open("/settings").url.path == "/connect"
    while leftovers.clean_up():
        pass
    mine = next(one for one in world.sandbox.state()["accounts"] if one["account"] == world.copper)
    assert mine["subscriptions"] == 0
    with transaction() as session:
        tables = session.execute(
            text(
                "SELECT table_name FROM information_schema.columns WHERE column_name = 'account_id'"
                " AND table_schema = 'public'"
            )
        ).scalars()
        left = {
            table: session.execute(
                text(f"SELECT count(*) FROM {table} WHERE account_id = :a"), {"a": world.account}
            ).scalar_one()
            for table in tables
        }
    assert not any(left.values()), left
    assert other.shown("people", kept) == [invoice.number], "another account does not notice"
    other.check()


def test_a_vendor_that_is_away_does_not_keep_our_side_open(world: World, admin: AdminBrowser) -> None:
    down = [{"vendor": one, "kind": "status", "status": 503} for one in ("xero", "copper")]
    world.sandbox.faults(api=down)
    admin.open("/disconnect")
    assert admin.send("/disconnect", name="Acme Sales").url.path == "/goodbye"
    assert world.read("people", 1).status_code == 401
    assert leftovers.clean_up() == 1, "the data goes, the vendors are told later"
    assert count("leftover") == 2

    world.sandbox.faults()
    with transaction() as session:
        session.execute(text("UPDATE leftover SET not_before = now()"))
    assert leftovers.clean_up() == 2
    assert count("leftover") == 0
    assert world.sandbox.state()["accounts"][0]["subscriptions"] == 0


# Headers, limits


def test_every_page_carries_its_guard(world: World, admin: AdminBrowser) -> None:
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


def test_cookies_are_signed_and_out_of_reach_of_scripts(world: World, admin: AdminBrowser) -> None:
    browser = AdminBrowser(world.web)
    browser.open("/connect")
    state = world.sandbox.state()["accounts"][0]
    answer = browser.send("/connect", follow=False, key=state["api_key"], email=state["email"])
    cookies = answer.headers.get_list("set-cookie")
    assert all("HttpOnly" in one and "SameSite=lax" in one and "Path=/" in one for one in cookies)

    name = "patina-session"
    value = admin.http.cookies[name]
    forged = value[:-2] + ("AA" if not value.endswith("AA") else "BB")
    answer = admin.http.get("/settings", headers={"cookie": f"{name}={forged}"})
    assert answer.headers["location"] == "/connect"


def test_a_session_is_new_with_every_sign_in_and_ends_when_it_is_signed_out(world: World, admin: AdminBrowser) -> None:
    first = admin.http.cookies["patina-session"]
    state = world.sandbox.state()["accounts"][0]
    admin.sign_in(state["api_key"], state["email"])
    assert admin.http.cookies["patina-session"] != first
    token = admin.http.cookies["patina-session"]
    admin.open("/settings")
    admin.send("/signout")
    assert admin.http.get("/settings", headers={"cookie": f"patina-session={token}"}).status_code == 303


def test_tries_to_sign_in_are_limited(fresh: tuple[AdminBrowser, dict[str, str]]) -> None:
    browser, credentials = fresh
    answers = [browser.sign_in(f"wrong-{number}", credentials["email"]) for number in range(16)]
    assert [answer.status_code for answer in answers[:10]] == [422] * 10
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert 0 < int(refused[0].headers["retry-after"]) <= 60
    assert count("account") == 0
    assert client().ping()


def test_calls_of_the_api_are_limited_by_key(world: World, no_counts: None) -> None:
    override({"API_MINUTE_LIMIT": "3"})
    answers = [world.web.get("/v1/people/1/invoices", headers={"Authorization": "Bearer x-1"}) for _ in range(4)]
    assert [one.status_code for one in answers] == [401, 401, 401, 429]
    assert answers[-1].headers["content-type"] == "application/problem+json"
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60


def test_behind_tls_cookies_and_headers_insist_on_it(world: World) -> None:
    from web.app import create

    override({"PUBLIC_URL": "https://patina.example"})
    with serving(create()) as url, httpx.Client(base_url=url) as plain:
        answer = plain.get("/connect")
    assert answer.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
    (cookie,) = answer.headers.get_list("set-cookie")
    assert cookie.startswith("__Host-patina-browser=")
    assert "Secure" in cookie
    assert "Domain" not in cookie


def test_no_redirect_leads_away(world: World, admin: AdminBrowser) -> None:
    for path in ("//evil.test", "/connect?next=https://evil.test", "/settings?first=https://evil.test", "/static/x"):
        answer = admin.http.get(path)
        assert answer.headers.get("location", "/").startswith("/"), path
        assert not answer.headers.get("location", "/").startswith("//"), path
