"""Who is signed in: how sessions end, who sees and ends them, and what is confirmed before it is done."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from runtime.settings import override
from store import access, accounts, audit, browser_sessions
from store.browser_sessions import SessionOrigin
from store.database import transaction
from store.models import SignInMethod, Surface
from tests.admin import AdminBrowser
from tests.databases import forget_budgets
from tests.routes import documented_routes
from tests.test_pages import add_viewer, count, sign_in, sign_in_with_copper
from tests.world import World
from web.clients import client_of
from worker import connect, schedule

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')
ORIGIN = SessionOrigin(SignInMethod.KEY)


@pytest.fixture(autouse=True)
def nobody_tried_before(database: str) -> None:
    forget_budgets("throttle")


@pytest.fixture
def admin(world: World) -> AdminBrowser:
    return sign_in(world)


def change(statement: str, **values: object) -> None:
    with transaction() as session:
        session.execute(text(statement), values)


def value(statement: str, **values: object) -> Any:
    with transaction() as session:
        return session.execute(text(statement), values).scalar()


def age(hours: float, column: str = "used_at") -> None:
    """Move the sessions' times into the past."""
    change(f"UPDATE web_session SET {column} = now() - make_interval(mins => :minutes)", minutes=int(hours * 60))


def is_signed_in(browser: AdminBrowser) -> bool:
    return browser.open("/trail").url.path == "/trail"


def copy_of(browser: AdminBrowser, world: World) -> AdminBrowser:
    """A thief who has every cookie of the browser."""
    thief = AdminBrowser(world.web)
    thief.http.cookies.update(browser.http.cookies)
    return thief


def credentials(world: World) -> dict[str, str]:
    made = next(one for one in world.sandbox.state()["accounts"] if one["account"] == world.copper)
    return {"confirm_email": made["email"], "confirm_key": made["api_key"]}


def sign_in_again(browser: AdminBrowser, world: World) -> httpx.Response:
    held = credentials(world)
    return browser.sign_in(held["confirm_key"], held["confirm_email"])


def hidden(browser: AdminBrowser) -> dict[str, str]:
    """The hidden fields of the page that is open, as a browser would send them."""
    assert browser.page is not None
    found = {name: unescape(value) for name, value in HIDDEN.findall(browser.page.text)}
    return {name: value for name, value in found.items() if name != "csrf"}


def asks_for_confirmation(page: httpx.Response) -> bool:
    return "<h1>Confirm it's you</h1>" in page.text


def audited(world: World) -> list[tuple[str, str]]:
    with transaction() as session:
        return [(entry.action, entry.detail) for entry in audit.latest(session, world.account)]


# How sessions end


def test_a_session_that_nobody_uses_for_twelve_hours_ends(world: World, admin: AdminBrowser) -> None:
    age(11.9)
    assert is_signed_in(admin)
    age(12.1)
    assert not is_signed_in(admin)


def test_a_session_ends_after_seven_days_however_much_it_is_used(world: World, admin: AdminBrowser) -> None:
    days = value("SELECT extract(epoch FROM expires_at - created_at) / 86400 FROM web_session")
    assert float(days) == pytest.approx(7, abs=0.01)
    change("UPDATE web_session SET expires_at = now()")
    assert not is_signed_in(admin)


def test_the_idle_time_is_a_setting(world: World, admin: AdminBrowser) -> None:
    override({"SESSION_IDLE_HOURS": "1", "SESSION_DAYS": "2"})
    age(1.1)
    assert not is_signed_in(admin)
    sign_in_again(admin, world)
    days = value("SELECT extract(epoch FROM expires_at - created_at) / 86400 FROM web_session ORDER BY id DESC")
    assert float(days) == pytest.approx(2, abs=0.01)


def test_use_is_noted_once_in_five_minutes(world: World, admin: AdminBrowser) -> None:
    age(0.05)
    version = value("SELECT xmin::text FROM web_session")
    admin.open("/trail")
    assert value("SELECT xmin::text FROM web_session") == version, "no write for a request"
    age(0.2)
    admin.open("/trail")
    assert value("SELECT now() - used_at < interval '1 minute' FROM web_session")


def test_a_page_that_loads_itself_keeps_no_session_open(world: World, admin: AdminBrowser) -> None:
    age(1)
    admin.open("/progress")
    admin.http.get("/trail", headers={"Prefer": "wait=20"})
    assert value("SELECT now() - used_at > interval '50 minutes' FROM web_session")


def test_signing_in_again_ends_the_older_session_of_that_browser(world: World, admin: AdminBrowser) -> None:
    before, elsewhere = copy_of(admin, world), sign_in(world)
    page = sign_in_again(admin, world)
    assert page.status_code == 200
    assert is_signed_in(admin)
    assert not is_signed_in(before)
    assert is_signed_in(elsewhere), "another browser's session is its own"
    assert count("web_session") == 2


def test_signing_in_to_the_panel_again_ends_the_older_session_of_that_browser(world: World) -> None:
    with transaction() as session:
        origin = SessionOrigin(SignInMethod.COPPER, Surface.PANEL)
        first = browser_sessions.open_session(session, world.account, "viewer", 7, "Vic", origin)
        second = browser_sessions.open_session(session, world.account, "viewer", 7, "Vic", origin, replaces=first)
        assert browser_sessions.of_token(session, first) is None
        assert browser_sessions.of_token(session, second) is not None


def test_a_user_has_twenty_sessions_and_loses_the_one_unused_for_longest(world: World) -> None:
    with transaction() as session:
        other = browser_sessions.open_session(session, world.account, "admin", 8, "Ann", ORIGIN)
        tokens = [browser_sessions.open_session(session, world.account, "admin", 7, "Sam", ORIGIN) for _ in range(22)]
        is_open = [browser_sessions.of_token(session, token) is not None for token in [other, *tokens]]
    assert is_open == [True, False, False, *[True] * 20]


def test_sessions_that_are_idle_or_over_are_purged(world: World, admin: AdminBrowser) -> None:
    sign_in(world)
    sign_in(world)
    assert count("web_session") == 3
    change("UPDATE web_session SET used_at = now() - interval '13 hours' WHERE id = (SELECT min(id) FROM web_session)")
    change("UPDATE web_session SET expires_at = now() WHERE id = (SELECT max(id) FROM web_session)")
    schedule.forget()
    assert count("web_session") == 1


def test_replacing_the_copper_key_signs_every_other_browser_out(world: World, admin: AdminBrowser) -> None:
    thief, other = copy_of(admin, world), sign_in(world)
    fresh = world.sandbox.act("add_user", account=world.copper, name="Second Admin", admin=True)
    admin.open("/settings")
    page = admin.send("/copper/key", key=fresh["api_key"], email=fresh["email"])
    assert "Copper API key replaced" in page.text
    assert is_signed_in(admin)
    assert not is_signed_in(other)
    assert not is_signed_in(thief), "not even a copy of this browser's session"


def test_a_key_that_is_replaced_by_command_signs_everybody_out(world: World, admin: AdminBrowser) -> None:
    with transaction() as session:
        held = accounts.copper_access(session, world.account)
    connect.connect_copper(held.api_key, held.email)
    assert is_signed_in(admin), "the same key changes nothing"
    fresh = world.sandbox.act("add_user", account=world.copper, name="Second Admin", admin=True)
    connect.connect_copper(fresh["api_key"], fresh["email"])
    assert not is_signed_in(admin)


# The list


def test_admins_see_who_is_signed_in_and_end_it(world: World, admin: AdminBrowser) -> None:
    other = AdminBrowser(world.web)
    other.http.headers["user-agent"] = f"{FIREFOX} <script>"
    sign_in_again(other, world)
    page = admin.open("/sessions").text
    assert "Firefox on Linux" in page
    assert "<script>" not in page
    assert page.count("<strong>This browser</strong>") == 1
    (path,) = re.findall(r'action="(/sessions/\d+/end)"', page)
    assert admin.send(path).status_code == 200
    assert not is_signed_in(other)
    assert is_signed_in(admin)
    assert audited(world)[0] == ("session.ended", "Sam Admin, Firefox on Linux")
    assert admin.send(path).status_code == 404


def test_all_others_end_at_once_and_this_one_stays(world: World, admin: AdminBrowser) -> None:
    others = [sign_in(world), sign_in(world)]
    admin.open("/sessions")
    assert "2 sessions ended." in admin.send("/sessions/end-others").text
    assert [is_signed_in(other) for other in others] == [False, False]
    assert is_signed_in(admin)
    assert ("sessions.ended", "2 sessions") in audited(world)


def test_a_viewer_sees_and_ends_their_own_sessions_alone(world: World, admin: AdminBrowser) -> None:
    made = add_viewer(world)
    viewer = sign_in_with_copper(world, made["email"])
    with transaction() as session:
        origin = SessionOrigin(SignInMethod.COPPER, Surface.PANEL, "Chrome on Windows")
        panel = browser_sessions.open_session(session, world.account, "viewer", made["user"], "Vic Viewer", origin)
    page = viewer.open("/viewer").text
    assert "Chrome on Windows, panel in Copper" in page
    assert "Sam Admin" not in page
    theirs = value("SELECT id FROM web_session WHERE role = 'admin'")
    assert viewer.send(f"/sessions/{theirs}/end").status_code == 404
    viewer.open("/viewer")
    assert "1 session ended." in viewer.send("/sessions/end-others").text
    with transaction() as session:
        assert browser_sessions.of_token(session, panel) is None
    assert is_signed_in(admin)
    assert viewer.open("/sessions").status_code == 403


def test_no_account_sees_or_ends_anothers_sessions(world: World, admin: AdminBrowser) -> None:
    other = World(world.sandbox, world.web).open(name="Second")
    theirs = sign_in(other)
    session_id = value("SELECT id FROM web_session WHERE account_id = :account", account=other.account)
    assert admin.open("/sessions").text.count('/end"') == 0
    assert admin.send(f"/sessions/{session_id}/end").status_code == 404
    admin.open("/sessions")
    admin.send("/sessions/end-others")
    assert is_signed_in(theirs)


def test_the_command_lists_and_ends_sessions(world: World, admin: AdminBrowser) -> None:
    from typer.testing import CliRunner

    from cli import app

    run = CliRunner().invoke
    listed = run(app, ["sessions", "list"])
    assert "Sam Admin" in listed.output
    assert "1 session" in listed.output
    session_id = value("SELECT id FROM web_session")
    missing = run(app, ["sessions", "end", str(session_id), "999999"])
    assert missing.exit_code != 0
    assert "ended: 1 session" in missing.output
    assert not is_signed_in(admin)
    sign_in(world)
    assert "ended: 1 session" in run(app, ["sessions", "end", "--all"]).output
    assert count("web_session") == 0
    assert run(app, ["sessions", "end"]).exit_code == 2
    assert [action for action, _ in audited(world)[:3]] == ["sessions.ended", "admin.signed_in", "session.ended"]


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
def test_of_a_browser_its_kind_alone_is_kept(agent: str, client: str) -> None:
    from starlette.requests import Request

    assert client_of(Request({"type": "http", "headers": [(b"user-agent", agent.encode())]})) == client


def test_a_sign_in_from_a_new_browser_is_marked_in_the_audit_log(world: World, admin: AdminBrowser) -> None:
    assert "from a new browser" in dict(audited(world))["admin.signed_in"]
    assert "Last other sign-in" not in admin.open("/status").text
    sign_in_again(admin, world)
    page = admin.open("/status").text
    assert "Last other sign-in" in page
    assert "from a new browser" in page
    assert audited(world)[0][0] == "admin.signed_in"
    assert "new browser" not in audited(world)[0][1]


# Confirming


def state_of(world: World) -> list[object]:
    """What a stolen session must not change."""
    with transaction() as session:
        return [
            [key.name for key in access.keys(session, world.account)],
            access.named_admins(session, world.account),
            accounts.organisations(session, world.account),
            accounts.copper_access(session, world.account),
            [account.id for account in accounts.accounts(session)],
            count("web_session"),
        ]


def guarded(world: World) -> list[tuple[str, dict[str, str]]]:
    """Every form that asks for a confirmation, filled in so that it would be carried out."""
    user = world.sandbox.act("add_user", account=world.copper, name="Eve")["user"]
    with transaction() as session:
        access.name_admin(session, world.account, 4_711, "Named")
        organisation = accounts.organisations(session, world.account)[0].id
        (name,) = [one.name for one in accounts.accounts(session)]
    stranger = world.sandbox.act("add_user", account=world.copper, name="Mallory", admin=True)
    session_id = value("SELECT min(id) FROM web_session")
    return [
        ("/keys", {"name": "stolen", "scope": "admin"}),
        ("/setup/panel", {}),
        ("/admins", {"user": str(user)}),
        ("/admins/4711/remove", {}),
        (f"/organisations/{organisation}/drop", {}),
        ("/copper/key", {"email": stranger["email"], "key": stranger["api_key"]}),
        (f"/sessions/{session_id}/end", {}),
        ("/sessions/end-others", {}),
        ("/disconnect", {"name": name}),
    ]


def test_a_stolen_session_alone_changes_nothing_that_counts(world: World, admin: AdminBrowser) -> None:
    sign_in(world)
    forms = guarded(world)
    age(0.1, "confirmed_at")
    before = state_of(world)
    thief = copy_of(admin, world)
    for path, form in forms:
        thief.open("/trail")
        page = thief.send(path, form)
        assert asks_for_confirmation(page), path
        assert state_of(world) == before, path
        assert asks_for_confirmation(thief.send(path, form, confirm_path="/trail")), path
    assert is_signed_in(thief), "it ends no session either"


def test_a_confirmation_carries_the_form_out_and_holds_for_five_minutes(world: World, admin: AdminBrowser) -> None:
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
        known = {key.name: key.scopes for key in access.keys(session, world.account)}
    assert known['The "CRM" & more'] == ("admin",)
    assert ("session.confirmed", "with a Copper key") in audited(world)
    assert not is_signed_in(thief), "a copy of the session from before the confirmation opens nothing"
    age(0.1, "confirmed_at")
    admin.open("/keys")
    assert asks_for_confirmation(admin.send("/keys", name="late", scope="read"))


def test_a_wrong_key_is_audited_counts_as_a_try_and_ends_nothing(world: World, admin: AdminBrowser) -> None:
    age(0.1, "confirmed_at")
    stranger = World(world.sandbox, world.web).open(name="Second")
    admin.open("/keys")
    admin.send("/keys", name="mine", scope="read")
    before = state_of(world)
    kept = hidden(admin)
    for wrong in (
        {**credentials(world), "confirm_key": "wrong"},
        {**credentials(world), "confirm_key": ""},
        credentials(stranger),
    ):
        page = admin.send("/keys", {**kept, **wrong})
        assert (page.status_code, "or they aren&#39;t yours" in page.text) == (422, True)
        assert wrong["confirm_key"] not in page.text or not wrong["confirm_key"]
        assert hidden(admin) == kept, "what was filled in is still there"
    assert state_of(world) == before
    refused = [detail for action, detail in audited(world) if action == "session.confirmation_refused"]
    assert len(refused) == 3
    assert is_signed_in(admin)
    admin.open("/keys")
    wrong = {**kept, "confirm_key": "wrong", "confirm_email": "a@b.test"}
    statuses = [admin.send("/keys", wrong).status_code for _ in range(16)]
    assert 429 in statuses


def test_the_persons_own_new_key_is_a_confirmation_in_itself(world: World, admin: AdminBrowser) -> None:
    age(0.1, "confirmed_at")
    held = credentials(world)
    admin.open("/settings")
    page = admin.send("/copper/key", key=held["confirm_key"], email=held["confirm_email"])
    assert "Copper API key replaced" in page.text
    assert ("session.confirmed", "with the new Copper key") in audited(world)


def test_another_admins_key_is_asked_for_again_after_the_confirmation(world: World, admin: AdminBrowser) -> None:
    age(0.1, "confirmed_at")
    second = world.sandbox.act("add_user", account=world.copper, name="Second Admin", admin=True)
    admin.open("/settings")
    page = admin.send("/copper/key", key=second["api_key"], email=second["email"])
    assert asks_for_confirmation(page)
    assert second["api_key"] not in page.text
    page = admin.send("/copper/key", {**hidden(admin), **credentials(world)})
    assert (page.status_code, "Enter the new API key" in page.text) == (422, True)
    assert f'value="{second["email"]}"' in page.text
    page = admin.send("/copper/key", key=second["api_key"], email=second["email"])
    assert "Copper API key replaced" in page.text


def test_copper_being_away_is_told_apart_from_a_wrong_key(world: World, admin: AdminBrowser) -> None:
    age(0.1, "confirmed_at")
    admin.open("/keys")
    admin.send("/keys", name="mine", scope="read")
    world.sandbox.faults(api=[{"vendor": "copper", "kind": "status", "status": 503}])
    page = admin.send("/keys", {**hidden(admin), **credentials(world)})
    assert "Nothing was changed" in page.text
    assert "session.confirmation_refused" not in dict(audited(world))
    world.sandbox.faults()
    assert admin.send("/keys", {**hidden(admin), **credentials(world)}).url.path == "/keys/new"


def test_a_confirmation_needs_the_forms_token_too(world: World, admin: AdminBrowser) -> None:
    age(0.1, "confirmed_at")
    before = state_of(world)
    form = {"csrf": "planted", "name": "mine", "scope": "read", **credentials(world)}
    assert admin.http.post("/keys", data=form).status_code == 403
    assert state_of(world) == before


def test_of_two_confirmations_at_once_one_renews_the_session(world: World, admin: AdminBrowser) -> None:
    with transaction() as session:
        token = browser_sessions.open_session(session, world.account, "admin", 7, "Sam", ORIGIN)
        found = browser_sessions.of_token(session, token)
        assert found is not None
        fresh = browser_sessions.renew(session, world.account, found.id, token, is_confirmed=True)
        assert browser_sessions.renew(session, world.account, found.id, token, is_confirmed=True) is None
        assert fresh is not None
        assert browser_sessions.of_token(session, fresh) is not None
        assert browser_sessions.of_token(session, token) is None


def back_from_copper(browser: AdminBrowser, world: World, away: httpx.Response, email: str) -> httpx.Response:
    page = httpx.get(f"{away.headers['location']}&login_hint={email}").text
    fields = dict(re.findall(r'name="(code|state)" value="([^"]*)"', page))
    posted = httpx.post(f"{world.web.base_url}/callback/copper", data=fields)
    return browser.open(posted.headers["location"])


@pytest.fixture
def named(world: World) -> tuple[AdminBrowser, str]:
    """An admin who signs in with Copper, and has no key."""
    made = add_viewer(world)
    with transaction() as session:
        access.name_admin(session, world.account, made["user"], "Vic Viewer")
    return sign_in_with_copper(world, made["email"]), made["email"]


def test_who_signed_in_with_copper_confirms_there_and_goes_on_with_the_form(
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
    assert ("session.confirmed", "with Copper") in audited(world)


def test_another_user_of_copper_confirms_nothing(world: World, named: tuple[AdminBrowser, str]) -> None:
    browser, _ = named
    other = world.sandbox.act("add_user", account=world.copper, name="Mallory")
    age(0.1, "confirmed_at")
    browser.open("/keys")
    browser.send("/keys", name="mine", scope="read")
    away = browser.send("/confirm/copper", hidden(browser), follow=False)
    page = back_from_copper(browser, world, away, other["email"])
    assert (page.status_code, "Nothing was changed" in page.text) == (403, True)
    browser.open("/keys")
    assert asks_for_confirmation(browser.send("/keys", name="mine", scope="read"))
    assert "session.confirmation_refused" in dict(audited(world))


@pytest.mark.parametrize("path", ["https://evil.test", "//evil.test", "/keys?x=1", "javascript:alert(1)", ""])
def test_a_form_goes_on_within_patina_alone(world: World, named: tuple[AdminBrowser, str], path: str) -> None:
    browser, _ = named
    browser.open("/keys")
    assert browser.send("/confirm/copper", confirm_path=path, follow=False).status_code == 422


# What browsers keep


def test_signing_out_and_disconnecting_clear_what_the_browser_keeps(world: World, admin: AdminBrowser) -> None:
    other = sign_in(world)
    admin.open("/trail")
    answer = admin.send("/signout", follow=False)
    assert answer.headers["clear-site-data"] == '"cache", "storage"'
    assert ("session.signed_out", "") in audited(world)
    with transaction() as session:
        (name,) = [one.name for one in accounts.accounts(session)]
    other.open("/disconnect")
    answer = other.send("/disconnect", name=name, follow=False)
    assert answer.headers["clear-site-data"] == '"cache", "storage"'
    assert count("web_session") == 0


def test_a_search_stands_in_no_address(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    page = admin.find("ann@acme.test")
    assert f'href="/records/person/{person}"' in page.text
    assert "ann" not in str(page.url)
    assert admin.open(str(page.url)).text.count(f"/records/person/{person}") == 1, "a reload finds it again"
    assert f"/records/person/{person}" not in admin.open("/records?q=ann@acme.test").text
    other = World(world.sandbox, world.web).open(name="Second")
    assert "This search has expired" in sign_in(other).open(str(page.url)).text
    assert "This search has expired" in admin.open("/records?search=gAAAA\u00e9").text
    refused = admin.send("/records", q="x" * 321)
    assert (refused.status_code, "too long" in refused.text) == (422, True)
    longest = admin.find("\N{GRINNING FACE}" * 320)
    assert longest.status_code == 200


def test_no_address_takes_a_text_that_may_name_a_person() -> None:
    from web.app import create

    known = {
        *("after", "before", "currency", "first", "kind", "limit", "of", "order", "sort", "status", "type"),
        # Sealed, random or a vendor's own.
        *("search", "ticket", "state", "code", "error", "challenge"),
    }
    taken = {parameter.alias for route in documented_routes(create()) for parameter in route.dependant.query_params}
    assert taken <= known
