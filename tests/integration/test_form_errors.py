"""Refused forms keep the typed values; invalid URLs get a helpful page."""

from __future__ import annotations

import os
import re
import signal
import time
from html import unescape

import httpx
import psycopg
import pytest
from sqlalchemy import text
from starlette.datastructures import FormData

from runtime.settings import override_settings
from store.accounts import account_settings, admins, api_keys, xero_organisations
from store.db.database import conninfo, transaction
from tests.integration.test_admin_pages import page_text
from tests.integration.test_connect_pages import FORM, audit_actions, count
from tests.support.admin import AdminBrowser
from tests.support.databases import clear_budgets, unavailable
from tests.support.world import World
from web.admin import forms


def field(page: httpx.Response, name: str) -> str:
    """The HTML tag of the field with that name."""
    match = re.search(rf'<(?:input|select)[^>]*\bid="{name}"[^>]*>', page.text)
    assert match, (name, page.text)
    return unescape(match[0])


def is_refused(page: httpx.Response, name: str) -> bool:
    """Whether the page shows the error in its title, above the form, and at the field."""
    assert page.status_code == 422
    assert "<title>Error: " in page.text
    assert f'<a href="#{name}">' in page.text
    assert f'id="{name}-error"' in page.text
    return f"{name}-error" in field(page, name) and 'aria-invalid="true"' in field(page, name)


def test_a_refused_sign_in_keeps_the_email_address_and_never_the_key(world: World) -> None:
    clear_budgets("throttle")
    browser = AdminBrowser(world.web)
    page = browser.sign_in("a-wrong-key", "sam@acme.test")
    assert is_refused(page, "key")
    assert 'value="sam@acme.test"' in field(page, "email")
    assert "a-wrong-key" not in page.text


def test_no_secret_is_part_of_a_refused_form() -> None:
    form = FormData([("key", "a secret"), ("csrf", "a token"), ("email", "ada@acme.test")])
    assert forms.rejected_form(form, {"key": "wrong"}).values == {"email": ["ada@acme.test"]}


def test_refused_settings_keep_every_choice_and_touch_no_other_form(world: World, admin: AdminBrowser) -> None:
    admin.open("/settings")
    page = admin.send(
        "/settings", {"record_type": ["lead"], "invoice_limit": "17", "visible": "teams", "bill_type": ["lead"]}
    )
    assert page.status_code == 422
    assert 'value="17"' in field(page, "invoice_limit")
    ticked = set(re.findall(r'name="(\w+)" value="(\w+)" checked', page.text))
    assert ticked == {("record_type", "lead"), ("visible", "teams"), ("bill_type", "lead")}
    assert "Select at least one team" in page.text

    page = admin.send("/settings", {**FORM, "invoice_limit": "0<b>"})
    assert is_refused(page, "invoice_limit")
    assert 'value="0<b>"' in field(page, "invoice_limit")
    assert "0<b>" not in page.text


def test_a_refused_form_does_not_change_the_other_settings_of_the_page(world: World, admin: AdminBrowser) -> None:
    admin.open("/settings")
    page = admin.send("/copper/key", email="other@acme.test", key="wrong-key")
    assert is_refused(page, "key")
    assert 'value="other@acme.test"' in field(page, "email")
    assert '<details id="copper-key" open>' in page.text
    assert "wrong-key" not in page.text
    ticked = re.findall(r'name="record_type" value="(\w+)" checked', page.text)
    assert len(ticked) == 4

    for user in ("²", "77", "", " \x07 "):
        assert is_refused(admin.send("/admins", user=user), "user"), user
    assert count("named_admin") == 0


def test_a_key_requires_a_name_and_a_known_scope(world: World, admin: AdminBrowser) -> None:
    keys = count("api_key")
    admin.open("/keys")
    for name in ("", "   ", "\x07"):
        page = admin.send("/keys", name=name, scope="panel")
        assert is_refused(page, "name")
        assert re.search(r'value="panel" selected', page.text)
    page = admin.send("/keys", name="The CRM", scope="root")
    assert is_refused(page, "scope")
    assert 'value="The CRM"' in field(page, "name")
    assert count("api_key") == keys


def test_reloading_the_page_of_a_new_key_creates_and_shows_no_key(world: World, admin: AdminBrowser) -> None:
    keys = count("api_key")
    admin.open("/keys")
    page = admin.send("/keys", name="The CRM", scope="read")
    assert [response.status_code for response in page.history] == [303]
    assert page.url.path == "/keys/new"
    assert "pat_" in page.text
    reloaded = admin.http.get(str(page.url))
    assert "pat_" not in reloaded.text
    assert "shown again" in reloaded.text
    assert count("api_key") == keys + 1
    assert count("oauth_state") == 0, "nothing of it is kept"


def test_too_long_a_search_for_a_record_is_refused_at_its_field(world: World, admin: AdminBrowser) -> None:
    contact = world.contact("Stray")
    world.invoice(contact)
    world.settle()
    organisation = re.findall(r'href="/contacts/(\d+)/', admin.open("/unmatched").text)[0]
    for path in ("/unmatched", f"/contacts/{organisation}/{contact}"):
        page = admin.send(path, q="x" * 321)
        assert is_refused(page, "q"), path
        assert "Shorten it" in page.text


def test_a_refused_confirmation_keeps_what_was_typed(world: World, admin: AdminBrowser) -> None:
    admin.open("/disconnect")
    page = admin.send("/disconnect", name="acme sales")
    assert is_refused(page, "name")
    assert 'value="acme sales"' in field(page, "name")


def test_selecting_no_record_type_is_questioned_and_never_saved_silently(world: World, admin: AdminBrowser) -> None:
    admin.open("/settings")
    page = admin.send("/settings", {"invoice_limit": "5", "visible": "everyone"})
    assert (page.status_code, "confirm that nobody should see invoices" in page.text) == (422, True)
    with transaction() as session:
        assert len(account_settings.get(session, world.account).record_types) == 4
    page = admin.send("/settings", {"invoice_limit": "5", "visible": "everyone", "none_ok": "1"})
    assert page.url.path == "/settings"
    assert "nobody sees any invoices in Copper" in page.text
    with transaction() as session:
        assert account_settings.get(session, world.account).record_types == ()


@pytest.mark.parametrize(
    "path",
    [
        "/copper/key",
        "/admins",
        "/events/replay",
        "/events/dismiss",
        "/links",
        "/links/remove",
        "/signout",
        "/signin/copper",
    ],
)
def test_a_get_request_of_a_form_url_redirects_to_the_page_of_the_form(admin: AdminBrowser, path: str) -> None:
    page = admin.open(path)
    assert page.status_code == 200
    assert [response.status_code for response in page.history][:1] == [303]
    assert page.url.path in {"/settings", "/status", "/unmatched", "/connect"}


def test_invalid_urls_get_a_helpful_page_with_a_link_back(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    for path, status, message in (
        ("/records/person/999999", 404, "No person with Copper ID 999999 has synced."),
        ("/records/person/999999/match", 404, "No person with Copper ID 999999 has synced."),
        ("/records/person/abc", 404, '"abc" isn\'t a Copper ID.'),
        (f"/records/person/{'9' * 30}", 404, "isn't a Copper ID."),
        ("/records/task/1", 404, '"task" isn\'t a record type.'),
        (f"/records/person/{person}?status=BOGUS", 422, '"BOGUS" isn\'t an invoice status.'),
        (f"/records/person/{person}?limit=x", 422, "isn't a number of invoices"),
        ("/receivables?currency=%07", 422, "isn't a currency code."),
        ("/receivables?sort=name", 422, '"name" isn\'t an amount to sort by.'),
        ("/unmatched?type=task", 422, '"task" isn\'t a record type.'),
        (f"/audit?before={'9' * 30}", 422, "isn't valid here"),
        ("/audit?before=²", 422, "isn't valid here"),
        ("/nowhere", 404, "This page doesn't exist."),
        ("/static/nothing.css", 404, "This file doesn't exist"),
    ):
        response = admin.open(path)
        assert response.status_code == status, path
        assert message in unescape(page_text(admin)), path
        assert "Input should be" not in response.text, path
        assert ">Settings<" in response.text, "the navigation stays"
        assert "Go to Status" in response.text
    assert admin.open(f"/records/person/{person}?status=PAID").status_code == 200
    response = AdminBrowser(world.web).open("/nowhere")
    assert (response.status_code, "Audit log" in response.text) == (404, False)
    assert world.web.get("/nowhere").headers["content-type"] == "application/problem+json"


def test_a_change_and_its_audit_row_are_atomic(world: World, admin: AdminBrowser) -> None:
    viewer = world.sandbox.simulate("add_user", account=world.copper, name="Vic Viewer")
    person = world.person("ann@acme.test")
    contact = world.contact("Stray")
    world.invoice(contact)
    world.settle()
    with transaction() as session:
        key = api_keys.list_active(session, world.account)[0].id
        organisation_id = xero_organisations.list_connected(session, world.account)[0].id
        admins.add(session, world.account, 77, "Vic")
        session.execute(text("UPDATE inbox SET state = 'failed' WHERE category = 'person'"))
        session.execute(text("ALTER TABLE audit_log ADD CHECK (action LIKE '%.signed_in') NOT VALID"))
    before = audit_actions()
    admin.http.headers["connection"] = "close"
    ends = {"organisation": str(organisation_id), "contact": contact, "type": "person", "record": str(person)}
    admin.open("/settings")
    for path, form in (
        ("/settings", {**FORM, "invoice_limit": "9"}),
        ("/keys", {"name": "The CRM", "scope": "read"}),
        (f"/keys/{key}/revoke", {}),
        ("/admins", {"user": str(viewer["user"])}),
        ("/admins/77/remove", {}),
        ("/links", ends),
        ("/events/replay", {"event": "all"}),
        ("/events/dismiss", {"event": "all"}),
        (f"/organisations/{organisation_id}/remove", {}),
    ):
        assert admin.send(path, form, follow=False).status_code == 500, path
    with transaction() as session:
        assert account_settings.get(session, world.account).invoice_limit == 5
        assert [key_.id for key_ in api_keys.list_active(session, world.account)] == [key]
        assert admins.list_names(session, world.account) == {77: "Vic"}
        assert session.execute(text("SELECT count(*) FROM inbox WHERE state = 'failed'")).scalar_one() > 0
        assert len(xero_organisations.list_connected(session, world.account)) == 1
    assert (count("contact_link"), audit_actions()) == (0, before)


# A database that does not answer


def test_a_page_that_waits_for_a_lock_ends_with_a_clear_message(world: World, admin: AdminBrowser) -> None:
    override_settings({"PAGE_STATEMENT_TIMEOUT_SECONDS": "0.5"})
    started = time.monotonic()
    with psycopg.connect(conninfo()) as connection:
        connection.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
        response = admin.open("/receivables")
    assert time.monotonic() - started < 10
    assert (response.status_code, "temporarily unavailable" in response.text) == (503, True)
    assert admin.open("/receivables").status_code == 200


def test_a_page_does_not_wait_for_a_hanging_database(world: World, admin: AdminBrowser) -> None:
    override_settings({"PAGE_STATEMENT_TIMEOUT_SECONDS": "0.5"})
    started = time.monotonic()
    with psycopg.connect(conninfo(), autocommit=True) as connection:
        backends = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
        for (pid,) in backends:
            os.kill(pid, signal.SIGSTOP)
        try:
            response = admin.open("/receivables")
        finally:
            for (pid,) in backends:
                os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - started < 10
    assert (response.status_code, "temporarily unavailable" in response.text) == (503, True)
    assert admin.open("/receivables").status_code == 200


def test_an_unavailable_database_gets_a_clear_message(world: World, admin: AdminBrowser) -> None:
    with unavailable():
        for path in ("/status", "/nowhere", "/connect"):
            response = admin.open(path)
            assert response.status_code in {503, 404}, path
            assert "Traceback" not in response.text
        assert "temporarily unavailable" in admin.open("/status").text
    assert admin.open("/status").status_code == 200
