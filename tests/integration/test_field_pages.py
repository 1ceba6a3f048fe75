"""The page that chooses which fields Patina writes in Copper, and what it says of them."""

from __future__ import annotations

import pytest

from runtime.settings import override_settings
from services import account_status, copper_fields
from store.accounts import audit
from store.db.database import transaction
from store.db.enums import FieldWriting
from tests.integration.test_admin_pages import page_text
from tests.support.admin import AdminBrowser, sign_in
from tests.support.fields_in_copper import values, write
from tests.support.world import World
from worker.sync import field_writer

PATH = "/settings/fields"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    override_settings({"FIELD_WRITE_INTERVAL_SECONDS": "0"})
    monkeypatch.setattr(field_writer, "BULK_INTERVAL_SECONDS", 0.0)


def form(**values: list[str]) -> dict[str, list[str]]:
    return {"measure": ["overdue"], "currency": ["NZD"], "record_type": ["person"], "action": ["save"]} | values


def test_an_admin_turns_fields_on_sees_them_written_and_turns_them_off(world: World) -> None:
    ann = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "10.00", due="2020-01-31")
    world.settle()
    admin = sign_in(world)
    admin.open(PATH)
    text = page_text(admin)
    assert "People 1 record with invoices; the first values take about 1 minute" in text
    assert "Leads 0 records with invoices" in text
    assert "separate integration user" in text
    assert "Turn off" not in text
    assert admin.send(PATH, form()).status_code == 200
    assert "1 record of 1 to write." in page_text(admin)

    write(world)
    admin.open(PATH)
    assert "Up to date: 1 record have values" not in page_text(admin)
    assert "Up to date: 1 record has values" in page_text(admin)
    assert "Xero overdue NZD patina_xero_overdue_nzd Ready" in page_text(admin)
    assert values(world, "person", ann) == {"overdue_nzd": 10}
    admin.open("/status")
    assert "Records with fields in Copper 1 0 to write, 0 refused" in page_text(admin)

    admin.open(PATH)
    admin.send(PATH, {"action": ["clear"]})
    assert "Patina is emptying its fields in Copper: 1 record to go." in page_text(admin)
    write(world)
    assert values(world, "person", ann) == {}
    assert copper_fields.get_status(world.account).settings.state is FieldWriting.OFF
    with transaction() as session:
        actions = [entry.action for entry in audit.latest(session, world.account)]
    assert [action for action in actions if action.startswith("fields.")] == [
        "fields.cleared",
        "fields.written",
        "fields.turned_off",
        "fields.written",
        "fields.changed",
    ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"measure": []}, "measure"),
        ({"measure": ["debts"]}, "measure"),
        ({"currency": []}, "currency"),
        ({"currency": ["XXX"]}, "currency"),
        ({"record_type": []}, "record_type"),
        ({"record_type": ["project"]}, "record_type"),
        ({"action": ["explode"]}, "action"),
    ],
)
def test_a_form_with_a_wrong_choice_is_refused_and_changes_nothing(
    world: World, admin: AdminBrowser, changes: dict[str, list[str]], field: str
) -> None:
    world.invoice(world.contact("Ann", "ann@acme.test"))
    world.settle()
    admin.open(PATH)
    response = admin.send(PATH, form(**changes))
    assert response.status_code == 422
    assert f'href="#{field}"' in response.text
    assert copper_fields.get_status(world.account).settings.state is FieldWriting.OFF


def test_dates_and_counts_need_no_currency(world: World, admin: AdminBrowser) -> None:
    admin.open(PATH)
    assert "No invoices yet, so there is no currency to choose." in page_text(admin)
    assert admin.send(PATH, form(measure=["last_payment"], currency=[])).status_code == 200
    assert [field.key for field in copper_fields.get_status(world.account).fields] == ["patina_xero_last_payment"]


def test_refusals_are_told_on_the_page_and_in_the_status(world: World, admin: AdminBrowser) -> None:
    ann = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "10.00")
    world.settle()
    world.simulate_copper("refuse_writes", type="person", id=ann, message="Locked by a rule")
    admin.open(PATH)
    admin.send(PATH, form(measure=["outstanding"]))
    write(world)
    admin.open(PATH)
    assert "Locked by a rule" in page_text(admin)
    world.simulate_copper("refuse_writes", type="person", id=ann, message=None)
    admin.send(PATH, {"action": ["retry"]})
    write(world)
    assert values(world, "person", ann) == {"outstanding_nzd": 10}

    world.simulate_copper("set_write_rules", max_definitions=1)
    admin.send(PATH, form(measure=["outstanding", "overdue"]))
    write(world)
    admin.open(PATH)
    assert "Nothing is written at the moment. Copper refuses the field Xero overdue NZD: Your plan" in page_text(admin)
    (account,) = account_status.list_all()
    assert [finding.code.value for finding in account.findings] == ["fields_not_written"]
    admin.open("/status")
    assert "t being written. Copper refuses the field Xero overdue NZD" in page_text(admin)
    assert "Copper refuses custom_field" not in page_text(admin)
    world.simulate_copper("set_write_rules")
    admin.open(PATH)
    admin.send(PATH, {"action": ["retry"]})
    write(world)
    assert account_status.list_all()[0].is_healthy
