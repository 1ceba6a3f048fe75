"""An interrupted set-up continues where it stopped, and nothing is imported twice."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import text

from store.accounts import accounts, api_keys, xero_organisations
from store.db.crypto import digest
from store.db.database import transaction
from tests.integration.test_connect_pages import FORM, count, one_time_secret
from tests.support.admin import AdminBrowser, sign_in
from tests.support.databases import clear_budgets
from tests.support.world import Sandbox, World
from worker.sync import run_processor


@pytest.fixture(autouse=True)
def nobody_tried_before(database: str) -> None:
    clear_budgets("throttle")


@pytest.fixture
def account(sandbox: Sandbox, web: httpx.Client) -> dict[str, str]:
    """A Copper admin's key and a Xero organisation, not connected."""
    copper_account = sandbox.simulate("add_account", name="Acme Sales")
    sandbox.simulate("add_organisation", name="Acme Ltd")
    return {"key": copper_account["api_key"], "email": copper_account["email"]}


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
        while run_processor.step(account_id, run_id).has_more:
            pass


def test_signing_in_again_leads_to_the_missing_step(web: httpx.Client, account: dict[str, str]) -> None:
    assert page_of(signed_in(web, account)) == "/connect/xero"
    choose_organisation(signed_in(web, account))
    finish_imports()
    second_browser = signed_in(web, account)
    assert page_of(second_browser) == "/settings?setup=1"
    assert "Step 3 of 4" in (second_browser.page.text if second_browser.page else "")
    assert count("sync_run") == 2, "the import went on while the settings were left alone, and is not done again"
    with transaction() as session:
        (account_row,) = accounts.list_accounts(session)
        assert all(
            organisation.invoices_synced_through
            for organisation in xero_organisations.list_connected(session, account_row.id)
        )

    assert second_browser.send("/settings", FORM, setup="1").url.path == "/progress"
    assert page_of(signed_in(web, account)) == "/setup/panel"
    finished = signed_in(web, account)
    assert finished.send("/setup/panel/finish").url.path == "/status"
    assert page_of(signed_in(web, account)) == "/settings"
    assert count("sync_run") == 2


def test_an_account_without_an_import_is_imported_on_the_next_sign_in(
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


def test_organisations_selected_twice_at_once_are_imported_once(web: httpx.Client, account: dict[str, str]) -> None:
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


def test_the_panel_url_is_shown_once_and_checked_off_when_opened(web: httpx.Client, account: dict[str, str]) -> None:
    choose_organisation(signed_in(web, account))
    browser = signed_in(web, account)
    browser.send("/settings", FORM, setup="1")
    assert "Step 4 of 4" in browser.open("/progress").text
    assert "Create panel URL" in browser.open("/setup/panel").text
    page = browser.send("/setup/panel")
    url = one_time_secret(page)
    assert re.fullmatch(rf"{re.escape(str(web.base_url))}/panel\?token=pat_\S+", url)
    assert "script-src 'self'" in page.headers["content-security-policy"]

    response = browser.open(str(page.url.raw_path.decode()))
    assert url not in response.text
    assert "can&#39;t be shown again" in response.text or "can't be shown again" in response.text
    assert count("api_key") == 1, "loading a page creates nothing"
    assert "✓" not in response.text
    assert "Create a new URL" in browser.open("/setup/panel").text

    with transaction() as session:
        api_keys.record_use(session, [digest(url.partition("token=")[2])])
    page = browser.open("/setup/panel")
    assert "✓ The panel works" in page.text
    assert 'href="/setup/panel"' in browser.open("/keys").text
    assert 'href="/setup/panel"' in browser.open("/settings").text


def test_the_panel_url_is_not_shown_to_another_browser(world: World) -> None:
    browser, other_browser = sign_in(world), sign_in(world)
    browser.open("/setup/panel")
    location = browser.send("/setup/panel", follow=False).headers["location"]
    assert "pat_" not in other_browser.open(location).text
    assert "pat_" not in browser.open(location).text, "whoever tried it, it is used"


def test_an_account_connected_on_the_command_line_skips_set_up(world: World) -> None:
    assert page_of(sign_in(world)) == "/settings"
