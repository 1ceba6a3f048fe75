"""What destroys asks first and says what went; of a removed organisation nothing is shown from that moment on."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import text

from store import access, accounts, closing, projection
from store.database import bound, transaction
from store.models import RecordType
from tests.admin import AdminBrowser
from tests.databases import forget_budgets
from tests.test_admin_answers import said
from tests.test_pages import audited, sign_in
from tests.world import World
from worker import connect, leftovers


@pytest.fixture
def admin(world: World) -> AdminBrowser:
    forget_budgets("throttle")
    return sign_in(world)


@pytest.fixture
def two(unconnected: World) -> World:
    """An account of two organisations, one person with an unpaid invoice of each."""
    forget_budgets("throttle")
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
        return [one.id for one in accounts.organisations(session, world.account)]


def test_rows_and_sums_of_a_removed_organisation_are_gone_with_its_removal(two: World) -> None:
    kept, dropped = organisation_ids(two)
    company = two.rows_of("company")[0]
    admin = sign_in(two)
    admin.open(f"/organisations/{dropped}/drop")
    assert "1 invoice of Acme Sales Ltd 2, now on 3 records in Copper" in said(admin)
    admin.send(f"/organisations/{dropped}/drop")
    assert "Acme Sales Ltd 2 removed." in said(admin)

    assert len(two.shown("companies", company)) == 1
    admin.open(f"/records/company/{company}")
    assert "NZD 100.00" in said(admin)
    assert "123.50" not in said(admin)
    admin.open("/receivables")
    assert "A company 1 NZD 100.00 NZD 100.00" in said(admin)
    admin.open(f"/records/company/{company}/match")
    assert "Acme Sales Ltd 2" not in said(admin)
    assert two.compare().clean, "a rebuild would give the same rows and sums"

    with transaction() as session:
        projection.rebuild(session, two.account)
    assert two.compare().clean
    assert len(two.shown("companies", company)) == 1, "what is not erased yet does not come back"
    while leftovers.clean_up():
        pass
    assert two.compare().clean
    assert organisation_ids(two) == [kept]


def test_after_the_last_organisation_is_removed_nothing_is_owed_and_pages_say_why(two: World) -> None:
    company = two.rows_of("company")[0]
    admin = sign_in(two)
    for organisation in organisation_ids(two):
        admin.open(f"/organisations/{organisation}/drop")
        admin.send(f"/organisations/{organisation}/drop")
    assert two.rows("companies", company) == []
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM record_balance")).scalar_one() == 0
    assert two.compare().clean
    for path in ("/status", "/receivables", "/unmatched", "/records", "/settings", "/progress"):
        page = admin.open(path)
        assert "Xero isn't connected" in said(admin).replace("&#39;", "'"), path
        assert 'href="/connect/xero">Connect Xero' in page.text, path
        assert "Everything is working" not in page.text


def test_an_organisation_that_is_connected_again_before_it_was_erased_shows_all_of_its_invoices(two: World) -> None:
    dropped = organisation_ids(two)[1]
    company = two.rows_of("company")[0]
    assert connect.drop_organisation(two.account, dropped, who="Sam Admin")
    with transaction() as session:
        assert closing.erase_organisation(session, two.account, dropped, 1) > 0, "some of it is erased already"
    two.authorise(two.tenants)
    while leftovers.clean_up():
        pass
    two.backfill()
    two.settle()
    assert len(two.shown("companies", company)) == 2
    assert two.compare().clean


def test_a_page_that_asks_changes_nothing_and_knows_no_other_accounts_things(world: World, admin: AdminBrowser) -> None:
    other = World(world.sandbox, world.web).open(name="Other Sales")
    with transaction() as session:
        key = access.keys(session, world.account)[0]
        access.name_admin(session, world.account, 77, "Vic")
        theirs = access.keys(session, other.account)[0].id
        access.name_admin(session, other.account, 78, "Theirs")
    (mine,), (foreign,) = organisation_ids(world), organisation_ids(other)
    for path, words in (
        (f"/organisations/{mine}/drop", "Remove Acme Sales Ltd 1?"),
        (f"/keys/{key.id}/revoke", key.prefix),
        ("/admins/77/remove", "Vic (Copper user 77) is signed out everywhere"),
    ):
        assert admin.open(path).status_code == 200
        assert words in said(admin), path
        assert 'method="post"' in (admin.page.text if admin.page else "")
    for path in (f"/organisations/{foreign}/drop", f"/keys/{theirs}/revoke", "/admins/78/remove"):
        assert admin.open(path).status_code == 404, path
        assert "Audit log" in said(admin), "with the navigation"
    for path in ("/organisations/x/drop", f"/keys/{'9' * 30}/revoke", f"/admins/{'9' * 19}/remove"):
        assert admin.open(path).status_code == 404, path
    with transaction() as session:
        assert access.keys(session, world.account)[0].id == key.id
        assert access.named_admins(session, world.account) == {77: "Vic"}
    assert organisation_ids(world) == [mine]


def test_what_went_is_named_once(world: World, admin: AdminBrowser) -> None:
    with transaction() as session:
        access.name_admin(session, world.account, 77, "Vic <Viewer>")
    connect.make_key(world.account, "Old key")
    number = re.findall(r'href="/keys/(\d+)/revoke"', admin.open("/keys").text)[-1]
    admin.open(f"/keys/{number}/revoke")
    assert "Read: invoices by record" in said(admin)
    admin.send(f"/keys/{number}/revoke")
    assert "API key Old key revoked." in said(admin)
    admin.open("/keys")
    assert "API key Old key revoked." not in said(admin)
    admin.open("/admins/77/remove")
    page = admin.send("/admins/77/remove")
    assert "Vic &lt;Viewer&gt; removed." in page.text
    assert {"key.revoked", "admin.removed"} <= set(audited())


def test_a_notice_that_we_did_not_sign_is_not_shown(admin: AdminBrowser) -> None:
    admin.http.cookies.set("patina-notice", "WW91ciBhY2NvdW50IGlzIGdvbmU=.forged")
    assert "gone" not in admin.open("/keys").text


def test_nobody_is_told_goodbye_who_has_not_just_disconnected(world: World, admin: AdminBrowser) -> None:
    assert admin.open("/goodbye").url.path == "/status"
    assert AdminBrowser(world.web).open("/goodbye").url.path == "/connect"
    with bound(world.account) as session:
        assert accounts.choices(session, world.account).record_types
    assert len(RecordType) == 4
