"""Browser sessions: expiry, the list of sessions, and confirmations."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from runtime.settings import override_settings
from services import connect
from store.accounts import accounts, admins, api_keys, audit, browser_sessions, copper_credentials, xero_organisations
from store.accounts.browser_sessions import SessionOrigin
from store.db.database import transaction
from store.db.enums import SignInMethod, Surface
from tests.integration.test_connect_pages import add_viewer, count, sign_in_with_copper
from tests.support.admin import AdminBrowser, sign_in
from tests.support.databases import clear_budgets
from tests.support.routes import documented_routes
from tests.support.world import World
from web.auth.user_agents import browser_label
from worker.jobs import scheduler

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')
ORIGIN = SessionOrigin(SignInMethod.KEY)


@pytest.fixture(autouse=True)
def nobody_tried_before(database: str) -> None:
    clear_budgets("throttle")


@pytest.fixture
def admin(world: World) -> AdminBrowser:
    return sign_in(world)


def change(statement: str, **values: object) -> None:
    with transaction() as session:
        session.execute(text(statement), values)


def value(statement: str, **values: object) -> Any:
    with transaction() as session:
        return session.execute(text(statement), values).scalar()


def age(hours: float, column: str = "last_used_at") -> None:
    """Move the sessions' times into the past."""
    change(f"UPDATE browser_session SET {column} = now() - make_interval(mins => :minutes)", minutes=int(hours * 60))


def is_signed_in(browser: AdminBrowser) -> bool:
    return browser.open("/audit").url.path == "/audit"


def copy_of(browser: AdminBrowser, world: World) -> AdminBrowser:
    """A thief with every cookie of the browser."""
    thief = AdminBrowser(world.web)
    thief.http.cookies.update(browser.http.cookies)
    return thief


def credentials(world: World) -> dict[str, str]:
    account = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)
    return {"confirm_email": account["email"], "confirm_key": account["api_key"]}


def sign_in_again(browser: AdminBrowser, world: World) -> httpx.Response:
    own_credentials = credentials(world)
    return browser.sign_in(own_credentials["confirm_key"], own_credentials["confirm_email"])


def hidden(browser: AdminBrowser) -> dict[str, str]:
    """The hidden fields of the current page, as a browser would send them."""
    assert browser.page is not None
    fields = {name: unescape(value) for name, value in HIDDEN.findall(browser.page.text)}
    return {name: value for name, value in fields.items() if name != "csrf"}


def asks_for_confirmation(page: httpx.Response) -> bool:
    return "<h1>Confirm it's you</h1>" in page.text


def audit_actions(world: World) -> list[tuple[str, str]]:
    with transaction() as session:
        return [(entry.action, entry.detail) for entry in audit.latest(session, world.account)]


# Expiry


def test_a_session_expires_after_twelve_idle_hours(world: World, admin: AdminBrowser) -> None:
    age(11.9)
    assert is_signed_in(admin)
    age(12.1)
    assert not is_signed_in(admin)


def test_a_session_expires_after_seven_days(world: World, admin: AdminBrowser) -> None:
    days = value("SELECT extract(epoch FROM expires_at - created_at) / 86400 FROM browser_session")
    assert float(days) == pytest.approx(7, abs=0.01)
    change("UPDATE browser_session SET expires_at = now()")
    assert not is_signed_in(admin)


def test_the_idle_time_is_a_setting(world: World, admin: AdminBrowser) -> None:
    override_settings({"SESSION_IDLE_TIMEOUT_HOURS": "1", "SESSION_MAX_AGE_DAYS": "2"})
    age(1.1)
    assert not is_signed_in(admin)
    sign_in_again(admin, world)
    days = value("SELECT extract(epoch FROM expires_at - created_at) / 86400 FROM browser_session ORDER BY id DESC")
    assert float(days) == pytest.approx(2, abs=0.01)


def test_session_use_is_recorded_once_in_five_minutes(world: World, admin: AdminBrowser) -> None:
    age(0.05)
    version = value("SELECT xmin::text FROM browser_session")
    admin.open("/audit")
    assert value("SELECT xmin::text FROM browser_session") == version, "no write for a request"
    age(0.2)
    admin.open("/audit")
    assert value("SELECT now() - last_used_at < interval '1 minute' FROM browser_session")


def test_an_automatic_refresh_does_not_extend_the_session(world: World, admin: AdminBrowser) -> None:
    age(1)
    admin.open("/progress")
    admin.http.get("/audit", headers={"Prefer": "wait=20"})
    assert value("SELECT now() - last_used_at > interval '50 minutes' FROM browser_session")


def test_signing_in_again_ends_the_older_session_of_that_browser(world: World, admin: AdminBrowser) -> None:
    before, elsewhere = copy_of(admin, world), sign_in(world)
    page = sign_in_again(admin, world)
    assert page.status_code == 200
    assert is_signed_in(admin)
    assert not is_signed_in(before)
    assert is_signed_in(elsewhere), "another browser's session is its own"
    assert count("browser_session") == 2


def test_signing_in_to_the_panel_again_ends_the_older_session_of_that_browser(world: World) -> None:
    with transaction() as session:
        origin = SessionOrigin(SignInMethod.COPPER, Surface.PANEL)
        first = browser_sessions.create(session, world.account, "viewer", 7, "Vic", origin)
        second = browser_sessions.create(session, world.account, "viewer", 7, "Vic", origin, replaces=first)
        assert browser_sessions.find_by_token(session, first) is None
        assert browser_sessions.find_by_token(session, second) is not None


def test_a_user_has_at_most_twenty_sessions_and_the_longest_idle_one_is_ended(world: World) -> None:
    with transaction() as session:
        other_session = browser_sessions.create(session, world.account, "admin", 8, "Ann", ORIGIN)
        tokens = [browser_sessions.create(session, world.account, "admin", 7, "Sam", ORIGIN) for _ in range(22)]
        is_open = [browser_sessions.find_by_token(session, token) is not None for token in [other_session, *tokens]]
    assert is_open == [True, False, False, *[True] * 20]


def test_idle_and_expired_sessions_are_purged(world: World, admin: AdminBrowser) -> None:
    sign_in(world)
    sign_in(world)
    assert count("browser_session") == 3
    change(
        "UPDATE browser_session SET last_used_at = now() - interval '13 hours' WHERE id = (SELECT "
        "min(id) FROM browser_session)"
    )
    change("UPDATE browser_session SET expires_at = now() WHERE id = (SELECT max(id) FROM browser_session)")
    scheduler.purge_expired()
    assert count("browser_session") == 1


def test_replacing_the_copper_key_signs_every_other_browser_out(world: World, admin: AdminBrowser) -> None:
    thief, other_browser = copy_of(admin, world), sign_in(world)
    second_admin = world.sandbox.simulate("add_user", account=world.copper, name="Second Admin", admin=True)
    admin.open("/settings")
    page = admin.send("/copper/key", key=second_admin["api_key"], email=second_admin["email"])
    assert "Copper API key replaced" in page.text
    assert is_signed_in(admin)
    assert not is_signed_in(other_browser)
    assert not is_signed_in(thief), "not even a copy of this browser's session"


def test_replacing_the_key_on_the_command_line_signs_everybody_out(world: World, admin: AdminBrowser) -> None:
    with transaction() as session:
        credentials = copper_credentials.get(session, world.account)
    connect.connect_copper(credentials.api_key, credentials.email)
    assert is_signed_in(admin), "the same key changes nothing"
    second_admin = world.sandbox.simulate("add_user", account=world.copper, name="Second Admin", admin=True)
    connect.connect_copper(second_admin["api_key"], second_admin["email"])
    assert not is_signed_in(admin)


# The list


def test_admins_see_and_end_sessions(world: World, admin: AdminBrowser) -> None:
    other_browser = AdminBrowser(world.web)
    other_browser.http.headers["user-agent"] = f"{FIREFOX} <script>"
    sign_in_again(other_browser, world)
    page = admin.open("/sessions").text
    assert "Firefox on Linux" in page
    assert "<script>" not in page
    assert page.count("<strong>This browser</strong>") == 1
    (path,) = re.findall(r'action="(/sessions/\d+/end)"', page)
    assert admin.send(path).status_code == 200
    assert not is_signed_in(other_browser)
    assert is_signed_in(admin)
    assert audit_actions(world)[0] == ("session.ended", "Sam Admin, Firefox on Linux")
    assert admin.send(path).status_code == 404


def test_all_other_sessions_can_be_ended_at_once(world: World, admin: AdminBrowser) -> None:
    other_browsers = [sign_in(world), sign_in(world)]
    admin.open("/sessions")
    assert "2 sessions ended." in admin.send("/sessions/end-others").text
    assert [is_signed_in(browser) for browser in other_browsers] == [False, False]
    assert is_signed_in(admin)
    assert ("sessions.ended", "2 sessions") in audit_actions(world)


def test_a_viewer_only_sees_and_ends_their_own_sessions(world: World, admin: AdminBrowser) -> None:
    viewer_user = add_viewer(world)
    viewer = sign_in_with_copper(world, viewer_user["email"])
    with transaction() as session:
        origin = SessionOrigin(SignInMethod.COPPER, Surface.PANEL, "Chrome on Windows")
        panel = browser_sessions.create(session, world.account, "viewer", viewer_user["user"], "Vic Viewer", origin)
    page = viewer.open("/viewer").text
    assert "Chrome on Windows, panel in Copper" in page
    assert "Sam Admin" not in page
    admin_session_id = value("SELECT id FROM browser_session WHERE role = 'admin'")
    assert viewer.send(f"/sessions/{admin_session_id}/end").status_code == 404
    viewer.open("/viewer")
    assert "1 session ended." in viewer.send("/sessions/end-others").text
    with transaction() as session:
        assert browser_sessions.find_by_token(session, panel) is None
    assert is_signed_in(admin)
    assert viewer.open("/sessions").status_code == 403


def test_no_account_sees_or_ends_sessions_of_another(world: World, admin: AdminBrowser) -> None:
    other_world = World(world.sandbox, world.web).open(name="Second")
    other_browser = sign_in(other_world)
    session_id = value("SELECT id FROM browser_session WHERE account_id = :account", account=other_world.account)
    assert admin.open("/sessions").text.count('/end"') == 0
    assert admin.send(f"/sessions/{session_id}/end").status_code == 404
    admin.open("/sessions")
    admin.send("/sessions/end-others")
    assert is_signed_in(other_browser)


def test_the_command_lists_and_ends_sessions(world: World, admin: AdminBrowser) -> None:
    from typer.testing import CliRunner

    from cli import app

    run = CliRunner().invoke
    listing = run(app, ["sessions", "list"])
    assert "Sam Admin" in listing.output
    assert "1 session" in listing.output
    session_id = value("SELECT id FROM browser_session")
    missing = run(app, ["sessions", "end", str(session_id), "999999"])
    assert missing.exit_code != 0
    assert "ended: 1 session" in missing.output
    assert not is_signed_in(admin)
    sign_in(world)
    assert "ended: 1 session" in run(app, ["sessions", "end", "--all"]).output
    assert count("browser_session") == 0
    assert run(app, ["sessions", "end"]).exit_code == 2
    assert [action for action, _ in audit_actions(world)[:3]] == ["sessions.ended", "admin.signed_in", "session.ended"]


@pytest.mark.parametrize(
    ("agent", "client"),
    [
        (FIREFOX, "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/127.0 Safari/537.36 Edg/127.0", "Edge on Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) Version/17.5 Safari/604.1", "Safari on iPhone"),
        ("Mozilla/5.0 (Linux; Android 14) Chrome/127.0 Mobile Safari/537.36", "Chrome on Android"),
        ("ann@acme.test Bearer pat_secret", "Unknown browser"),
        ("", "Unknown browser"),
        ("x" * 100_000 + "Firefox/1", "Unknown browser"),
    ],
)
def test_only_the_browser_family_is_stored(agent: str, client: str) -> None:
    from starlette.requests import Request

    assert browser_label(Request({"type": "http", "headers": [(b"user-agent", agent.encode())]})) == client


def test_the_audit_log_marks_a_sign_in_from_a_new_browser(world: World, admin: AdminBrowser) -> None:
    assert "from a new browser" in dict(audit_actions(world))["admin.signed_in"]
    assert "Last other sign-in" not in admin.open("/status").text
    sign_in_again(admin, world)
    page = admin.open("/status").text
    assert "Last other sign-in" in page
    assert "from a new browser" in page
    assert audit_actions(world)[0][0] == "admin.signed_in"
    assert "new browser" not in audit_actions(world)[0][1]


# Confirmations


def state_of(world: World) -> list[object]:
    """The data that a stolen session must not change."""
    with transaction() as session:
        return [
            [key.name for key in api_keys.list_active(session, world.account)],
            admins.list_names(session, world.account),
            xero_organisations.list_connected(session, world.account),
            copper_credentials.get(session, world.account),
            [account.id for account in accounts.list_accounts(session)],
            count("browser_session"),
        ]


def guarded(world: World) -> list[tuple[str, dict[str, str]]]:
    """Every form that requires a confirmation, with valid values."""
    user = world.sandbox.simulate("add_user", account=world.copper, name="Eve")["user"]
    with transaction() as session:
        admins.add(session, world.account, 4_711, "Named")
        organisation = xero_organisations.list_connected(session, world.account)[0].id
        (name,) = [account.name for account in accounts.list_accounts(session)]
    other_admin = world.sandbox.simulate("add_user", account=world.copper, name="Mallory", admin=True)
    session_id = value("SELECT min(id) FROM browser_session")
    return [
        ("/keys", {"name": "stolen", "scope": "admin"}),
        ("/setup/panel", {}),
        ("/admins", {"user": str(user)}),
        ("/admins/4711/remove", {}),
        (f"/organisations/{organisation}/remove", {}),
        ("/copper/key", {"email": other_admin["email"], "key": other_admin["api_key"]}),
        (f"/sessions/{session_id}/end", {}),
        ("/sessions/end-others", {}),
        ("/disconnect", {"name": name}),
    ]


def test_a_stolen_session_alone_cannot_make_sensitive_changes(world: World, admin: AdminBrowser) -> None:
    sign_in(world)
    forms = guarded(world)
    age(0.1, "confirmed_at")
    before = state_of(world)
    thief = copy_of(admin, world)
    for path, form in forms:
        thief.open("/audit")
        page = thief.send(path, form)
        assert asks_for_confirmation(page), path
        assert state_of(world) == before, path
        assert asks_for_confirmation(thief.send(path, form, confirm_path="/audit")), path
    assert is_signed_in(thief), "it ends no session either"


def test_a_confirmation_completes_the_form_and_is_valid_for_five_minutes(world: World, admin: AdminBrowser) -> None:
    age(0.1, "confirmed_at")
    thief = copy_of(admin, world)
    admin.open("/keys")
    page = admin.send("/keys", name='The "CRM" & more', scope="admin")
    assert asks_for_confirmation(page)
    page = admin.send("/keys", {**hidden(admin), **credentials(world)})
    assert (page.url.path, "pat_" in page.text) == ("/keys/new", True)
    admin.open("/keys")
    assert admin.send("/keys", name="another", scope="read").url.path == "/keys/new", "it is not asked again"
    with transaction() as session:
        scopes_by_name = {key.name: key.scopes for key in api_keys.list_active(session, world.account)}
    assert scopes_by_name['The "CRM" & more'] == ("admin",)
    assert ("session.confirmed", "with a Copper key") in audit_actions(world)
    assert not is_signed_in(thief), "a copy of the session from before the confirmation opens nothing"
    age(0.1, "confirmed_at")
    admin.open("/keys")
    assert asks_for_confirmation(admin.send("/keys", name="late", scope="read"))


def test_a_wrong_key_is_audited_counts_as_an_attempt_and_ends_no_session(world: World, admin: AdminBrowser) -> None:
    age(0.1, "confirmed_at")
    other_world = World(world.sandbox, world.web).open(name="Second")
    admin.open("/keys")
    admin.send("/keys", name="mine", scope="read")
    before = state_of(world)
    hidden_fields = hidden(admin)
    for wrong in (
        {**credentials(world), "confirm_key": "wrong"},
        {**credentials(world), "confirm_key": ""},
        credentials(other_world),
    ):
        page = admin.send("/keys", {**hidden_fields, **wrong})
        assert (page.status_code, "or they aren&#39;t yours" in page.text) == (422, True)
        assert wrong["confirm_key"] not in page.text or not wrong["confirm_key"]
        assert hidden(admin) == hidden_fields, "what was filled in is still there"
    assert state_of(world) == before
    refused = [detail for action, detail in audit_actions(world) if action == "session.confirmation_refused"]
    assert len(refused) == 3
    assert is_signed_in(admin)
    admin.open("/keys")
    wrong = {**hidden_fields, "confirm_key": "wrong", "confirm_email": "a@b.test"}
    statuses = [admin.send("/keys", wrong).status_code for _ in range(16)]
    assert 429 in statuses


def test_entering_ones_own_new_key_counts_as_a_confirmation(world: World, admin: AdminBrowser) -> None:
    age(0.1, "confirmed_at")
    own_credentials = credentials(world)
    admin.open("/settings")
    page = admin.send("/copper/key", key=own_credentials["confirm_key"], email=own_credentials["confirm_email"])
    assert "Copper API key replaced" in page.text
    assert ("session.confirmed", "with the new Copper key") in audit_actions(world)


def test_another_admins_key_must_be_entered_again_after_the_confirmation(world: World, admin: AdminBrowser) -> None:
    age(0.1, "confirmed_at")
    second = world.sandbox.simulate("add_user", account=world.copper, name="Second Admin", admin=True)
    admin.open("/settings")
    page = admin.send("/copper/key", key=second["api_key"], email=second["email"])
    assert asks_for_confirmation(page)
    assert second["api_key"] not in page.text
    page = admin.send("/copper/key", {**hidden(admin), **credentials(world)})
    assert (page.status_code, "Enter the new API key" in page.text) == (422, True)
    assert f'value="{second["email"]}"' in page.text
    page = admin.send("/copper/key", key=second["api_key"], email=second["email"])
    assert "Copper API key replaced" in page.text


def test_an_unavailable_copper_is_distinguished_from_a_wrong_key(world: World, admin: AdminBrowser) -> None:
    age(0.1, "confirmed_at")
    admin.open("/keys")
    admin.send("/keys", name="mine", scope="read")
    world.sandbox.faults(api=[{"vendor": "copper", "type": "status", "status": 503}])
    page = admin.send("/keys", {**hidden(admin), **credentials(world)})
    assert "Nothing was changed" in page.text
    assert "session.confirmation_refused" not in dict(audit_actions(world))
    world.sandbox.faults()
    assert admin.send("/keys", {**hidden(admin), **credentials(world)}).url.path == "/keys/new"


def test_a_confirmation_requires_the_csrf_token(world: World, admin: AdminBrowser) -> None:
    age(0.1, "confirmed_at")
    before = state_of(world)
    form = {"csrf": "planted", "name": "mine", "scope": "read", **credentials(world)}
    assert admin.http.post("/keys", data=form).status_code == 403
    assert state_of(world) == before


def test_only_one_of_two_concurrent_confirmations_renews_the_session(world: World, admin: AdminBrowser) -> None:
    with transaction() as session:
        token = browser_sessions.create(session, world.account, "admin", 7, "Sam", ORIGIN)
        session_row = browser_sessions.find_by_token(session, token)
        assert session_row is not None
        new_token = browser_sessions.renew(session, world.account, session_row.id, token, is_confirmed=True)
        assert browser_sessions.renew(session, world.account, session_row.id, token, is_confirmed=True) is None
        assert new_token is not None
        assert browser_sessions.find_by_token(session, new_token) is not None
        assert browser_sessions.find_by_token(session, token) is None


def back_from_copper(browser: AdminBrowser, world: World, away: httpx.Response, email: str) -> httpx.Response:
    page = httpx.get(f"{away.headers['location']}&login_hint={email}").text
    fields = dict(re.findall(r'name="(code|state)" value="([^"]*)"', page))
    posted = httpx.post(f"{world.web.base_url}/callback/copper", data=fields)
    return browser.open(posted.headers["location"])


@pytest.fixture
def named(world: World) -> tuple[AdminBrowser, str]:
    """An admin who signs in with Copper, and has no key."""
    viewer_user = add_viewer(world)
    with transaction() as session:
        admins.add(session, world.account, viewer_user["user"], "Vic Viewer")
    return sign_in_with_copper(world, viewer_user["email"]), viewer_user["email"]


def test_a_user_signed_in_with_copper_confirms_at_copper_and_continues_with_the_form(
    world: World, named: tuple[AdminBrowser, str]
) -> None:
    browser, email = named
    age(0.1, "confirmed_at")
    browser.open("/keys")
    page = browser.send("/keys", {"name": "mine", "scope": "read", **credentials(world)})
    assert asks_for_confirmation(page), "somebody's key is no proof of who signed in with Copper"
    assert "Sign in with Copper" in page.text
    away = browser.send("/confirm/copper", hidden(browser), follow=False)
    page = back_from_copper(browser, world, away, email)
    assert "<h1>Confirmed</h1>" in page.text
    assert count("api_key") == 1, "coming back changes nothing by itself"
    assert browser.send("/keys", hidden(browser)).url.path == "/keys/new"
    assert ("session.confirmed", "with Copper") in audit_actions(world)


def test_another_user_of_copper_confirms_nothing(world: World, named: tuple[AdminBrowser, str]) -> None:
    browser, _ = named
    other_user = world.sandbox.simulate("add_user", account=world.copper, name="Mallory")
    age(0.1, "confirmed_at")
    browser.open("/keys")
    browser.send("/keys", name="mine", scope="read")
    away = browser.send("/confirm/copper", hidden(browser), follow=False)
    page = back_from_copper(browser, world, away, other_user["email"])
    assert (page.status_code, "Nothing was changed" in page.text) == (403, True)
    browser.open("/keys")
    assert asks_for_confirmation(browser.send("/keys", name="mine", scope="read"))
    assert "session.confirmation_refused" in dict(audit_actions(world))


@pytest.mark.parametrize("path", ["https://evil.test", "//evil.test", "/keys?x=1", "javascript:alert(1)", ""])
def test_a_form_only_continues_within_patina(world: World, named: tuple[AdminBrowser, str], path: str) -> None:
    browser, _ = named
    browser.open("/keys")
    assert browser.send("/confirm/copper", confirm_path=path, follow=False).status_code == 422


# Browser data


def test_signing_out_and_disconnecting_clear_the_site_data(world: World, admin: AdminBrowser) -> None:
    other_browser = sign_in(world)
    admin.open("/audit")
    response = admin.send("/signout", follow=False)
    assert response.headers["clear-site-data"] == '"cache", "storage"'
    assert ("session.signed_out", "") in audit_actions(world)
    with transaction() as session:
        (name,) = [account.name for account in accounts.list_accounts(session)]
    other_browser.open("/disconnect")
    response = other_browser.send("/disconnect", name=name, follow=False)
    assert response.headers["clear-site-data"] == '"cache", "storage"'
    assert count("browser_session") == 0


def test_a_search_is_in_no_url(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    page = admin.find("ann@acme.test")
    assert f'href="/records/person/{person}"' in page.text
    assert "ann" not in str(page.url)
    assert admin.open(str(page.url)).text.count(f"/records/person/{person}") == 1, "a reload finds it again"
    assert f"/records/person/{person}" not in admin.open("/records?q=ann@acme.test").text
    other_world = World(world.sandbox, world.web).open(name="Second")
    assert "This search has expired" in sign_in(other_world).open(str(page.url)).text
    assert "This search has expired" in admin.open("/records?search=gAAAA\u00e9").text
    refused = admin.send("/records", q="x" * 321)
    assert (refused.status_code, "too long" in refused.text) == (422, True)
    response = admin.find("\N{GRINNING FACE}" * 320)
    assert response.status_code == 200


def test_no_query_parameter_may_contain_a_persons_name() -> None:
    from web.app import create

    documented = {
        *("after", "before", "currency", "setup", "kind", "limit", "of", "order", "sort", "status", "type"),
        *("fields", "matched", "organisation", "owner", "reason", "linked"),
        # The type and the id of a record.
        "after_record",
        # The parameters of a record's list: its search is a part of a number or of a reference.
        "filters",
        # Encrypted, random, or defined by a vendor.
        *("search", "ticket", "state", "code", "error", "challenge"),
    }
    query_names = {
        parameter.alias for route in documented_routes(create()) for parameter in route.dependant.query_params
    }
    assert query_names <= documented
