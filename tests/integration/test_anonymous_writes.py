"""Rows that anonymous visitors can create are few, short-lived, and never displace rows of others."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from runtime.settings import override_settings
from store.accounts import oauth_state
from store.accounts.oauth_state import MAX_PER_BROWSER, NO_ACCOUNT
from store.db.database import transaction
from tests.integration.test_connect_pages import add_viewer, count
from tests.support.admin import AdminBrowser
from tests.support.databases import clear_budgets
from tests.support.world import World
from worker.jobs import scheduler


@pytest.fixture(autouse=True)
def nobody_tried_before(database: str) -> None:
    clear_budgets("throttle")


def post_back(web: httpx.Client, **fields: Any) -> httpx.Response:
    """Copper's cross-site POST, without a cookie."""
    return httpx.post(f"{web.base_url}/callback/copper", data=fields, trust_env=False)


def begin(world: World) -> tuple[AdminBrowser, dict[str, str]]:
    """A browser that started to sign in with Copper, and its OAuth state."""
    browser = AdminBrowser(world.web)
    browser.open("/connect")
    away = browser.send("/signin/copper", follow=False).headers["location"]
    page = httpx.get(f"{away}&login_hint={add_viewer(world)['email']}", trust_env=False).text
    return browser, dict(re.findall(r'name="(code|state)" value="([^"]*)"', page))


def test_a_callback_without_a_sign_in_stores_nothing(world: World) -> None:
    for fields in ({}, {"code": "x", "state": "made-up"}, {"code": "x" * 4_000, "state": "y" * 4_000}):
        response = post_back(world.web, **fields)
        assert (response.status_code, response.headers["location"]) == (303, "/signin/copper/finish?ticket=")
        assert "set-cookie" not in response.headers, "it replaces no cookie of a browser that sent none"
    assert count("oauth_state") == 0
    refused = AdminBrowser(world.web).open("/signin/copper/finish?ticket=")
    assert (refused.status_code, "was not started here" in refused.text) == (400, True)


@pytest.mark.parametrize("field", ["code", "state"])
def test_a_code_or_state_of_a_wrong_length_is_refused(world: World, field: str) -> None:
    _, state = begin(world)
    long = post_back(world.web, **{**state, field: state[field] + "x" * 257})
    assert long.headers["location"].endswith("ticket=")
    assert count("oauth_state") == 1, "and what waits for the right one still does"
    assert not post_back(world.web, **state).headers["location"].endswith("ticket=")
    assert count("oauth_state") == 1, "the ticket takes the state's place"


def test_an_expired_state_gets_no_ticket_and_is_deleted_by_the_next_sweep(world: World) -> None:
    _, state = begin(world)
    with transaction() as session:
        session.execute(text("UPDATE oauth_state SET expires_at = now()"))
    assert post_back(world.web, **state).headers["location"].endswith("ticket=")
    assert count("oauth_state") == 1
    scheduler.tick()
    assert count("oauth_state") == 0


def test_a_ticket_expires_with_its_state(world: World) -> None:
    _, state = begin(world)
    with transaction() as session:
        session.execute(text("UPDATE oauth_state SET expires_at = now() + interval '1 minute'"))
    post_back(world.web, **state)
    with transaction() as session:
        remaining = session.execute(text("SELECT extract(epoch FROM expires_at - now()) FROM oauth_state")).scalar_one()
    assert remaining <= 60


def test_callbacks_are_rate_limited_by_address(web: httpx.Client) -> None:
    statuses = [post_back(web, code="x", state="y").status_code for _ in range(101)]
    assert statuses == [303] * 100 + [429]


def test_without_a_copper_app_sign_in_with_copper_is_off(world: World) -> None:
    _, state = begin(world)
    override_settings({"COPPER_CLIENT_ID": ""})
    browser = AdminBrowser(world.web)
    browser.open("/connect")
    assert post_back(world.web, **state).status_code == 404
    assert browser.send("/signin/copper", follow=False).status_code == 404
    assert browser.open(f"/panel/signin?challenge={'x' * 43}").status_code == 404
    assert browser.open("/signin/copper/finish?ticket=x").status_code == 404
    assert count("oauth_state") == 1


def states_of(session: Any) -> list[bytes]:
    return list(session.execute(text("SELECT state_hash FROM oauth_state ORDER BY expires_at")).scalars())


def test_pending_states_of_a_browser_are_bounded_and_the_oldest_is_deleted(database: str) -> None:
    for number in range(MAX_PER_BROWSER + 5):
        with transaction() as session:
            oauth_state.save(session, NO_ACCOUNT, f"state {number}", "sign-in", "one browser", {})
    with transaction() as session:
        oauth_state.save(session, NO_ACCOUNT, "another's", "sign-in", "another browser", {})
        assert len(states_of(session)) == MAX_PER_BROWSER + 1
        assert oauth_state.consume(session, NO_ACCOUNT, "state 4", "one browser").problem is not None
        assert oauth_state.consume(session, NO_ACCOUNT, "state 5", "one browser").problem is None
        assert oauth_state.consume(session, NO_ACCOUNT, "another's", "another browser").problem is None


def test_pending_states_of_all_browsers_are_bounded_and_never_displace_those_of_an_account(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth_state, "MAX_WITHOUT_ACCOUNT", 3)
    with transaction() as session:
        session.execute(text("INSERT INTO account (id, copper_account_id, name) VALUES (7, 7, 'Acme')"))
        oauth_state.save(session, 7, "an account's", "xero", "a browser", {})
    for number in range(5):
        with transaction() as session:
            oauth_state.save(session, NO_ACCOUNT, f"state {number}", "sign-in", f"browser {number}", {})
    with transaction() as session:
        assert len(states_of(session)) == 4
        assert oauth_state.consume(session, 7, "an account's", "a browser").problem is None
        assert oauth_state.consume(session, NO_ACCOUNT, "state 4", "browser 4").problem is None
