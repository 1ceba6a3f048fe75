"""Set-up that is left half way is taken up where it stopped, and nothing is imported twice."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import text

from store import access, accounts
from store.database import transaction
from store.secrets import digest
from tests.admin import AdminBrowser
from tests.databases import forget_budgets
from tests.test_pages import FORM, count, shown_once, sign_in
from tests.world import Sandbox, World
from worker import sync


@pytest.fixture(autouse=True)
def nobody_tried_before(database: str) -> None:
    forget_budgets("throttle")


@pytest.fixture
def account(sandbox: Sandbox, web: httpx.Client) -> dict[str, str]:
    """A Copper admin's key, and an organisation at Xero, nothing connected."""
    made = sandbox.act("add_account", name="Acme Sales")
    sandbox.act("add_organisation", name="Acme Ltd")
    return {"key": made["api_key"], "email": made["email"]}


def signed_in(web: httpx.Client, account: dict[str, str]) -> AdminBrowser:
    browser = AdminBrowser(web)
    assert browser.sign_in(**account).status_code == 200
    return browser


def page_of(browser: AdminBrowser) -> str:
    assert browser.page is not None
    return str(browser.page.url.copy_with(scheme=None, netloc=b"").raw_path.decode())


def choose_organisation(browser: AdminBrowser) -> httpx.Response:
    browser.open("/connect/xero")
    page = browser.send("/connect/xero")
    (tenant,) = re.findall(r'name="tenant" value="([^"]+)"', page.text)
    return browser.send("/connect/organisations", tenant=tenant)


def finish_imports() -> None:
    with transaction() as session:
        runs = session.execute(text("SELECT account_id, id FROM sync_run WHERE state = 'running'")).all()
    for account_id, run_id in runs:
        while sync.step(account_id, run_id).more:
            pass


def test_signing_in_again_leads_to_the_step_that_is_missing(web: httpx.Client, account: dict[str, str]) -> None:
    assert page_of(signed_in(web, account)) == "/connect/xero"
    choose_organisation(signed_in(web, account))
    finish_imports()
    again = signed_in(web, account)
    assert page_of(again) == "/settings?first=1"
    assert "Step 3 of 4" in (again.page.text if again.page else "")
    assert count("sync_run") == 2, "the import went on while the settings were left alone, and is not done again"
    with transaction() as session:
        (known,) = accounts.accounts(session)
        assert all(one.invoices_seen_to for one in accounts.organisations(session, known.id))

    assert again.send("/settings", FORM, first="1").url.path == "/progress"
    assert page_of(signed_in(web, account)) == "/setup/panel"
    finished = signed_in(web, account)
    assert finished.send("/setup/panel/finish").url.path == "/status"
    assert page_of(signed_in(web, account)) == "/settings"
    assert count("sync_run") == 2


def test_an_account_that_an_older_version_left_without_an_import_is_imported_when_somebody_signs_in(
    web: httpx.Client, account: dict[str, str]
) -> None:
    choose_organisation(signed_in(web, account))
    with transaction() as session:
        session.execute(text("DELETE FROM sync_run"))
    browser = signed_in(web, account)
    assert count("sync_run") == 2
    with transaction() as session:
        session.execute(text("DELETE FROM sync_run"))
    assert "Nothing has been imported from" in browser.open("/status").text
    assert "Everything is working" not in browser.open("/status").text
    assert browser.send("/progress").url.path == "/progress"
    assert count("sync_run") == 2


def test_organisations_that_are_chosen_twice_at_once_are_imported_once(
    web: httpx.Client, account: dict[str, str]
) -> None:
    browser = signed_in(web, account)
    browser.open("/connect/xero")
    page = browser.send("/connect/xero")
    tenants = re.findall(r'name="tenant" value="([^"]+)"', page.text)
    form, cookies = {"csrf": browser.csrf(), "tenant": tenants}, dict(browser.http.cookies)

    def choose(_: int) -> int:
        return httpx.post(
            f"{web.base_url}/connect/organisations", data=form, cookies=cookies, timeout=30, trust_env=False
        ).status_code

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(choose, range(4))) == {303}
    assert (count("xero_organisation"), count("sync_run")) == (1, 2)


def test_the_panels_url_is_shown_once_and_ticked_when_it_was_opened(web: httpx.Client, account: dict[str, str]) -> None:
    choose_organisation(signed_in(web, account))
    browser = signed_in(web, account)
    browser.send("/settings", FORM, first="1")
    assert "Step 4 of 4" in browser.open("/progress").text
    assert "Create panel URL" in browser.open("/setup/panel").text
    page = browser.send("/setup/panel")
    url = shown_once(page)
    assert re.fullmatch(rf"{re.escape(str(web.base_url))}/panel\?token=pat_\S+", url)
    assert "script-src 'self'" in page.headers["content-security-policy"]

    again = browser.open(str(page.url.raw_path.decode()))
    assert url not in again.text
    assert "can&#39;t be shown again" in again.text or "can't be shown again" in again.text
    assert count("api_key") == 1, "loading a page creates nothing"
    assert "✓" not in again.text
    assert "Create a new URL" in browser.open("/setup/panel").text

    with transaction() as session:
        access.used_keys(session, [digest(url.partition("token=")[2])])
    page = browser.open("/setup/panel")
    assert "✓ The panel works" in page.text
    assert 'href="/setup/panel"' in browser.open("/keys").text
    assert 'href="/setup/panel"' in browser.open("/settings").text


def test_the_url_of_another_browser_is_not_shown(world: World) -> None:
    mine, other = sign_in(world), sign_in(world)
    mine.open("/setup/panel")
    location = mine.send("/setup/panel", follow=False).headers["location"]
    assert "pat_" not in other.open(location).text
    assert "pat_" not in mine.open(location).text, "whoever tried it, it is used"


def test_an_account_connected_by_the_command_line_is_not_led_through_set_up(world: World) -> None:
    assert page_of(sign_in(world)) == "/settings"
