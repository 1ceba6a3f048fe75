"""Destructive actions ask for confirmation; a removed organisation disappears at once."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import text

from services import access, connect
from store.accounts import account_settings, admins, api_keys, deprovisioning, xero_organisations
from store.db.database import account_transaction, transaction
from store.db.enums import RecordType
from store.read_model import projection
from tests.integration.test_admin_pages import page_text
from tests.integration.test_connect_pages import audit_actions
from tests.support.admin import AdminBrowser, sign_in
from tests.support.databases import clear_budgets
from tests.support.world import World
from worker.sync import cleanup_tasks


@pytest.fixture
def two(unconnected: World) -> World:
    """An account with two organisations, and a person with an unpaid invoice of each."""
    clear_budgets("throttle")
    world = unconnected.open(organisations=2)
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    world.opportunity(company=company, person=person)
    for organisation, total in ((0, "100.00"), (1, "23.50")):
        contact = world.contact("Ann", "ann@acme.test", organisation=organisation)
        world.invoice(contact, total, organisation=organisation, due="2020-01-31")
    world.settle()
    return world


def organisation_ids(world: World) -> list[int]:
    with transaction() as session:
        return [organisation.id for organisation in xero_organisations.list_connected(session, world.account)]


def test_rows_and_balances_of_a_removed_organisation_disappear_with_its_removal(two: World) -> None:
    kept_id, removed_id = organisation_ids(two)
    company = two.record_ids("company")[0]
    admin = sign_in(two)
    admin.open(f"/organisations/{removed_id}/remove")
    assert "1 invoice of Acme Sales Ltd 2, now on 3 records in Copper" in page_text(admin)
    admin.send(f"/organisations/{removed_id}/remove")
    assert "Acme Sales Ltd 2 removed." in page_text(admin)

    assert len(two.invoice_numbers("companies", company)) == 1
    admin.open(f"/records/company/{company}")
    assert "NZD 100.00" in page_text(admin)
    assert "123.50" not in page_text(admin)
    admin.open("/receivables")
    assert "A company" in page_text(admin)
    assert "100.00" in page_text(admin)
    assert "123.50" not in page_text(admin)
    admin.open(f"/records/company/{company}/match")
    assert "Acme Sales Ltd 2" not in page_text(admin)
    assert two.compare().is_clean, "a rebuild would give the same rows and sums"

    with transaction() as session:
        projection.rebuild(session, two.account)
    assert two.compare().is_clean
    assert len(two.invoice_numbers("companies", company)) == 1, "what is not erased yet does not come back"
    while cleanup_tasks.run_due():
        pass
    assert two.compare().is_clean
    assert organisation_ids(two) == [kept_id]


def test_after_removal_of_the_last_organisation_no_balance_is_left_and_pages_say_why(two: World) -> None:
    company = two.record_ids("company")[0]
    admin = sign_in(two)
    for organisation in organisation_ids(two):
        admin.open(f"/organisations/{organisation}/remove")
        admin.send(f"/organisations/{organisation}/remove")
    assert two.rows("companies", company) == []
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM record_balance")).scalar_one() == 0
    assert two.compare().is_clean
    for path in ("/status", "/receivables", "/unmatched", "/records", "/settings", "/progress"):
        page = admin.open(path)
        assert "Xero isn't connected" in page_text(admin).replace("&#39;", "'"), path
        assert 'href="/connect/xero">Connect Xero' in page.text, path
        assert "Everything is working" not in page.text


def test_an_organisation_reconnected_before_its_erasure_shows_all_its_invoices(two: World) -> None:
    dropped = organisation_ids(two)[1]
    company = two.record_ids("company")[0]
    assert connect.remove_organisation(two.account, dropped, actor="Sam Admin")
    with transaction() as session:
        assert deprovisioning.erase_organisation(session, two.account, dropped, 1) > 0, "some of it is erased already"
    two.authorise(two.tenants)
    while cleanup_tasks.run_due():
        pass
    two.backfill()
    two.settle()
    assert len(two.invoice_numbers("companies", company)) == 2
    assert two.compare().is_clean


def test_a_confirmation_page_changes_nothing_and_refuses_ids_of_other_accounts(
    world: World, admin: AdminBrowser
) -> None:
    other_world = World(world.sandbox, world.web).open(name="Other Sales")
    with transaction() as session:
        key = api_keys.list_active(session, world.account)[0]
        admins.add(session, world.account, 77, "Vic")
        other_key_id = api_keys.list_active(session, other_world.account)[0].id
        admins.add(session, other_world.account, 78, "Theirs")
    (own_id,), (foreign_id,) = organisation_ids(world), organisation_ids(other_world)
    for path, expected_text in (
        (f"/organisations/{own_id}/remove", "Remove Acme Sales Ltd 1?"),
        (f"/keys/{key.id}/revoke", key.prefix),
        ("/admins/77/remove", "Vic (Copper user 77) is signed out everywhere"),
    ):
        assert admin.open(path).status_code == 200
        assert expected_text in page_text(admin), path
        assert 'method="post"' in (admin.page.text if admin.page else "")
    for path in (f"/organisations/{foreign_id}/remove", f"/keys/{other_key_id}/revoke", "/admins/78/remove"):
        assert admin.open(path).status_code == 404, path
        assert "Unmatched Status Settings" in page_text(admin), "with the navigation"
    for path in ("/organisations/x/remove", f"/keys/{'9' * 30}/revoke", f"/admins/{'9' * 19}/remove"):
        assert admin.open(path).status_code == 404, path
    with transaction() as session:
        assert api_keys.list_active(session, world.account)[0].id == key.id
        assert admins.list_names(session, world.account) == {77: "Vic"}
    assert organisation_ids(world) == [own_id]


def test_a_removal_is_confirmed_once(world: World, admin: AdminBrowser) -> None:
    with transaction() as session:
        admins.add(session, world.account, 77, "Vic <Viewer>")
    access.create_key(world.account, "Old key")
    number = re.findall(r'href="/keys/(\d+)/revoke"', admin.open("/keys").text)[-1]
    admin.open(f"/keys/{number}/revoke")
    assert "Read: invoices by record" in page_text(admin)
    admin.send(f"/keys/{number}/revoke")
    assert "API key Old key revoked." in page_text(admin)
    admin.open("/keys")
    assert "API key Old key revoked." not in page_text(admin)
    admin.open("/admins/77/remove")
    page = admin.send("/admins/77/remove")
    assert "Vic &lt;Viewer&gt; removed." in page.text
    assert {"key.revoked", "admin.removed"} <= set(audit_actions())


def test_an_unsigned_notice_is_not_shown(admin: AdminBrowser) -> None:
    admin.http.cookies.set("patina-notice", "WW91ciBhY2NvdW50IGlzIGdvbmU=.forged")
    assert "gone" not in admin.open("/keys").text


def test_the_goodbye_page_is_only_shown_after_disconnecting(world: World, admin: AdminBrowser) -> None:
    assert admin.open("/disconnected").url.path == "/status"
    assert AdminBrowser(world.web).open("/disconnected").url.path == "/connect"
    with account_transaction(world.account) as session:
        assert account_settings.get(session, world.account).record_types
    assert len(RecordType) == 4
