"""Invoices that are pinned to opportunities by hand."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from services import invoice_pins as pin_service
from store.accounts import account_settings, audit, deprovisioning, xero_organisations
from store.db.database import account_transaction, transaction
from store.db.enums import RecordType
from store.read_model import invoice_pins, match_reports, projection
from store.read_model.invoice_pins import PinError, PinReference
from tests.integration.test_admin_pages import page_text
from tests.support.admin import AdminBrowser
from tests.support.commands import patina
from tests.support.world import Invoice, World

SETTINGS = {"record_type": ["lead", "person", "company", "opportunity"], "invoice_limit": "5", "visible": "everyone"}


def deal_with_invoice(world: World) -> tuple[int, Invoice, Invoice]:
    """An opportunity whose company has an invoice, that invoice, and one of a stranger."""
    company = world.company()
    world.person("ann@acme.test", company=company)
    deal = world.opportunity(company=company)
    matched = world.invoice(world.contact("Ann", "ann@acme.test"), "100.00")
    stray = world.invoice(world.contact("Stray", "stray@else.test"), "7.00")
    world.settle()
    return deal, matched, stray


def actions(world: World) -> list[tuple[str, str]]:
    with account_transaction(world.account) as session:
        entries = audit.latest(session, world.account)
    return [(entry.action, entry.detail) for entry in entries if entry.action.startswith("invoice.")]


def test_an_opportunity_shows_matched_and_pinned_invoices_or_pinned_ones_only(world: World) -> None:
    deal, matched, stray = deal_with_invoice(world)
    world.pin(deal, stray)
    world.settle()
    assert set(world.invoice_numbers("opportunities", deal)) == {matched.number, stray.number}
    world.check_rows()
    world.show_pinned_only()
    world.settle()
    assert world.invoice_numbers("opportunities", deal) == [stray.number]
    company = world.record_ids("company")[0]
    assert world.invoice_numbers("companies", company) == [matched.number], "nothing else follows a pin"
    world.check_rows()
    world.pin(deal, matched)
    world.unpin(deal, stray)
    world.settle()
    assert world.invoice_numbers("opportunities", deal) == [matched.number]
    world.check_rows()
    world.show_pinned_only(is_on=False)
    world.unpin(deal, matched)
    world.settle()
    assert world.invoice_numbers("opportunities", deal) == [matched.number], "it matches"
    world.check()


def test_a_pin_outlives_reconciliation_a_rebuild_and_a_change_of_the_contact(world: World) -> None:
    deal, matched, stray = deal_with_invoice(world)
    world.pin(deal, stray)
    world.settle()
    world.sandbox.simulate("merge_contacts", source=stray.contact, target=matched.contact)
    world.sandbox.simulate("pay_invoice", invoice=stray.id)
    world.settle()
    assert len(world.invoice_numbers("opportunities", deal)) == 2
    world.advance_clock()
    world.reconcile()
    with transaction() as session:
        session.execute(text("DELETE FROM record_invoice WHERE invoice_id = :id"), {"id": stray.id})
        assert projection.compare(session, world.account).missing == 3
        projection.rebuild(session, world.account)
    world.show_pinned_only()
    world.settle()
    assert world.invoice_numbers("opportunities", deal) == [stray.number]
    world.check()


def test_a_pin_waits_while_its_opportunity_or_its_invoice_is_deleted(world: World) -> None:
    deal, _, stray = deal_with_invoice(world)
    draft = world.invoice(stray.contact, status="DRAFT")
    other = world.opportunity()
    world.settle()
    for invoice in (stray, draft):
        world.pin(other, invoice)
    world.settle()
    assert len(world.rows("opportunities", other)) == 2
    world.sandbox.simulate("delete_invoice", invoice=draft.id)
    world.settle()
    assert world.invoice_numbers("opportunities", other) == [stray.number]
    world.simulate_copper("delete_record", type="opportunity", id=other)
    world.settle()
    assert world.rows("opportunities", other) == []
    world.check_rows()
    with account_transaction(world.account) as session, pytest.raises(PinError, match="No opportunity with ID"):
        invoice_pins.add(session, world.account, UUID(stray.id), other, "Ada")
    with account_transaction(world.account) as session, pytest.raises(PinError, match="deleted in Xero"):
        invoice_pins.add(session, world.account, UUID(draft.id), deal, "Ada")


def test_a_pin_needs_an_invoice_and_an_opportunity_of_the_account_and_is_unique(world: World) -> None:
    deal, matched, stray = deal_with_invoice(world)
    company = world.record_ids("company")[0]
    for invoice_id, opportunity in ((uuid4(), deal), (UUID(stray.id), 999), (UUID(stray.id), company)):
        with pytest.raises(PinError):
            pin_service.create(world.account, invoice_id, opportunity, actor="Ada")
    assert actions(world) == []
    with ThreadPoolExecutor(4) as threads:
        created = [
            threads.submit(pin_service.create, world.account, UUID(stray.id), deal, actor="Ada") for _ in range(4)
        ]
        assert sorted(future.result() for future in created) == [False, False, False, True]
    reference = str(PinReference(UUID(stray.id), deal))
    assert actions(world) == [("invoice.pinned", reference)]
    assert not pin_service.remove(world.account, UUID(matched.id), deal, actor="Ada")
    assert pin_service.remove(world.account, UUID(stray.id), deal, actor="Ada")
    assert not pin_service.remove(world.account, UUID(stray.id), deal, actor="Ada")
    assert actions(world) == [("invoice.unpinned", reference), ("invoice.pinned", reference)]


def test_the_number_of_pins_of_an_opportunity_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    deal, matched, stray = deal_with_invoice(world)
    monkeypatch.setattr(invoice_pins, "MAX_PINS_PER_OPPORTUNITY", 1)
    pin_service.create(world.account, UUID(stray.id), deal, actor="Ada")
    with pytest.raises(PinError, match="Unpin some"):
        pin_service.create(world.account, UUID(matched.id), deal, actor="Ada")


def test_pins_are_deleted_with_their_organisation_and_their_account(world: World) -> None:
    deal, _, stray = deal_with_invoice(world)
    world.pin(deal, stray)
    world.settle()
    with transaction() as session:
        organisation = xero_organisations.list_connected(session, world.account)[0].id
        deprovisioning.remove_organisation(session, world.account, organisation)
        assert projection.compare(session, world.account).is_clean
        assert invoice_pins.list_of_opportunity(session, world.account, deal) == []
        while deprovisioning.erase_organisation(session, world.account, organisation, 100):
            pass
        assert session.execute(text("SELECT count(*) FROM invoice_pin")).scalar_one() == 0
    assert "invoice_pin" in deprovisioning.DATA_TABLES


def test_the_setting_projects_every_opportunity_and_is_audited(world: World, admin: AdminBrowser) -> None:
    deal, _, stray = deal_with_invoice(world)
    world.pin(deal, stray)
    world.settle()
    admin.open("/settings")
    admin.send("/settings", SETTINGS, pinned_only="1")
    with transaction() as session:
        marks = session.execute(text("SELECT record_id FROM projection_queue WHERE entity_type = 'opportunity'"))
        assert list(marks.scalars()) == [deal]
    world.settle()
    assert world.invoice_numbers("opportunities", deal) == [stray.number]
    assert 'name="pinned_only" value="1" aria-describedby="pinned_only-help" checked' in admin.open("/settings").text
    admin.send("/settings", SETTINGS, pinned_only="1")
    with transaction() as session:
        assert session.execute(text("SELECT count(*) FROM projection_queue")).scalar_one() == 0, "nothing changed"
        assert account_settings.get(session, world.account).opportunities_show_pinned_only
    admin.open("/audit")
    assert "opportunities show pinned invoices only" in page_text(admin)
    admin.open("/settings")
    admin.send("/settings", SETTINGS)
    world.settle()
    assert len(world.invoice_numbers("opportunities", deal)) == 2
    assert admin.send("/settings", SETTINGS, pinned_only="nonsense", follow=False).status_code == 422


def test_an_admin_pins_from_the_invoice_and_unpins(world: World, admin: AdminBrowser) -> None:
    deal, _, stray = deal_with_invoice(world)
    path = f"/invoices/{stray.id}"
    admin.open(path)
    page = admin.send(f"{path}/opportunities", q="A OPPORT")
    assert "opport" not in str(page.url).lower().replace("/opportunities", "")
    assert f"Copper ID {deal}" in page_text(admin)
    admin.send("/pins", invoice=stray.id, opportunity=str(deal), source="invoice")
    assert "Pinned. It appears in a moment." in page_text(admin)
    assert re.search(r"A opportunity : pinned by Sam Admin on \d+ \w+ Unpin", page_text(admin))
    world.settle()
    admin.open(path)
    assert re.search(r"Opportunity A opportunity Pinned by Sam Admin on \d+ \w+ \.", page_text(admin))
    admin.open(f"/records/opportunity/{deal}/invoices/{stray.id}/match")
    assert "Pinned by Sam Admin on" in page_text(admin)
    admin.open(f"/records/opportunity/{deal}/match")
    assert "Pinned invoices" in page_text(admin)
    admin.open("/audit")
    assert f"Invoice pinned {stray.number} and A opportunity (opportunity {deal})" in page_text(admin)
    admin.open(path)
    admin.send("/pins/remove", invoice=stray.id, opportunity=str(deal), source="invoice")
    assert "Unpinned." in page_text(admin)
    world.settle()
    admin.open(path)
    assert "None: no lead or person" in page_text(admin)


def test_an_admin_pins_from_an_opportunity_that_shows_pinned_invoices_only(world: World, admin: AdminBrowser) -> None:
    deal, matched, _ = deal_with_invoice(world)
    world.show_pinned_only()
    world.settle()
    path = f"/records/opportunity/{deal}"
    page = admin.open(path)
    assert "No invoice is pinned to this opportunity." in page_text(admin)
    assert "An admin can pin invoices in Patina" in page_text(admin)
    assert "Other invoices of its people and companies" in page_text(admin)
    assert f'name="invoice" value="{matched.id}"' in page.text
    admin.send("/pins", invoice=matched.id, opportunity=str(deal), source="opportunity")
    world.settle()
    page = admin.open(path)
    assert "Other invoices" not in page_text(admin)
    assert 'action="/pins/remove"' in page.text
    company = world.record_ids("company")[0]
    assert 'action="/pins' not in admin.open(f"/records/company/{company}").text


def test_refused_pins_change_nothing_and_say_why(world: World, admin: AdminBrowser) -> None:
    deal, _, stray = deal_with_invoice(world)
    path = f"/invoices/{stray.id}"
    admin.open(path)
    for wrong, message in (
        ({"opportunity": "²"}, "Enter a numeric Copper ID."),
        ({"invoice": "x"}, "This isn"),
        ({"source": "elsewhere"}, "Pin from the page of an invoice"),
        ({"opportunity": "424242"}, "No opportunity with ID 424242. Nothing was pinned."),
        ({"invoice": str(uuid4())}, "Nothing was pinned."),
    ):
        values = {"invoice": stray.id, "opportunity": str(deal), "source": "invoice", **wrong}
        response = admin.send("/pins", values, follow=False)
        assert response.status_code == 422, wrong
        assert message in response.text, wrong
    for empty in ("", " \x07", "x" * 201):
        page = admin.send(f"{path}/opportunities", q=empty)
        assert page.status_code == 422
        assert 'id="q-error"' in page.text
    assert admin.open(f"{path}/opportunities").url.path == path, "a reload shows the invoice"
    admin.open(path)
    admin.send(f"{path}/opportunities", q="nobody%")
    assert "No opportunity has this name or Copper ID." in page_text(admin)
    assert admin.send("/pins", csrf="x", invoice=stray.id, opportunity=str(deal), follow=False).status_code == 403
    assert actions(world) == []


def test_the_reason_of_a_pinned_invoice_is_its_pin(world: World) -> None:
    deal, matched, _ = deal_with_invoice(world)
    world.pin(deal, matched)
    world.settle()
    scope = (world.account, RecordType.OPPORTUNITY, deal, UUID(matched.id))
    with account_transaction(world.account) as session:
        explanation = match_reports.explain_invoice(session, *scope)
    assert explanation is not None
    assert explanation.pin is not None
    assert explanation.pin.pinned_by == "Ada Admin"
    assert [reason.email for reason in explanation.reasons] == ["ann@acme.test"]
    world.show_pinned_only()
    world.settle()
    with account_transaction(world.account) as session:
        explanation = match_reports.explain_invoice(session, *scope)
    assert explanation is not None
    assert explanation.reasons == []


def test_pins_by_the_command_line(world: World) -> None:
    deal, _, stray = deal_with_invoice(world)
    assert patina("pins", "add", stray.id, str(deal)).stdout == "pinned\n"
    assert patina("pins", "add", stray.id, str(deal)).stdout == "was pinned already\n"
    world.settle()
    assert stray.number in world.invoice_numbers("opportunities", deal)
    listed = patina("pins", "list")
    assert listed.returncode == 0, listed.stderr
    assert f"opportunity {deal} A opportunity: {stray.number} {stray.id}" in listed.stdout
    assert listed.stdout.endswith("1 pinned invoice\n")
    assert stray.id in patina("pins", "list", "--json").stdout
    assert f"{stray.number} pinned by the command line" in patina("explain", "opportunity", str(deal)).stdout
    assert patina("pins", "remove", stray.id, str(deal)).stdout == "unpinned\n"
    again = patina("pins", "remove", stray.id, str(deal))
    assert (again.returncode, again.stdout) == (1, "")
    assert "isn't pinned" in again.stderr
    assert patina("pins", "add", "nonsense", str(deal)).returncode == 2
    assert patina("pins", "add", str(uuid4()), str(deal)).returncode == 1
