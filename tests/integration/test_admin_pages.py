"""The admin pages: records, match details, links, receivables, unmatched contacts and records, status, audit log."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html import unescape

from sqlalchemy import text

from services.match_report import build_match_report
from store.accounts import audit
from store.db.database import account_transaction, transaction
from store.db.enums import RecordType
from store.ingest.event_latency import HourlyLatency
from tests.support.admin import AdminBrowser
from tests.support.commands import patina
from tests.support.world import World
from web.presentation import charts


def page_text(browser: AdminBrowser) -> str:
    assert browser.page is not None
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", browser.page.text)).strip()


def test_any_record_can_be_searched_and_shown_as_a_user_sees_it(world: World, admin: AdminBrowser) -> None:
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    invoice = world.invoice("ann@acme.test")
    world.settle()
    for search in ("ANN@acme", "a person", str(person)):
        assert f'href="/records/person/{person}"' in admin.find(search).text, search
    for search in (invoice.number, invoice.number.lower()):
        assert f'href="/records/person/{person}"' in admin.find(search).text, search
    for unknown in ("nobody%", "\7", "²", "9" * 30):
        assert admin.find(unknown).status_code == 200, unknown
    admin.find("nobody")
    assert "No record has this name" in page_text(admin)
    response = admin.open(f"/records/company/{company}")
    assert invoice.number in response.text
    assert "script" not in response.text
    assert f"/companies/{world.copper}/app#/organization/{company}" in response.text
    assert admin.open(f"/records/company/{company}?status=PAID").status_code == 200
    assert "No invoices match these filters" in page_text(admin)
    admin.open(f"/records/company/{company}/invoices/{invoice.id}/match")
    assert "ann@acme.test , the email address of A person (at this company)" in page_text(admin)
    assert admin.open(f"/records/lead/1/invoices/{invoice.id}/match").status_code == 404
    for form in ("csv", "jsonl"):
        assert invoice.number in admin.http.get(f"/export/records/company/{company}.{form}").text
        assert invoice.number in admin.http.get(f"/export/invoices.{form}").text


def test_a_near_match_is_linked_with_one_click_and_unlinked_with_another(world: World, admin: AdminBrowser) -> None:
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
    assert "linked to A person by Sam Admin" in page_text(admin)
    world.settle()
    assert world.invoice_numbers("people", person) == [invoice.number]
    world.reconcile()
    assert world.invoice_numbers("people", person) == [invoice.number]
    admin.send("/links/remove", ends)
    world.settle()
    assert world.invoice_numbers("people", person) == []
    with account_transaction(world.account) as session:
        logged = [(entry.action, entry.actor) for entry in audit.latest(session, world.account)]
    assert logged[:2] == [("contact.unlinked", "Sam Admin"), ("contact.linked", "Sam Admin")]


def test_an_invalid_link_is_refused_and_changes_nothing(world: World, admin: AdminBrowser) -> None:
    world.invoice(world.contact("Stray"))
    world.settle()
    page = admin.open("/unmatched")
    match = re.search(r'href="/contacts/(\d+)/([^"]+)"', page.text)
    assert match
    ends = {"organisation": match[1], "contact": match[2], "type": "person"}
    admin.send("/links", {**ends, "record": "999"})
    assert "No person with ID 999" in page_text(admin)
    admin.open("/unmatched")
    for wrong in ({"record": "x"}, {"record": "1", "contact": "x"}, {"record": "1", "type": "task"}):
        assert admin.send("/links", {**ends, **wrong}, follow=False).status_code == 422
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM contact_link")).scalar_one() == 0


def test_receivables_and_unmatched_contacts_are_listed(world: World, admin: AdminBrowser) -> None:
    company = world.company()
    world.person("ann@acme.test", company=company)
    world.invoice("ann@acme.test", "1234.00", due="2020-01-31")
    world.invoice("ann@acme.test", "5.00", currency="GBP")
    world.invoice(world.contact("Stray"), "77.00")
    lead = world.lead("lee@acme.test")
    world.settle()
    admin.open("/receivables")
    assert "overdue NZD 1,234.00 outstanding NZD 1,234.00" in page_text(admin)
    assert "outstanding GBP 5.00" in page_text(admin)
    admin.open("/receivables?type=person&sort=outstanding&currency=NZD")
    assert "outstanding NZD 1,234.00" in page_text(admin)
    assert "outstanding GBP" not in page_text(admin)
    admin.open("/receivables?type=lead")
    assert "No leads have outstanding invoices" in page_text(admin)
    admin.open("/unmatched")
    assert "Stray" in page_text(admin)
    assert "A lead Lead no Xero contact has this email address" in page_text(admin)
    assert f"/app#/lead/{lead}" in (admin.page.text if admin.page else "")
    assert "Stray" in admin.http.get("/export/unmatched-contacts.csv").text
    assert "no Xero contact has" in admin.http.get("/export/unmatched-records.csv").text


def test_unmatched_records_are_listed_on_pages_by_name(world: World, admin: AdminBrowser) -> None:
    leads = {world.lead(f"lead{number}@acme.test") for number in range(60)}
    company = world.company()
    world.settle()
    listed: list[tuple[str, str]] = []
    page = admin.open("/unmatched")
    while True:
        records = re.findall(r'href="/records/(\w+)/(\d+)/match"', page.text)
        assert 0 < len(records) <= 50
        listed += records
        path = re.search(r'href="([^"]+after_record=[^"]+)">Next page', page.text)
        if path is None:
            break
        page = admin.open(unescape(path[1]))
    assert "First page" in page.text
    assert listed[0] == ("company", str(company))
    assert {int(record) for record_type, record in listed[1:] if record_type == "lead"} == leads
    assert len(listed) == 61
    page = admin.open("/unmatched?type=lead")
    assert "type=lead&amp;after_record=lead-" in page.text
    assert admin.open("/unmatched?after_record=lead-1%27").status_code == 422


def test_the_status_page_starts_with_the_overall_health(world: World, admin: AdminBrowser) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    world.reconcile()
    admin.open("/status")
    assert re.search(
        r"Everything is working. Changes typically appear in [\d.]+ s \(99% within [\d.]+ s\)\.", page_text(admin)
    )
    assert "polyline" in (admin.page.text if admin.page else "")
    assert "Reconciliation Acme Sales Ltd 1" in page_text(admin)
    assert "of the 10 GB in your plan" in page_text(admin)
    with transaction() as session:
        session.execute(text("UPDATE inbox SET state = 'failed', error = 'always fails' WHERE category = 'person'"))
        event = session.execute(text("SELECT id FROM inbox WHERE state = 'failed'")).scalar_one()
    admin.open("/status")
    assert "1 event failed." in page_text(admin)
    assert "always fails" in page_text(admin)
    admin.send("/events/replay", {"event": str(event)})
    world.settle()
    admin.open("/status")
    assert "Failed events None." in page_text(admin)
    with transaction() as session:
        session.execute(text("UPDATE inbox SET state = 'failed' WHERE category = 'person'"))
    admin.open("/status")
    admin.send("/events/dismiss", {"event": "all"})
    assert "Failed events None." in page_text(admin)
    assert admin.send("/events/dismiss", {"event": "x"}, follow=False).status_code == 422
    with account_transaction(world.account) as session:
        logged = [entry.action for entry in audit.latest(session, world.account)]
    assert logged[:2] == ["events.dismissed", "events.replayed"]


def test_the_panel_the_match_page_and_the_command_count_the_same_invoices(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    invoice = world.invoice(contact)
    bill = world.invoice(contact, type="ACCPAY")
    world.invoice(world.contact("Near", "an@acme.test"), type="ACCPAY")
    world.settle()
    for bill_types, numbers in (([], 1), (["person"], 2)):
        admin.open("/settings")
        admin.send(
            "/settings",
            {"record_type": ["person"], "invoice_limit": "5", "visible": "everyone", "bill_type": bill_types},
        )
        assert len(world.invoice_numbers("people", person)) == numbers
        admin.open(f"/records/person/{person}")
        assert ("bill" in page_text(admin)) is bool(bill_types)
        admin.open(f"/records/person/{person}/match")
        assert f"{numbers} invoice" in page_text(admin)
        assert f"{numbers} invoice" in patina("explain", "person", str(person)).stdout
        why = admin.open(f"/records/person/{person}/invoices/{bill.id}/match").status_code
        assert why == (200 if bill_types else 404)
        assert admin.open(f"/records/person/{person}/invoices/{invoice.id}/match").status_code == 200
        misses = build_match_report(world.account, RecordType.PERSON, person).near_matches
        assert [miss.invoices for miss in misses] == [len(bill_types)]


def test_the_audit_log_names_the_contact_and_the_record_of_a_link(world: World, admin: AdminBrowser) -> None:
    person = world.person("ann@acme.test")
    contact = world.contact("Zest Wholesale")
    world.invoice(contact)
    world.settle()
    report = build_match_report(world.account, RecordType.PERSON, person)
    assert report.contacts == ()
    page = admin.open("/unmatched")
    organisation = re.search(r'href="/contacts/(\d+)/', page.text)
    assert organisation
    ends = {"organisation": organisation[1], "contact": contact, "type": "person", "record": str(person)}
    admin.send("/links", ends)
    admin.send("/links/remove", ends)
    admin.open("/audit")
    for action in ("Contact linked", "Contact unlinked"):
        assert f"{action} Zest Wholesale and A person (person {person})" in page_text(admin)
    assert "Command line Organisation connected" in page_text(admin)
    assert "Audit log" in page_text(admin)


def test_a_chart_has_its_hours_in_order_and_stays_within_its_frame() -> None:
    now = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)
    hours = [HourlyLatency(now.replace(minute=0) - timedelta(hours=ago), {0: 9, 18: 1}) for ago in (30, 23, 5, 0)]
    plot = charts.latency_chart(hours, now)
    assert plot is not None
    assert len(plot.median) == 3, "what is older than a day is not in it"
    assert [x for x, _ in plot.median] == sorted(x for x, _ in plot.median)
    assert all(plot.left <= x <= plot.right and 0 <= y <= plot.bottom for x, y in plot.median + plot.worst)
    assert all(worst[1] < median[1] for worst, median in zip(plot.worst, plot.median, strict=True)), "slower is higher"
    assert charts.latency_chart([], now) is None


def test_the_command_explains_a_record(world: World) -> None:
    person = world.person("ann@acme.test")
    invoice = world.invoice(world.contact("Acme Ltd", "ann@acme.test"))
    world.contact("Typo", "anne@acme.test")
    world.settle()
    completed = patina("explain", "person", str(person))
    assert completed.returncode == 0, completed.stderr
    assert "ann@acme.test" in completed.stdout
    assert "Acme Ltd" in completed.stdout
    assert invoice.number in completed.stdout
    assert "Typo" in completed.stdout
    assert completed.stdout.splitlines()[-1] == "explain ok: 1 address, 1 contact, 1 invoice, 1 possible match"
    assert '"near_misses"' in patina("explain", "person", str(person), "--json").stdout
    assert patina("explain", "task", "1").returncode != 0
    assert patina("explain", "person", "424242").returncode == 1
    assert RecordType.PERSON
