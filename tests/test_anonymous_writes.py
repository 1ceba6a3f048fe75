"""What somebody who is nobody yet may have stored: little, for minutes, and never in anybody else's place."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from runtime.settings import override
from store import access
from store.access import ANYBODY, MAX_STATES_OF_BROWSER
from store.database import transaction
from tests.admin import AdminBrowser
from tests.databases import forget_budgets
from tests.test_pages import add_viewer, count
from tests.world import World
from worker import schedule


@pytest.fixture(autouse=True)
def nobody_tried_before(database: str) -> None:
    forget_budgets("throttle")


def post_back(web: httpx.Client, **fields: Any) -> httpx.Response:
    """Copper's cross-site POST, without a cookie."""
    return httpx.post(f"{web.base_url}/callback/copper", data=fields, trust_env=False)


def begin(world: World) -> tuple[AdminBrowser, dict[str, str]]:
    """A browser that has signed in at Copper, and what it is sent back with."""
    browser = AdminBrowser(world.web)
    browser.open("/connect")
    away = browser.send("/signin/copper", follow=False).headers["location"]
    page = httpx.get(f"{away}&login_hint={add_viewer(world)['email']}", trust_env=False).text
    return browser, dict(re.findall(r'name="(code|state)" value="([^"]*)"', page))


def test_a_way_back_that_nobody_was_sent_on_stores_nothing(world: World) -> None:
    for fields in ({}, {"code": "x", "state": "made-up"}, {"code": "x" * 4_000, "state": "y" * 4_000}):
        answer = post_back(world.web, **fields)
        assert (answer.status_code, answer.headers["location"]) == (303, "/signin/copper/finish?ticket=")
        assert "set-cookie" not in answer.headers, "it replaces no cookie of a browser that sent none"
    assert count("oauth_state") == 0
    refused = AdminBrowser(world.web).open("/signin/copper/finish?ticket=")
    assert (refused.status_code, "was not begun here" in refused.text) == (400, True)


@pytest.mark.parametrize("field", ["code", "state"])
def test_a_code_and_a_state_have_their_length(world: World, field: str) -> None:
    _, sent = begin(world)
    long = post_back(world.web, **{**sent, field: sent[field] + "x" * 257})
    assert long.headers["location"].endswith("ticket=")
    assert count("oauth_state") == 1, "and what waits for the right one still does"
    assert not post_back(world.web, **sent).headers["location"].endswith("ticket=")
    assert count("oauth_state") == 1, "the ticket takes the state's place"


def test_a_state_whose_time_is_over_gets_no_ticket_and_goes_with_the_next_sweep(world: World) -> None:
    _, sent = begin(world)
    with transaction() as session:
        session.execute(text("UPDATE oauth_state SET expires_at = now()"))
    assert post_back(world.web, **sent).headers["location"].endswith("ticket=")
    assert count("oauth_state") == 1
    schedule.tick()
    assert count("oauth_state") == 0


def test_a_ticket_lasts_no_longer_than_the_state_it_came_for(world: World) -> None:
    _, sent = begin(world)
    with transaction() as session:
        session.execute(text("UPDATE oauth_state SET expires_at = now() + interval '1 minute'"))
    post_back(world.web, **sent)
    with transaction() as session:
        left = session.execute(text("SELECT extract(epoch FROM expires_at - now()) FROM oauth_state")).scalar_one()
    assert left <= 60


def test_ways_back_are_limited_by_address(web: httpx.Client) -> None:
    statuses = [post_back(web, code="x", state="y").status_code for _ in range(101)]
    assert statuses == [303] * 100 + [429]


def test_without_a_copper_app_nobody_signs_in_with_copper(world: World) -> None:
    _, sent = begin(world)
    override({"COPPER_CLIENT_ID": ""})
    browser = AdminBrowser(world.web)
    browser.open("/connect")
    assert post_back(world.web, **sent).status_code == 404
    assert browser.send("/signin/copper", follow=False).status_code == 404
    assert browser.open(f"/panel/signin?challenge={'x' * 43}").status_code == 404
    assert browser.open("/signin/copper/finish?ticket=x").status_code == 404
    assert count("oauth_state") == 1


def states_of(session: Any) -> list[bytes]:
    return list(session.execute(text("SELECT state_hash FROM oauth_state ORDER BY expires_at")).scalars())


def test_what_waits_for_one_browser_is_bounded_and_the_oldest_goes(database: str) -> None:
    for number in range(MAX_STATES_OF_BROWSER + 5):
        with transaction() as session:
            access.save_state(session, ANYBODY, f"state {number}", "sign-in", "one browser", {})
    with transaction() as session:
        access.save_state(session, ANYBODY, "another's", "sign-in", "another browser", {})
        assert len(states_of(session)) == MAX_STATES_OF_BROWSER + 1
        assert access.take_state(session, ANYBODY, "state 4", "one browser").problem is not None
        assert access.take_state(session, ANYBODY, "state 5", "one browser").problem is None
        assert access.take_state(session, ANYBODY, "another's", "another browser").problem is None


def test_what_waits_for_everybody_is_bounded_and_takes_nothing_of_an_account(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_STATES_OF_ANYBODY", 3)
    with transaction() as session:
        session.execute(text("INSERT INTO account (id, copper_account_id, name) VALUES (7, 7, 'Acme')"))
        access.save_state(session, 7, "an account's", "xero", "a browser", {})
    for number in range(5):
        with transaction() as session:
            access.save_state(session, ANYBODY, f"state {number}", "sign-in", f"browser {number}", {})
    with transaction() as session:
        assert len(states_of(session)) == 4
        assert access.take_state(session, 7, "an account's", "a browser").problem is None
        assert access.take_state(session, ANYBODY, "state 4", "browser 4").problem is None
