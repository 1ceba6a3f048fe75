"""A form that is refused keeps what was typed; addresses that make no sense are answered in plain words."""

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

from runtime.settings import override
from store import access, accounts
from store.database import conninfo, transaction
from tests.admin import AdminBrowser
from tests.databases import forget_budgets
from tests.test_admin_answers import said
from tests.test_pages import FORM, audited, count, sign_in
from tests.world import World
from web import forms


@pytest.fixture
def admin(world: World) -> AdminBrowser:
    forget_budgets("throttle")
    return sign_in(world)


def field(page: httpx.Response, name: str) -> str:
    """The tag of the field of that name."""
    found = re.search(rf'<(?:input|select)[^>]*\bid="{name}"[^>]*>', page.text)
    assert found, (name, page.text)
    return unescape(found[0])


def is_refused(page: httpx.Response, name: str) -> bool:
    """Whether the page says that it was refused: in its title, above the form, and at the field."""
    assert page.status_code == 422
    assert "<title>Error: " in page.text
    assert f'<a href="#{name}">' in page.text
    assert f'id="{name}-error"' in page.text
    return f"{name}-error" in field(page, name) and 'aria-invalid="true"' in field(page, name)


def test_a_refused_sign_in_keeps_the_email_address_and_never_the_key(world: World) -> None:
    forget_budgets("throttle")
    browser = AdminBrowser(world.web)
    page = browser.sign_in("a-wrong-key", "sam@acme.test")
    assert is_refused(page, "key")
    assert 'value="sam@acme.test"' in field(page, "email")
    assert "a-wrong-key" not in page.text


def test_no_secret_is_part_of_a_refused_form() -> None:
    sent = FormData([("key", "a secret"), ("csrf", "a token"), ("email", "ada@acme.test")])
    assert forms.refused(sent, {"key": "wrong"}).values == {"email": ["ada@acme.test"]}


def test_refused_settings_keep_every_choice_and_touch_no_other_form(world: World, admin: AdminBrowser) -> None:
    admin.open("/settings")
    page = admin.send("/settings", {"record_type": ["lead"], "shown": "17", "visible": "teams", "bills": "1"})
    assert page.status_code == 422
    assert 'value="17"' in field(page, "shown")
    ticked = set(re.findall(r'name="(\w+)" value="(\w+)" checked', page.text))
    assert ticked == {("record_type", "lead"), ("visible", "teams"), ("bills", "1")}
    assert "Select at least one team" in page.text

    page = admin.send("/settings", {**FORM, "shown": "0<b>"})
    assert is_refused(page, "shown")
    assert 'value="0<b>"' in field(page, "shown")
    assert "0<b>" not in page.text


def test_another_form_of_the_page_that_is_refused_leaves_the_settings_as_they_are(
    world: World, admin: AdminBrowser
) -> None:
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


def test_a_key_needs_a_name_and_a_known_scope(world: World, admin: AdminBrowser) -> None:
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


def test_a_reload_of_a_new_keys_page_creates_no_key_and_shows_none(world: World, admin: AdminBrowser) -> None:
    keys = count("api_key")
    admin.open("/keys")
    page = admin.send("/keys", name="The CRM", scope="read")
    assert [answer.status_code for answer in page.history] == [303]
    assert page.url.path == "/keys/new"
    assert "pat_" in page.text
    again = admin.http.get(str(page.url))
    assert "pat_" not in again.text
    assert "shown again" in again.text
    assert count("api_key") == keys + 1
    assert count("oauth_state") == 0, "nothing of it is kept"


def test_a_link_that_is_refused_stays_open_at_its_contact(world: World, admin: AdminBrowser) -> None:
    world.invoice(world.contact("Stray"))
    world.invoice(world.contact("Other"))
    world.settle()
    page = admin.open("/unmatched")
    ends = re.findall(
        r'name="organisation" value="(\d+)"><input type="hidden" name="contact" value="([^"]+)"', page.text
    )
    chosen = {"from": "unmatched", "organisation": ends[0][0], "contact": ends[0][1], "currency": "NZD"}
    for wrong in ("²", "abc", "", "9" * 30, "424242"):
        page = admin.send("/links", {**chosen, "type": "company", "record": wrong})
        assert is_refused(page, "record"), wrong
        assert f'value="{wrong}"' in field(page, "record")
        assert page.text.count("<details open>") == 1
        assert '<option value="company" selected>' in page.text
    assert count("contact_link") == 0


def test_a_refused_confirmation_keeps_what_was_typed(world: World, admin: AdminBrowser) -> None:
    admin.open("/disconnect")
    page = admin.send("/disconnect", name="acme sales")
    assert is_refused(page, "name")
    assert 'value="acme sales"' in field(page, "name")


def test_no_record_type_at_all_is_asked_about_and_never_saved_in_silence(world: World, admin: AdminBrowser) -> None:
    admin.open("/settings")
    page = admin.send("/settings", {"shown": "5", "visible": "everyone"})
    assert (page.status_code, "confirm that nobody should see invoices" in page.text) == (422, True)
    with transaction() as session:
        assert len(accounts.choices(session, world.account).record_types) == 4
    page = admin.send("/settings", {"shown": "5", "visible": "everyone", "none_ok": "1"})
    assert page.url.path == "/settings"
    assert "nobody sees any invoices in Copper" in page.text
    with transaction() as session:
        assert accounts.choices(session, world.account).record_types == ()


@pytest.mark.parametrize(
    "path",
    [
        "/copper/key",
        "/admins",
        "/events/replay",
        "/events/dismiss",
        "/links",
        "/links/undo",
        "/signout",
        "/signin/copper",
    ],
)
def test_an_address_that_only_takes_forms_leads_to_the_forms_page(admin: AdminBrowser, path: str) -> None:
    page = admin.open(path)
    assert page.status_code == 200
    assert [answer.status_code for answer in page.history][:1] == [303]
    assert page.url.path in {"/settings", "/status", "/unmatched", "/connect"}


def test_addresses_that_make_no_sense_are_answered_in_plain_words_with_a_way_back(
    world: World, admin: AdminBrowser
) -> None:
    person = world.person("ann@acme.test")
    world.settle()
    for path, status, words in (
        ("/records/person/999999", 404, "No person with Copper ID 999999 has synced."),
        ("/records/person/999999/match", 404, "No person with Copper ID 999999 has synced."),
        ("/records/person/abc", 404, '"abc" isn\'t a Copper ID.'),
        (f"/records/person/{'9' * 30}", 404, "isn't a Copper ID."),
        ("/records/task/1", 404, '"task" isn\'t a record type.'),
        (f"/records/person/{person}?status=BOGUS", 422, '"BOGUS" isn\'t an invoice status.'),
        (f"/records/person/{person}?limit=x", 422, "isn't a number of invoices"),
        ("/receivables?currency=%07", 422, "isn't a currency code."),
        ("/receivables?sort=name", 422, 'Sort by "open" or "overdue"'),
        ("/unmatched?type=task", 422, '"task" isn\'t a record type.'),
        (f"/trail?before={'9' * 30}", 422, "isn't valid here"),
        ("/trail?before=²", 422, "isn't valid here"),
        ("/nowhere", 404, "This page doesn't exist."),
        ("/static/nothing.css", 404, "no such file"),
    ):
        answer = admin.open(path)
        assert answer.status_code == status, path
        assert words in unescape(said(admin)), path
        assert "Input should be" not in answer.text, path
        assert "Audit log" in answer.text, "the navigation stays"
        assert "Go to Status" in answer.text
    assert admin.open(f"/records/person/{person}?status=PAID").status_code == 200
    answer = AdminBrowser(world.web).open("/nowhere")
    assert (answer.status_code, "Audit log" in answer.text) == (404, False)
    assert world.web.get("/nowhere").headers["content-type"] == "application/problem+json"


def test_a_change_and_its_audit_row_stand_or_fall_together(world: World, admin: AdminBrowser) -> None:
    viewer = world.sandbox.act("add_user", account=world.copper, name="Vic Viewer")
    person = world.person("ann@acme.test")
    contact = world.contact("Stray")
    world.invoice(contact)
    world.settle()
    with transaction() as session:
        key = access.keys(session, world.account)[0].id
        place = accounts.organisations(session, world.account)[0].id
        access.name_admin(session, world.account, 77, "Vic")
        session.execute(text("UPDATE inbox SET state = 'failed' WHERE kind = 'person'"))
        session.execute(text("ALTER TABLE audit ADD CHECK (action LIKE '%.signed_in') NOT VALID"))
    before = audited()
    admin.http.headers["connection"] = "close"
    ends = {"organisation": str(place), "contact": contact, "type": "person", "record": str(person)}
    admin.open("/settings")
    for path, form in (
        ("/settings", {**FORM, "shown": "9"}),
        ("/keys", {"name": "The CRM", "scope": "read"}),
        (f"/keys/{key}/revoke", {}),
        ("/admins", {"user": str(viewer["user"])}),
        ("/admins/77/remove", {}),
        ("/links", ends),
        ("/events/replay", {"event": "all"}),
        ("/events/dismiss", {"event": "all"}),
        (f"/organisations/{place}/drop", {}),
    ):
        assert admin.send(path, form, follow=False).status_code == 500, path
    with transaction() as session:
        assert accounts.choices(session, world.account).shown == 5
        assert [one.id for one in access.keys(session, world.account)] == [key]
        assert access.named_admins(session, world.account) == {77: "Vic"}
        assert session.execute(text("SELECT count(*) FROM inbox WHERE state = 'failed'")).scalar_one() > 0
        assert len(accounts.organisations(session, world.account)) == 1
    assert (count("contact_link"), audited()) == (0, before)


# A database that does not answer


def test_a_page_that_waits_for_a_lock_ends_in_plain_words(world: World, admin: AdminBrowser) -> None:
    override({"PAGE_SECONDS": "0.5"})
    began = time.monotonic()
    with psycopg.connect(conninfo()) as other:
        other.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
        answer = admin.open("/receivables")
    assert time.monotonic() - began < 10
    assert (answer.status_code, "temporarily unavailable" in answer.text) == (503, True)
    assert admin.open("/receivables").status_code == 200


def test_a_page_does_not_wait_for_a_database_that_hangs(world: World, admin: AdminBrowser) -> None:
    override({"PAGE_SECONDS": "0.5"})
    began = time.monotonic()
    with psycopg.connect(conninfo(), autocommit=True) as other:
        backends = other.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
        for (pid,) in backends:
            os.kill(pid, signal.SIGSTOP)
        try:
            answer = admin.open("/receivables")
        finally:
            for (pid,) in backends:
                os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - began < 10
    assert (answer.status_code, "temporarily unavailable" in answer.text) == (503, True)
    assert admin.open("/receivables").status_code == 200


def test_a_database_that_is_away_is_told_in_plain_words(world: World, admin: AdminBrowser) -> None:
    with psycopg.connect(conninfo(), autocommit=True) as other:
        name = other.info.dbname
        with psycopg.connect(conninfo(), autocommit=True, dbname="postgres") as outside:
            outside.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            try:
                for path in ("/status", "/nowhere", "/connect"):
                    answer = admin.open(path)
                    assert answer.status_code in {503, 404}, path
                    assert "Traceback" not in answer.text
                assert "temporarily unavailable" in admin.open("/status").text
            finally:
                outside.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert admin.open("/status").status_code == 200
