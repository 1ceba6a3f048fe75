"""What a record owes, in custom fields in Copper: values, definitions, refusals, and no loop."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from runtime.settings import override_settings
from services import connect, copper_fields
from store.accounts import audit
from store.accounts import copper_fields as field_settings
from store.db.database import transaction
from store.db.enums import FieldMeasure, FieldWriting, RecordType
from tests.support.admin import sign_in
from tests.support.fields_in_copper import ACTOR, definitions, turn_on, us_date, values, write, write_calls
from tests.support.world import World
from worker.sync import cleanup_tasks, field_writer, projector
from worker.vendors.copper import field_clearing
from worker.vendors.copper.client import CopperClient, CustomValues
from worker.vendors.errors import TransientError

OVERDUE, OUTSTANDING = FieldMeasure.OVERDUE, FieldMeasure.OUTSTANDING


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes are written at once; the sandbox has no limit a second."""
    override_settings({"FIELD_WRITE_INTERVAL_SECONDS": "0"})
    monkeypatch.setattr(field_writer, "BULK_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(field_clearing, "BULK_INTERVAL_SECONDS", 0.0)


def error_of(world: World) -> str | None:
    return copper_fields.get_status(world.account).settings.error


def execute(statement: str, **params: object) -> None:
    with transaction() as session:
        session.execute(text(statement), params)


def test_every_type_of_record_has_the_values_that_its_page_shows(world: World) -> None:
    company = world.company()
    ann = world.person("ann@acme.test", company=company)
    deal = world.opportunity(company=company)
    lead = world.lead("ann@acme.test")
    contact, today = world.contact("Ann", "ann@acme.test"), world.today()
    late = today - timedelta(days=9)
    world.invoice(contact, "150.25", due=str(late), issued="2026-01-05")
    world.invoice(contact, "50.00", due=str(today), issued="2026-02-05")
    paid = world.invoice(contact, "30.00", issued="2026-02-07")
    world.sandbox.simulate("pay_invoice", invoice=paid.id)
    world.invoice(contact, "1000.00", status="DRAFT", issued="2026-03-01")
    voided = world.invoice(contact, "2000.00")
    world.sandbox.simulate("void_invoice", invoice=voided.id)
    world.invoice(contact, "70.00", currency="USD", due=str(today + timedelta(days=9)), issued="2026-02-01")
    world.invoice(contact, "80.00", type="ACCPAY")
    world.sandbox.simulate("create_credit_note", contact=contact, total="20.00")
    world.settle()

    turn_on(world, currencies=("NZD", "USD"))
    write(world)
    expected = {
        "overdue_nzd": 150.25,
        "outstanding_nzd": 200.25,
        "invoiced_nzd": 230.25,
        "credit_nzd": 20,
        "overdue_usd": 0,
        "outstanding_usd": 70,
        "invoiced_usd": 70,
        "credit_usd": 0,
        "overdue_since": us_date(late),
        "last_invoice": "02/07/2026",
        "last_payment": us_date(datetime.now(UTC).date()),
        "open_invoices": 3,
    }
    for record_type, record in (("company", company), ("person", ann), ("opportunity", deal), ("lead", lead)):
        assert values(world, record_type, record) == expected, record_type
    assert values(world, "person", world.person("bob@acme.test")) == {}
    assert world.compare().is_clean
    assert copper_fields.get_status(world.account).progress.pending == 0


def test_nothing_is_written_unless_an_admin_chose_it(world: World) -> None:
    ann = world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    write(world)
    assert definitions(world) == {}

    turn_on(world, OVERDUE, record_types=[RecordType.COMPANY])
    write(world)
    assert list(definitions(world)) == ["patina_xero_overdue_nzd"]
    assert definitions(world)["patina_xero_overdue_nzd"]["available_on"] == ["company"]
    assert values(world, "person", ann) == {}


def test_a_payment_changes_the_fields_and_a_deselected_field_is_emptied(world: World) -> None:
    ann = world.person("ann@acme.test")
    invoice = world.invoice("ann@acme.test", "115.00", due="2020-01-31")
    world.settle()
    turn_on(world, OVERDUE, OUTSTANDING)
    write(world)
    assert values(world, "person", ann) == {"overdue_nzd": 115, "outstanding_nzd": 115}

    world.sandbox.simulate("pay_invoice", invoice=invoice.id, amount="15.00")
    world.settle()
    write(world)
    assert values(world, "person", ann) == {"overdue_nzd": 100, "outstanding_nzd": 100}

    turn_on(world, OUTSTANDING)
    write(world)
    assert values(world, "person", ann) == {"outstanding_nzd": 100}

    world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    world.settle()
    write(world)
    assert values(world, "person", ann) == {"outstanding_nzd": 0}


def test_a_burst_is_written_once_and_only_overdue_does_not_wait_for_the_interval(world: World) -> None:
    override_settings({"FIELD_WRITE_INTERVAL_SECONDS": "300"})
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    first = world.invoice(contact, "1.00", due="2999-01-31")
    world.settle()
    turn_on(world, OVERDUE, OUTSTANDING, record_types=[RecordType.PERSON])

    assert 0 < (field_writer.write(world.account, 5.0) or 0) <= field_writer.SETTLE_SECONDS
    for _ in range(4):
        world.invoice(contact, "1.00", due="2999-01-31")
        world.settle()
    assert 0 < (field_writer.write(world.account, 5.0) or 0) <= field_writer.SETTLE_SECONDS
    execute("UPDATE copper_field_value SET not_before = now()")
    before = write_calls(world)
    write(world)
    assert (write_calls(world) - before, values(world, "person", ann)["outstanding_nzd"]) == (1, 5)

    world.sandbox.simulate("pay_invoice", invoice=first.id)
    world.settle()
    delay = field_writer.write(world.account, 5.0)
    assert delay is not None
    assert 290 < delay <= 300
    world.invoice(contact, "7.00", due="2020-01-31")
    world.settle()
    assert 0 < (field_writer.write(world.account, 5.0) or 0) <= field_writer.SETTLE_SECONDS, "it is overdue now"


def test_definitions_are_created_once_and_whatever_they_are_called(world: World) -> None:
    world.person("ann@acme.test")
    world.invoice("ann@acme.test")
    world.settle()
    turn_on(world, OVERDUE, FieldMeasure.LAST_PAYMENT, record_types=[RecordType.PERSON])
    write(world)
    first = definitions(world)
    overdue = first["patina_xero_overdue_nzd"]
    assert (overdue["name"], overdue["data_type"], overdue["currency"]) == ("Xero overdue NZD", "Currency", "NZD")
    assert overdue["is_filterable"]
    assert first["patina_xero_last_payment"]["data_type"] == "Date"

    world.simulate_copper("update_field", field=overdue["id"], name="Owes us", available_on=["person", "project"])
    copper_fields.turn_off(world.account, is_cleared=False, actor=ACTOR)
    execute("DELETE FROM copper_field")
    turn_on(world, OVERDUE, FieldMeasure.LAST_PAYMENT, record_types=[RecordType.PERSON, RecordType.LEAD])
    write(world)
    again = definitions(world)
    assert {key: definition["id"] for key, definition in again.items()} == {
        key: definition["id"] for key, definition in first.items()
    }
    assert again["patina_xero_overdue_nzd"]["name"] == "Owes us"
    assert set(again["patina_xero_overdue_nzd"]["available_on"]) == {"person", "project", "lead"}


@pytest.mark.parametrize("change", ["delete_field", "retype_field"])
def test_nothing_is_written_while_a_definition_is_not_as_expected(world: World, change: str) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    world.invoice(contact, "10.00")
    world.settle()
    turn_on(world, OUTSTANDING)
    write(world)
    field = definitions(world)["patina_xero_outstanding_nzd"]["id"]
    parameters = {"data_type": "Float"} if change == "retype_field" else {}
    world.simulate_copper(change, field=field, **parameters)
    world.invoice(contact, "5.00")
    world.settle()
    execute("UPDATE copper_field_settings SET checked_at = now() - interval '2 minutes'")
    before = write_calls(world)
    write(world)
    error = error_of(world)
    assert error is not None
    assert error.startswith("The field Xero outstanding NZD")
    write(world)
    assert write_calls(world) - before <= 1, "after the first refusal, nothing more is tried"
    assert copper_fields.get_status(world.account).progress.failed == 0

    if change == "retype_field":
        new = definitions(world)["patina_xero_outstanding_nzd"]["id"]
        world.simulate_copper("delete_field", field=new)
    copper_fields.retry(world.account, actor=ACTOR)
    write(world)
    assert error_of(world) is None
    assert values(world, "person", ann) == {"outstanding_nzd": 15}


def test_a_definition_that_is_made_anew_gets_all_values(world: World) -> None:
    ann = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING)
    write(world)
    world.simulate_copper("delete_field", field=definitions(world)["patina_xero_outstanding_nzd"]["id"])
    execute("UPDATE copper_field_settings SET checked_at = NULL")
    write(world)
    assert error_of(world) == "The field Xero outstanding NZD was deleted in Copper."

    copper_fields.retry(world.account, actor=ACTOR)
    write(world)
    assert values(world, "person", ann) == {"outstanding_nzd": 10}


def test_a_refusal_of_the_plan_is_told_in_coppers_words(world: World) -> None:
    ann = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "10.00")
    world.settle()
    world.simulate_copper("set_write_rules", max_definitions=1)
    turn_on(world, OUTSTANDING, OVERDUE)
    write(world)
    assert "Your plan allows at most 1 custom field" in (error_of(world) or "")
    assert values(world, "person", ann) == {}

    world.simulate_copper("set_write_rules")
    copper_fields.retry(world.account, actor=ACTOR)
    write(world)
    assert values(world, "person", ann) == {"outstanding_nzd": 10, "overdue_nzd": 0}


def test_a_refused_record_waits_with_its_reason_and_delays_no_other(world: World) -> None:
    people = [world.person(f"p{number}@acme.test") for number in range(12)]
    company = world.company()
    world.person("boss@acme.test", company=company)
    for number in range(12):
        world.invoice(f"p{number}@acme.test", "10.00")
    world.invoice("boss@acme.test", "10.00")
    world.settle()
    world.simulate_copper("refuse_writes", type="person", id=people[5], message="Validation failed")
    world.simulate_copper("refuse_writes", type="company", id=company, message="Locked")
    turn_on(world, OUTSTANDING)
    write(world)
    written = {person: values(world, "person", person) for person in people}
    assert [person for person, fields in written.items() if not fields] == [people[5]]
    failed = {(row.record_type, row.record_id): row.error for row in copper_fields.get_status(world.account).failed}
    assert "Validation failed" in failed[RecordType.PERSON, people[5]]
    assert failed[RecordType.COMPANY, company] == "Locked"

    for record_type, record in (("person", people[5]), ("company", company)):
        world.simulate_copper("refuse_writes", type=record_type, id=record, message=None)
    write(world)
    assert values(world, "person", people[5]) == {}, "not before its time"
    copper_fields.retry(world.account, actor=ACTOR)
    write(world)
    assert values(world, "person", people[5]) == values(world, "company", company) == {"outstanding_nzd": 10}
    assert copper_fields.get_status(world.account).failed == []


def test_ten_records_cost_one_call_or_as_many_as_copper_allows(world: World) -> None:
    for number in range(20):
        world.person(f"p{number}@acme.test")
        world.invoice(f"p{number}@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING, record_types=[RecordType.PERSON])
    before = write_calls(world)
    write(world)
    assert write_calls(world) - before == 2

    world.simulate_copper("set_write_rules", bulk_size=4)
    turn_on(world, OVERDUE, record_types=[RecordType.PERSON])
    before = write_calls(world)
    write(world)
    assert write_calls(world) - before == 1 + 3 + 3, "a refused one, its ten in three calls, the rest by fours"
    assert copper_fields.get_status(world.account).progress.pending == 0


def test_a_steady_stream_of_changes_costs_a_call_each_at_most(world: World) -> None:
    company = world.company()
    world.person("ann@acme.test", company=company)
    contact = world.contact("Ann", "ann@acme.test")
    world.invoice(contact, "1.00")
    world.settle()
    turn_on(world, OUTSTANDING, record_types=[RecordType.COMPANY])
    write(world)
    before = sum(count for path, count in world.sandbox.state()["calls"].items() if "/copper/" in path)
    for _ in range(20):
        world.invoice(contact, "1.00")
        world.settle()
        write(world)
    after = sum(count for path, count in world.sandbox.state()["calls"].items() if "/copper/" in path)
    assert after - before == 20
    assert values(world, "company", company) == {"outstanding_nzd": 21}


def test_a_type_without_bulk_changes_is_written_one_by_one_and_with_them_by_tens(world: World) -> None:
    companies = [world.company() for _ in range(3)]
    for number, company in enumerate(companies):
        world.person(f"p{number}@acme.test", company=company)
        world.invoice(f"p{number}@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING, record_types=[RecordType.COMPANY])
    before = write_calls(world)
    write(world)
    assert write_calls(world) - before == 1 + 3, "it is tried once"

    world.simulate_copper("set_write_rules", bulk_for_all_types=True)
    execute("DELETE FROM refused_endpoint")
    turn_on(world, OVERDUE, record_types=[RecordType.COMPANY])
    before = write_calls(world)
    write(world)
    assert write_calls(world) - before == 1
    assert {str(values(world, "company", company)) for company in companies} == {"{'overdue_nzd': 0}"}


def test_a_record_that_copper_no_longer_has_is_forgotten(world: World) -> None:
    company = world.company()
    world.person("ann@acme.test", company=company)
    world.invoice("ann@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING, record_types=[RecordType.COMPANY])
    world.sandbox.faults(webhooks=[{"vendor": "copper", "loss": 1.0}])
    world.simulate_copper("delete_record", type="company", id=company)
    write(world)
    status = copper_fields.get_status(world.account)
    assert (status.progress.records, list(status.failed)) == (0, [])


@pytest.mark.parametrize("says_what_changed", [True, False])
def test_a_thousand_writes_cause_no_further_write(world: World, says_what_changed: bool) -> None:
    contact = world.contact("Ann", "ann@acme.test")
    for _ in range(1_000):
        world.person("ann@acme.test")
    invoice = world.invoice(contact, "10.00")
    world.settle()
    world.simulate_copper("set_write_rules", updated_attributes=says_what_changed)
    turn_on(world, OUTSTANDING, record_types=[RecordType.PERSON])
    before = world.sandbox.state()["calls"]
    write(world)
    calls = sum(world.sandbox.state()["calls"].values()) - sum(before.values())
    assert calls <= 0.11 * 1_000, "with the calls for the definitions"
    writes = write_calls(world)
    assert copper_fields.get_status(world.account).progress.records == 1_000
    world.settle()
    write(world)
    assert write_calls(world) == writes
    searches = world.sandbox.state()["calls"].get("POST /copper/developer_api/v1/people/search", 0)
    fetched = searches - before.get("POST /copper/developer_api/v1/people/search", 0)
    assert (fetched > 0) is not says_what_changed
    world.sandbox.simulate("pay_invoice", invoice=invoice.id, amount="1.00")
    world.settle()
    assert world.compare().is_clean


def test_an_update_of_our_field_and_another_is_fetched(world: World) -> None:
    ann = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING)
    write(world)
    ours = definitions(world)["patina_xero_outstanding_nzd"]["id"]
    theirs = world.simulate_copper("define_field", name="Rank", data_type="Float", available_on=["person"])["field"]
    world.settle()

    def events() -> int:
        with transaction() as session:
            return int(session.execute(text("SELECT count(*) FROM inbox")).scalar_one())

    before = events()
    world.simulate_copper("set_custom_field", type="person", id=ann, field=ours, value=3)
    world.settle()
    assert events() == before
    world.simulate_copper("set_custom_field", type="person", id=ann, field=theirs, value=3)
    world.settle()
    assert events() == before + 1


def test_what_somebody_changed_by_hand_is_drift_and_written_again_without_another_call(world: World) -> None:
    ann = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "10.00", due="2020-01-31")
    world.settle()
    turn_on(world, OUTSTANDING, FieldMeasure.OVERDUE_SINCE)
    write(world)
    known = definitions(world)
    world.advance_clock()
    assert world.reconcile() == {}, "what was written is what is read"

    for key, value in (("outstanding_nzd", 99), ("overdue_since", "02/03/2021")):
        field = known[f"patina_xero_{key}"]["id"]
        world.simulate_copper("set_custom_field", type="person", id=ann, field=field, value=value)
    world.settle()
    execute("UPDATE copper_field_value SET written_at = now() - interval '1 hour'")
    world.advance_clock()
    assert world.reconcile(dry=True) == {"fields": {"missing": 0, "stale": 1, "extra": 0}}
    write(world)
    assert values(world, "person", ann)["outstanding_nzd"] == 99, "a dry run changes nothing"
    assert world.reconcile() == {"fields": {"missing": 0, "stale": 1, "extra": 0}}
    write(world)
    assert values(world, "person", ann) == {"outstanding_nzd": 10, "overdue_since": "01/31/2020"}
    world.advance_clock()
    execute("UPDATE copper_field_value SET written_at = now() - interval '1 hour'")
    assert world.reconcile() == {}


@pytest.mark.parametrize("is_turned_off", [True, False])
def test_a_field_that_is_to_be_emptied_may_be_gone_in_copper(world: World, is_turned_off: bool) -> None:
    ann = world.person("ann@acme.test", company=world.company())
    world.invoice("ann@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING, OVERDUE)
    write(world)
    world.simulate_copper("delete_field", field=definitions(world)["patina_xero_overdue_nzd"]["id"])
    execute("UPDATE copper_field_settings SET checked_at = now() - interval '2 minutes'")
    if is_turned_off:
        copper_fields.turn_off(world.account, is_cleared=True, actor=ACTOR)
    else:
        turn_on(world, OUTSTANDING)
    write(world)
    assert values(world, "person", ann) == ({} if is_turned_off else {"outstanding_nzd": 10})
    status = copper_fields.get_status(world.account)
    assert (status.progress.pending, list(status.failed), status.settings.error) == (0, [], None)


def test_credits_that_no_longer_show_leave_the_field(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    world.invoice(contact, "10.00")
    world.sandbox.simulate("create_credit_note", contact=contact, total="4.00")
    world.settle()
    turn_on(world, FieldMeasure.CREDIT)
    write(world)
    assert values(world, "person", ann) == {"credit_nzd": 4}
    admin = sign_in(world)
    admin.open("/settings")
    admin.send("/settings", {"record_type": ["person"], "invoice_limit": ["5"]})
    write(world)
    assert values(world, "person", ann) == {"credit_nzd": 0}


def test_after_an_error_the_definitions_are_compared_again_before_anything_is_written(world: World) -> None:
    ann = world.person("ann@acme.test")
    contact = world.contact("Ann", "ann@acme.test")
    world.invoice(contact, "10.00")
    world.settle()
    turn_on(world, OUTSTANDING)
    write(world)
    field = definitions(world)["patina_xero_outstanding_nzd"]["id"]
    world.simulate_copper("retype_field", field=field, data_type="Float")
    execute("UPDATE copper_field_settings SET checked_at = NULL")
    write(world)
    assert (error_of(world) or "").startswith("The field Xero outstanding NZD")
    world.invoice(contact, "5.00")
    world.settle()

    execute("UPDATE copper_field_settings SET not_before = now()")
    before = write_calls(world)
    write(world)
    assert (write_calls(world), error_of(world) is None) == (before, False)
    new = definitions(world)["patina_xero_outstanding_nzd"]["id"]
    world.simulate_copper("delete_field", field=new)
    execute("UPDATE copper_field SET definition_id = NULL, state = 'new'")
    execute("UPDATE copper_field_settings SET not_before = now()")
    write(world)
    assert error_of(world) is None, "an hour later, it is tried again"
    assert values(world, "person", ann) == {"outstanding_nzd": 15}


def test_a_record_that_may_not_be_changed_delays_no_other(world: World) -> None:
    companies = [world.company() for _ in range(3)]
    for number, company in enumerate(companies):
        world.person(f"p{number}@acme.test", company=company)
        world.invoice(f"p{number}@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING)
    path = f"/copper/developer_api/v1/companies/{companies[0]}"
    world.sandbox.faults(api=[{"vendor": "copper", "path": path, "type": "status", "status": 403}])
    write(world)
    world.sandbox.faults()
    assert [values(world, "company", company) for company in companies[1:]] == [{"outstanding_nzd": 10}] * 2
    (failed,) = copper_fields.get_status(world.account).failed
    assert failed.record_id == companies[0]
    copper_fields.retry(world.account, actor=ACTOR)
    write(world)
    assert values(world, "company", companies[0]) == {"outstanding_nzd": 10}


def test_a_record_on_which_copper_always_fails_delays_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    people = [world.person(f"p{number}@acme.test") for number in range(4)]
    for number in range(4):
        world.invoice(f"p{number}@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING, record_types=[RecordType.PERSON])
    write_in_bulk = CopperClient.write_fields_in_bulk

    def fail(
        client: CopperClient, record_type: RecordType, values: Mapping[int, CustomValues]
    ) -> dict[int, str | None]:
        if people[1] in values:
            raise TransientError("returned 500", ambiguous=True)
        return write_in_bulk(client, record_type, values)

    monkeypatch.setattr(CopperClient, "write_fields_in_bulk", fail)
    write(world)
    assert [bool(values(world, "person", person)) for person in people] == [True, False, True, True]
    assert [row.record_id for row in copper_fields.get_status(world.account).failed] == [people[1]]


def test_one_writer_at_a_time_writes_for_an_account(world: World) -> None:
    ann = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING)
    with transaction() as session:
        lease = field_settings.take_lease(session, world.account, 60)
    assert lease is not None
    write(world)
    assert definitions(world) == {}
    with transaction() as session:
        field_settings.release_lease(session, world.account, lease)
    write(world)
    assert values(world, "person", ann) == {"outstanding_nzd": 10}


def test_what_is_turned_on_while_emptying_ends_stays_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING)
    write(world)
    copper_fields.turn_off(world.account, is_cleared=True, actor=ACTOR)
    finish = field_writer._finish_clearing

    def turn_on_before(account_id: int) -> None:
        turn_on(world, OUTSTANDING)
        finish(account_id)

    monkeypatch.setattr(field_writer, "_finish_clearing", turn_on_before)
    write(world)
    monkeypatch.setattr(field_writer, "_finish_clearing", finish)
    write(world)
    assert copper_fields.get_status(world.account).settings.state is FieldWriting.ON
    assert values(world, "person", ann) == {"outstanding_nzd": 10}


def test_emptying_after_a_disconnect_goes_on_where_it_stopped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    people = [world.person("ann@acme.test") for _ in range(25)]
    world.invoice("ann@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING)
    write(world)
    monkeypatch.setattr(cleanup_tasks, "CLEARING_SECONDS", 0.0)
    connect.disconnect(world.account, actor=ACTOR)

    def tasks() -> int:
        with transaction() as session:
            query = "SELECT count(*) FROM cleanup_task WHERE task_type = 'copper.clear_fields'"
            return int(session.execute(text(query)).scalar_one())

    cleanup_tasks.run_due()
    assert (tasks(), bool(values(world, "person", people[0]))) == (1, True), "one task, and no time"
    monkeypatch.setattr(cleanup_tasks, "CLEARING_SECONDS", 15.0)
    cleanup_tasks.run_due()
    assert tasks() == 0
    assert {str(values(world, "person", person)) for person in people} == {"{}"}


def test_emptying_ends_if_the_account_is_connected_again_and_writes_fields(world: World) -> None:
    ann = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING)
    write(world)
    connect.disconnect(world.account, actor=ACTOR)
    admin = next(account for account in world.sandbox.state()["accounts"] if account["account"] == world.copper)
    again = connect.connect_copper(admin["api_key"], admin["email"], by_operator=True)
    copper_fields.turn_on(again, [OUTSTANDING], ["NZD"], [RecordType.PERSON], actor=ACTOR)
    cleanup_tasks.run_due()
    assert values(world, "person", ann) == {"outstanding_nzd": 10}


def test_what_becomes_overdue_at_midnight_is_written(world: World) -> None:
    ann = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "10.00", due=str(world.today()))
    world.settle()
    turn_on(world, OVERDUE)
    write(world)
    assert values(world, "person", ann) == {"overdue_nzd": 0}

    for table in ("xero_invoice", "record_invoice"):
        execute(f"UPDATE {table} SET due_date = due_date - 1")
    execute("UPDATE xero_organisation SET balances_as_of = balances_as_of - 1")
    projector.project(world.account)
    write(world)
    assert values(world, "person", ann) == {"overdue_nzd": 10}


def test_turning_off_empties_the_fields_or_leaves_them(world: World) -> None:
    company = world.company()
    ann = world.person("ann@acme.test", company=company)
    invoice = world.invoice("ann@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING)
    write(world)
    copper_fields.turn_off(world.account, is_cleared=False, actor=ACTOR)
    world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    world.settle()
    write(world)
    assert values(world, "person", ann) == {"outstanding_nzd": 10}

    turn_on(world, OUTSTANDING)
    write(world)
    assert values(world, "person", ann) == {"outstanding_nzd": 0}
    copper_fields.turn_off(world.account, is_cleared=True, actor=ACTOR)
    assert copper_fields.get_status(world.account).progress.pending == 2
    write(world)
    assert values(world, "person", ann) == values(world, "company", company) == {}
    status = copper_fields.get_status(world.account)
    assert (status.settings.state, status.progress.records) == (FieldWriting.OFF, 0)
    with transaction() as session:
        actions = [entry.action for entry in audit.latest(session, world.account)]
    assert actions[:2] == ["fields.cleared", "fields.written"]


def test_disconnecting_empties_the_fields(world: World) -> None:
    company = world.company()
    people = [world.person("ann@acme.test", company=company) for _ in range(12)]
    world.invoice("ann@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING, FieldMeasure.OPEN_INVOICES)
    write(world)
    assert values(world, "person", people[0]) == {"outstanding_nzd": 10, "open_invoices": 1}
    connect.disconnect(world.account, actor=ACTOR)
    cleanup_tasks.run_due()
    cleanup_tasks.run_due()
    assert {str(values(world, "person", person)) for person in people} == {"{}"}
    assert values(world, "company", company) == {}


def test_verify_names_a_record_whose_expected_values_are_wrong(world: World) -> None:
    ann = world.person("ann@acme.test")
    world.invoice("ann@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING)
    write(world)
    execute("UPDATE copper_field_value SET expected_values = '{\"patina_xero_outstanding_nzd\": 11}'")
    comparison = world.compare()
    assert (comparison.fields, comparison.is_clean) == (1, False)
    assert comparison.examples["fields"] == [f"person {ann}"]
    projector.rebuild(world.account)
    write(world)
    assert world.compare().is_clean
    assert values(world, "person", ann) == {"outstanding_nzd": 10}


def test_every_batch_is_in_the_audit_log_as_counts(world: World) -> None:
    world.person("ann@acme.test", company=world.company())
    world.invoice("ann@acme.test", "10.00")
    world.settle()
    turn_on(world, OUTSTANDING)
    write(world)
    with transaction() as session:
        entries = [(entry.actor, entry.action, entry.detail) for entry in audit.latest(session, world.account)[:2]]
    assert entries[1] == (ACTOR, "fields.changed", "Xero outstanding NZD on leads, people, companies, opportunities")
    assert entries[0][:2] == ("Patina", "fields.written")
    assert sorted(entries[0][2].split(", ")) == ["1 company", "1 person"]
