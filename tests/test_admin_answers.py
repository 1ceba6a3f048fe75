"""The pages that answer an admin's questions: records, why, links, who owes, what matches nobody, status."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from store import audit
from store.database import bound, transaction
from store.freshness import Hour
from store.models import RecordType
from tests.admin import AdminBrowser
from tests.databases import forget_budgets
from tests.test_pages import sign_in
from tests.test_project import patina
from tests.world import World
from web import plots
from worker.explain import explain


@pytest.fixture
def admin(world: World) -> AdminBrowser:
    forget_budgets("throttle")
    return sign_in(world)


def said(browser: AdminBrowser) -> str:
    assert browser.page is not None
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", browser.page.text)).strip()


def test_any_record_is_found_and_seen_as_a_user_sees_it(world: World, admin: AdminBrowser) -> None:
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    invoice = world.invoice("ann@acme.test")
    world.settle()
    for wanted in ("ANN@acme", "a person", str(person)):
        assert f'href="/records/person/{person}"' in admin.find(wanted).text, wanted
    for wanted in (invoice.number, invoice.number.lower()):
        assert f'href="/records/person/{person}"' in admin.find(wanted).text, wanted
    for unknown in ("nobody%", "\7", "²", "9" * 30):
        assert admin.find(unknown).status_code == 200, unknown
    admin.find("nobody")
    assert "No record has this name" in said(admin)
    answer = admin.open(f"/records/company/{company}")
    assert invoice.number in answer.text
    assert "script" not in answer.text
    assert f"/companies/{world.copper}/app#/organization/{company}" in answer.text
    assert admin.open(f"/records/company/{company}?status=PAID").status_code == 200
    assert "No invoices with this status" in said(admin)
    admin.open(f"/records/company/{company}/invoices/{invoice.id}/why")
    assert "ann@acme.test , the email address of A person (at this company)" in said(admin)
    assert admin.open(f"/records/lead/1/invoices/{invoice.id}/why").status_code == 404
    for form in ("csv", "jsonl"):
        assert invoice.number in admin.http.get(f"/export/records/company/{company}.{form}").text
        assert invoice.number in admin.http.get(f"/export/invoices.{form}").text


def test_a_near_miss_is_linked_in_one_click_and_undone_in_another(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice(world.contact("Acme", "an@acme.test"))
    world.settle()
    page = admin.open(f"/records/person/{person}/match")
    assert "Differs by one character" in page.text
    form = re.search(
        r'action="/links">.*?name="organisation" value="(\d+)".*?name="contact" value="([^"]+)"', page.text
    )
    assert form
    ends = {"organisation": form[1], "contact": form[2], "type": "person", "record": str(person)}
    admin.send("/links", ends)
    assert "linked to A person by Sam Admin" in said(admin)
    world.settle()
    assert world.shown("people", person) == [invoice.number]
    world.reconcile()
    assert world.shown("people", person) == [invoice.number]
    admin.send("/links/undo", ends)
    world.settle()
    assert world.shown("people", person) == []
    with bound(world.account) as session:
        told = [(one.action, one.who) for one in audit.latest(session, world.account)]
    assert told[:2] == [("contact.unlinked", "Sam Admin"), ("contact.linked", "Sam Admin")]


def test_what_cannot_be_linked_is_refused_and_changes_nothing(world: World, admin: AdminBrowser) -> None:
    world.invoice(world.contact("Stray"))
    world.settle()
    page = admin.open("/unmatched")
    found = re.search(
        r'name="organisation" value="(\d+)"><input type="hidden" name="contact" value="([^"]+)"', page.text
    )
    assert found
    ends = {"organisation": found[1], "contact": found[2], "type": "person"}
    admin.send("/links", {**ends, "record": "999", "from": "unmatched"})
    assert "No person with ID 999. Nothing was linked." in said(admin)
    admin.open("/unmatched")
    for wrong in ({"record": "x"}, {"record": "1", "contact": "x"}, {"record": "1", "type": "task"}):
        assert admin.send("/links", {**ends, **wrong}, follow=False).status_code == 422
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM contact_link")).scalar_one() == 0


def test_who_owes_and_what_matches_nobody_stand_in_lists(world: World, admin: AdminBrowser) -> None:
    company = world.company()
    world.person("ann@acme.test", company=company)
    world.invoice("ann@acme.test", "1234.00", due="2020-01-31")
    world.invoice("ann@acme.test", "5.00", currency="GBP")
    world.invoice(world.contact("Stray"), "77.00")
    lead = world.lead("lee@acme.test")
    world.settle()
    admin.open("/receivables")
    assert "A company 1 NZD 1,234.00 NZD 1,234.00" in said(admin) or "A company 1 GBP 5.00" in said(admin)
    admin.open("/receivables?type=person&sort=open&currency=NZD")
    assert "A person 1 NZD 1,234.00 NZD 1,234.00" in said(admin)
    admin.open("/receivables?type=lead")
    assert "No leads have outstanding invoices" in said(admin)
    admin.open("/unmatched")
    assert "Stray" in said(admin)
    assert "A lead Lead no Xero contact has this email address" in said(admin)
    assert f"/app#/lead/{lead}" in (admin.page.text if admin.page else "")
    assert "Stray" in admin.http.get("/export/unmatched-contacts.csv").text
    assert "no Xero contact has" in admin.http.get("/export/unmatched-records.csv").text


def test_the_status_page_says_first_whether_all_is_well(world: World, admin: AdminBrowser) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    world.reconcile()
    admin.open("/status")
    assert re.search(
        r"Everything is working. Changes typically appear in [\d.]+ s \(99% within [\d.]+ s\)\.", said(admin)
    )
    assert "polyline" in (admin.page.text if admin.page else "")
    assert "Reconciliation Acme Sales Ltd 1" in said(admin)
    assert "of the 10 GB in your plan" in said(admin)
    with transaction() as session:
        session.execute(text("UPDATE inbox SET state = 'failed', error = 'always fails' WHERE kind = 'person'"))
        event = session.execute(text("SELECT id FROM inbox WHERE state = 'failed'")).scalar_one()
    admin.open("/status")
    assert "1 event failed." in said(admin)
    assert "always fails" in said(admin)
    admin.send("/events/replay", {"event": str(event)})
    world.settle()
    admin.open("/status")
    assert "Failed events None." in said(admin)
    with transaction() as session:
        session.execute(text("UPDATE inbox SET state = 'failed' WHERE kind = 'person'"))
    admin.open("/status")
    admin.send("/events/dismiss", {"event": "all"})
    assert "Failed events None." in said(admin)
    assert admin.send("/events/dismiss", {"event": "x"}, follow=False).status_code == 422
    with bound(world.account) as session:
        told = [one.action for one in audit.latest(session, world.account)]
    assert told[:2] == ["events.dismissed", "events.replayed"]


def test_the_panel_the_match_page_and_the_command_count_the_same_invoices(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    invoice = world.invoice(contact)
    bill = world.invoice(contact, type="ACCPAY")
    world.invoice(world.contact("Near", "an@acme.test"), type="ACCPAY")
    world.settle()
    for bills, numbers in (("0", 1), ("1", 2)):
        admin.open("/settings")
        admin.send("/settings", {"record_type": ["person"], "shown": "5", "visible": "everyone", "bills": bills})
        assert len(world.shown("people", person)) == numbers
        admin.open(f"/records/person/{person}")
        assert ("bill" in said(admin)) is (bills == "1")
        admin.open(f"/records/person/{person}/match")
        assert f"{numbers} invoice" in said(admin)
        assert f"{numbers} invoice" in patina("explain", "person", str(person)).stdout
        why = admin.open(f"/records/person/{person}/invoices/{bill.id}/why").status_code
        assert why == (200 if bills == "1" else 404)
        assert admin.open(f"/records/person/{person}/invoices/{invoice.id}/why").status_code == 200
        misses = explain(world.account, RecordType.PERSON, person).near_misses
        assert [miss.invoices for miss in misses] == [int(bills)]


def test_the_audit_log_reads_as_a_log_and_names_both_ends_of_a_link(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    contact = world.contact("Zest Wholesale")
    world.invoice(contact)
    world.settle()
    place = explain(world.account, RecordType.PERSON, person)
    assert place.contacts == ()
    page = admin.open("/unmatched")
    organisation = re.search(r'name="organisation" value="(\d+)"', page.text)
    assert organisation
    ends = {"organisation": organisation[1], "contact": contact, "type": "person", "record": str(person)}
    admin.send("/links", ends)
    admin.send("/links/undo", ends)
    admin.open("/trail")
    for action in ("Contact linked", "Contact unlinked"):
        assert f"{action} Zest Wholesale and A person (person {person})" in said(admin)
    assert "Command line Organisation connected" in said(admin)
    assert "Audit log" in said(admin)


def test_a_plot_has_its_hours_in_order_and_stays_within_its_frame() -> None:
    now = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)
    hours = [Hour(now.replace(minute=0) - timedelta(hours=ago), {0: 9, 18: 1}) for ago in (30, 23, 5, 0)]
    plot = plots.freshness(hours, now)
    assert plot is not None
    assert len(plot.median) == 3, "what is older than a day is not in it"
    assert [x for x, _ in plot.median] == sorted(x for x, _ in plot.median)
    assert all(plot.left <= x <= plot.right and 0 <= y <= plot.bottom for x, y in plot.median + plot.worst)
    assert all(worst[1] < median[1] for worst, median in zip(plot.worst, plot.median, strict=True)), "slower is higher"
    assert plots.freshness([], now) is None


def test_the_command_explains_a_record(world: World) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice(world.contact("Acme Ltd", "ann@acme.test"))
    world.contact("Typo", "anne@acme.test")
    world.settle()
    done = patina("explain", "person", str(person))
    assert done.returncode == 0, done.stderr
    assert "ann@acme.test" in done.stdout
    assert "Acme Ltd" in done.stdout
    assert invoice.number in done.stdout
    assert "Typo" in done.stdout
    assert done.stdout.splitlines()[-1] == "explain ok: 1 address, 1 contact, 1 invoice, 1 possible match"
    assert '"near_misses"' in patina("explain", "person", str(person), "--json").stdout
    assert patina("explain", "task", "1").returncode != 0
    assert patina("explain", "person", "424242").returncode == 1
    assert RecordType.PERSON
