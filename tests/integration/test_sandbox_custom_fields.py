"""Custom fields in the sandbox's Copper: definitions, writes, bulk updates, notifications and searches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandbox.custom_fields import NewDefinition, create_definition
from sandbox.world import CopperAccount, Record, WriteRules, load, save
from sandbox.world import World as SandboxWorld
from tests.support.crm import Crm
from tests.support.world import Sandbox

OVERDUE = {
    "name": "Xero overdue NZD",
    "data_type": "Currency",
    "currency": "NZD",
    "canonical_name": "patina_xero_overdue_nzd",
    "available_on": ["lead", "person", "company", "opportunity"],
}
FLOAT = {"name": "F", "data_type": "Float"}


@pytest.fixture
def crm(sandbox: Sandbox) -> Crm:
    return Crm(sandbox)


def define(crm: Crm, **body: Any) -> int:
    response = crm.ask("POST", "custom_field_definitions", {**OVERDUE, **body})
    assert response.status_code == 200, response.text
    return int(response.json()["id"])


def define_type(crm: Crm, data_type: str, **values: Any) -> int:
    """A field of another type on people, as a user of the web app defines it."""
    field = crm.act("define_field", name=data_type, data_type=data_type, available_on=["person"], **values)
    return int(field["field"])


def item(field: int, value: Any) -> dict[str, Any]:
    return {"custom_field_definition_id": field, "value": value}


def value_of(record: dict[str, Any], field: int) -> Any:
    (value,) = [entry["value"] for entry in record["custom_fields"] if entry["custom_field_definition_id"] == field]
    return value


def put(crm: Crm, record_id: int, *values: dict[str, Any], plural: str = "people") -> Any:
    return crm.ask("PUT", f"{plural}/{record_id}", {"custom_fields": list(values)})


def test_a_definition_is_returned_as_created_with_its_key_in_lower_case(crm: Crm) -> None:
    body = {**OVERDUE, "canonical_name": "Patina_Xero_Overdue_NZD", "available_on": ["person", "project", "task"]}
    created = crm.ask("POST", "custom_field_definitions", body).json()
    assert created == {**body, "canonical_name": OVERDUE["canonical_name"], "is_filterable": False, "id": created["id"]}
    plain = crm.ask("POST", "custom_field_definitions", {**FLOAT, "is_filterable": True}).json()
    assert plain == {
        **FLOAT,
        "id": plain["id"],
        "canonical_name": None,
        "available_on": [],
        "is_filterable": True,
    }, "only Currency fields have a currency, only lists have options"
    assert crm.ask("GET", "custom_field_definitions").json() == [created, plain]
    assert Crm(crm.sandbox).ask("GET", "custom_field_definitions").json() == [], "another account has its own"


def test_a_definition_appears_only_on_the_record_types_that_it_is_available_on(crm: Crm) -> None:
    field = define(crm, available_on=["company", "task"])
    company, person = crm.make("company"), crm.make("person")
    assert crm.ask("GET", f"companies/{company}").json()["custom_fields"] == [item(field, None)]
    assert crm.ask("GET", f"people/{person}").json()["custom_fields"] == []


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"data_type": "Float"}, "name"),
        ({"name": "", "data_type": "Float"}, "name"),
        ({"name": "F"}, "data_type"),
        ({"name": "F", "data_type": "Money"}, "data_type"),
        ({"name": "F", "data_type": "Currency"}, "currency"),
        ({"name": "F", "data_type": "Currency", "currency": "NZDX"}, "currency"),
        ({"name": "F", "data_type": "Currency", "currency": "nzd"}, "currency"),
        ({**FLOAT, "currency": "NZD"}, "currency"),
        ({**FLOAT, "available_on": ["person", "activity"]}, "available_on"),
        ({**FLOAT, "options": [{"name": "A"}]}, "options"),
        ({**FLOAT, "canonical_name": "PATINA_xero_overdue_nzd"}, "canonical_name"),
        ({**FLOAT, "canonical_name": ""}, "canonical_name"),
        ({**FLOAT, "colour": "red"}, "colour is not supported"),
        ([], "the body"),
    ],
)
def test_a_wrong_definition_is_refused_by_the_name_of_its_key(crm: Crm, body: Any, named: str) -> None:
    define(crm)
    response = crm.ask("POST", "custom_field_definitions", body)
    assert (response.status_code, named in response.json()["message"]) == (422, True), response.text
    assert len(crm.ask("GET", "custom_field_definitions").json()) == 1


def test_only_four_things_of_a_definition_can_change(crm: Crm) -> None:
    field = define(crm)
    path = f"custom_field_definitions/{field}"
    before = crm.ask("GET", "custom_field_definitions").json()[0]
    for key, value in (("data_type", "Float"), ("canonical_name", "x"), ("currency", "USD"), ("id", 5)):
        response = crm.ask("PUT", path, {"name": "New", key: value})
        assert (response.status_code, key in response.json()["message"]) == (422, True)
    bodies: list[Any] = [{"name": ""}, {"name": None}, {"available_on": ["cat"]}, {"options": [{"name": "A"}]}, []]
    for body in bodies:
        assert crm.ask("PUT", path, body).status_code == 422
    assert crm.ask("GET", "custom_field_definitions").json() == [before]
    change = {"name": "Overdue", "available_on": ["person"], "is_filterable": True}
    assert crm.ask("PUT", path, change).json() == {**before, **change}
    assert crm.ask("PUT", path, {"name": "Due"}).json() == {**before, **change, "name": "Due"}
    assert crm.ask("PUT", "custom_field_definitions/5", {"name": "x"}).status_code == 404
    response = crm.ask("DELETE", path)
    assert (response.status_code, "does not support DELETE" in response.json()["message"]) == (405, True)


def test_options_keep_their_ids_and_values_are_ids_or_names_on_request(crm: Crm) -> None:
    body = {"name": "Colour", "data_type": "MultiSelect", "available_on": ["person"]}
    created = crm.ask("POST", "custom_field_definitions", {**body, "options": [{"name": "Red"}, {"name": "Blue"}]})
    red, blue = created.json()["options"]
    assert [(red["name"], red["rank"]), (blue["name"], blue["rank"])] == [("Red", 0), ("Blue", 1)]
    colour = created.json()["id"]
    path = f"custom_field_definitions/{colour}"
    changed = crm.ask("PUT", path, {"options": [{"id": blue["id"], "name": "Navy"}, {"name": "Green"}]}).json()
    assert [option["id"] == blue["id"] for option in changed["options"]] == [True, False]
    assert crm.ask("PUT", path, {"options": [{"id": red["id"], "name": "Red"}]}).status_code == 422, "it was removed"
    size = define_type(crm, "Dropdown", options=["Small", "Large"])
    small = crm.ask("GET", "custom_field_definitions").json()[1]["options"][0]["id"]
    person = crm.make("person")
    ids = [item(colour, [blue["id"]]), item(size, small)]
    assert put(crm, person, *ids).json()["custom_fields"] == ids
    names = [item(colour, ["Navy"]), item(size, "Small")]
    assert crm.ask("GET", f"people/{person}?custom_field_computed_values=true").json()["custom_fields"] == names
    (record,) = crm.ask("POST", "people/search?custom_field_computed_values=true", {}).json()
    assert record["custom_fields"] == names
    for wrong in (item(colour, blue["id"]), item(colour, [small]), item(size, "Small"), item(size, [small])):
        assert put(crm, person, wrong).status_code == 422
    for field, value in ((size, small), (colour, blue["id"]), (colour, [5, blue["id"]])):
        assert crm.ids("people", custom_fields=[item(field, value)]) == [person]
    assert crm.ids("people", custom_fields=[item(colour, [small])]) == []


def test_a_plan_limits_the_number_of_definitions(crm: Crm) -> None:
    first = define(crm)
    crm.act("set_write_rules", max_definitions=2)
    define(crm, canonical_name="second")
    response = crm.ask("POST", "custom_field_definitions", FLOAT)
    message = "Your plan allows at most 2 custom fields"
    assert (response.status_code, response.json()["message"]) == (403, message)
    by_hand = {**FLOAT, "available_on": ["person"], "account": crm.account["account"]}
    response = crm.sandbox.http.post("/control/actions/define_field", json=by_hand)
    assert (response.status_code, response.json()["error"]) == (422, message)
    crm.act("delete_field", field=first)
    define(crm)
    crm.act("set_write_rules")
    define(crm, canonical_name="third")


def test_a_put_changes_only_what_it_names_and_returns_the_record(crm: Crm) -> None:
    overdue, since = define(crm), define_type(crm, "Date")
    person = crm.make("person", "Ann Lee", emails=["ann@acme.test"])
    put(crm, person, item(overdue, 12.5), item(since, "02/28/2026"))
    before = crm.ask("GET", f"people/{person}").json()
    assert before["custom_fields"] == [item(overdue, 12.5), item(since, "02/28/2026")]

    crm.sandbox.control("PUT", "clock", json={"offset_seconds": 100})
    response = put(crm, person, item(overdue, 99))
    after = response.json()
    assert (response.status_code, after) == (200, crm.ask("GET", f"people/{person}").json())
    assert after["date_modified"] >= before["date_modified"] + 100
    changed = {"custom_fields": [item(overdue, 99), item(since, "02/28/2026")], "date_modified": after["date_modified"]}
    assert after == {**before, **changed}
    assert value_of(put(crm, person, item(overdue, None)).json(), overdue) is None
    renamed = crm.ask("PUT", f"people/{person}", {"name": "Ann Moe"}).json()
    assert (renamed["name"], value_of(renamed, since)) == ("Ann Moe", "02/28/2026")


@pytest.mark.parametrize("record_type", ["lead", "person", "company", "opportunity"])
def test_every_type_of_record_can_be_written(crm: Crm, record_type: str) -> None:
    plural = {"lead": "leads", "person": "people", "company": "companies", "opportunity": "opportunities"}[record_type]
    field, record = define(crm), crm.make(record_type)
    assert value_of(put(crm, record, item(field, 120.5), plural=plural).json(), field) == 120.5
    assert crm.ids(plural, custom_fields=[{"custom_field_definition_id": field, "minimum_value": 120.5}]) == [record]


@pytest.mark.parametrize(
    ("data_type", "valid", "invalid"),
    [
        ("Currency", [0, -5, 1234.56, 10**15], ["5", True, [5], 10**16, 10**400]),
        ("Float", [0.1, 7], ["0.1", False, {}]),
        ("Percentage", [12.5], ["12 %"]),
        ("Date", ["02/29/2028", "12/31/1969"], ["2/9/2028", "02/30/2028", "2028-02-29", 1_772_236_800, "13/01/2028"]),
        ("Checkbox", [True, False], ["true", 1, 0]),
        ("String", ["", "text"], [5, ["text"]]),
        ("Text", ["first line\nsecond"], [5, False]),
        ("URL", ["https://acme.test/"], [5]),
    ],
)
def test_values_must_be_of_the_type_of_their_field(
    crm: Crm, data_type: str, valid: list[Any], invalid: list[Any]
) -> None:
    field = define(crm) if data_type == "Currency" else define_type(crm, data_type)
    person = crm.make("person")
    for value in valid:
        response = put(crm, person, item(field, value))
        assert (response.status_code, value_of(response.json(), field)) == (200, value)
    before = crm.ask("GET", f"people/{person}").json()
    for value in invalid:
        response = put(crm, person, item(field, value))
        assert (response.status_code, str(field) in response.json()["message"]) == (422, True), value
    assert crm.ask("GET", f"people/{person}").json() == before
    assert value_of(put(crm, person, item(field, None)).json(), field) is None


def test_a_put_that_is_wrong_in_part_changes_nothing(crm: Crm) -> None:
    field, text = define(crm, available_on=["person"]), define_type(crm, "Text")
    person, company = crm.make("person"), crm.make("company")
    before = crm.ask("GET", f"people/{person}").json()
    for body, named in (
        ({"custom_fields": [item(field, 5), item(9, 5)]}, "no custom field 9"),
        ({"custom_fields": [item(field, 5), item(text, 5)]}, f"the value of {text} must be text"),
        ({"custom_fields": [item(field, 5), {"custom_field_definition_id": text}]}, "value"),
        ({"custom_fields": [{**item(field, 5), "currency": "NZD"}]}, "currency is not supported"),
        ({"custom_fields": {str(field): 5}}, "custom_fields"),
        ({"custom_fields": [item(field, 5)], "emails": []}, "emails is not supported"),
        ({"custom_fields": [item(field, 5)], "company_id": company}, "company_id is not supported"),
        ({"custom_fields": [item(field, 5)], "name": ""}, "name"),
        ([], "the body"),
    ):
        response = crm.ask("PUT", f"people/{person}", body)
        assert (response.status_code, named in response.json()["message"]) == (422, True), response.text
    assert crm.ask("GET", f"people/{person}").json() == before
    response = put(crm, company, item(field, 5), plural="companies")
    assert (response.status_code, "a company has no custom field" in response.json()["message"]) == (422, True)
    assert put(crm, 5, item(field, 5)).status_code == 404
    assert put(crm, company, item(field, 5)).status_code == 404, "a company is no person"


def test_an_update_names_what_changed_and_a_put_without_a_change_is_silent(crm: Crm) -> None:
    overdue, since = define(crm), define_type(crm, "Date")
    person = crm.make("person", "Ann")
    with crm.receiving("update") as notifications:
        put(crm, person, item(overdue, 12.5), item(since, "02/28/2026"))
        crm.settle()
        (first,) = notifications
        assert (first["event"], first["ids"], first["k"]) == ("update", [person], "v")
        changes = {str(overdue): [None, 12.5], str(since): [None, 1_772_236_800]}
        assert first["updated_attributes"] == {"custom_fields": changes}

        modified = crm.ask("GET", f"people/{person}").json()["date_modified"]
        crm.sandbox.control("PUT", "clock", json={"offset_seconds": 100})
        unchanged = {"name": "Ann", "custom_fields": [item(overdue, 12.5), item(since, "02/28/2026")]}
        assert crm.ask("PUT", f"people/{person}", unchanged).json()["date_modified"] == modified
        assert crm.ask("PUT", f"people/{person}", {}).status_code == 200
        crm.act("set_custom_field", type="person", id=person, field=overdue, value=12.5)
        crm.settle()
        assert len(notifications) == 1

        put(crm, person, item(overdue, 12.5), item(since, None))
        crm.settle()
        changes = {str(since): [1_772_236_800, None]}
        assert notifications[1]["updated_attributes"] == {"custom_fields": changes}, "only what changed"
        crm.ask("PUT", f"people/{person}", {"name": "Bob", "custom_fields": [item(overdue, 1)]})
        crm.settle()
        changes = {str(overdue): [12.5, 1]}
        assert notifications[2]["updated_attributes"] == {"name": ["Ann", "Bob"], "custom_fields": changes}
        crm.act("set_custom_field", type="person", id=person, field=overdue)
        crm.settle()
        assert notifications[3]["updated_attributes"] == {"custom_fields": {str(overdue): [1, None]}}


def test_updated_attributes_can_be_left_out(crm: Crm) -> None:
    overdue, person = define(crm), crm.make("person")
    with crm.receiving("update") as notifications:
        crm.act("set_write_rules", updated_attributes=False)
        put(crm, person, item(overdue, 12.5))
        crm.act("update_record", type="person", id=person, name="Ann")
        crm.settle()
        assert [(notice["ids"], notice["updated_attributes"]) for notice in notifications] == [([person], {})] * 2
        crm.act("set_write_rules")
        put(crm, person, item(overdue, 13))
        crm.settle()
        assert notifications[2]["updated_attributes"] == {"custom_fields": {str(overdue): [12.5, 13]}}


def test_a_bulk_update_sends_a_notification_for_each_different_change(crm: Crm) -> None:
    field = define(crm)
    people = [crm.make("person") for _ in range(5)]
    amounts = [7, 7, 8, None, 7]
    with crm.receiving("update") as notifications:
        body = [
            {"id": key, "custom_fields": [item(field, amount)]} for key, amount in zip(people, amounts, strict=True)
        ]
        assert crm.ask("POST", "people/bulk_update", {"people": body}).status_code == 200
        crm.settle()
        received = {
            tuple(notice["ids"]): notice["updated_attributes"]["custom_fields"][str(field)] for notice in notifications
        }
    assert received == {(people[0], people[1], people[4]): [None, 7], (people[2],): [None, 8]}
    assert sum(len(notice["ids"]) for notice in notifications) == 4, "nothing changed on the fourth"


def test_notifications_have_the_names_of_options_if_the_subscription_asks_for_them(crm: Crm) -> None:
    size = define_type(crm, "Dropdown", options=["Small", "Large"])
    small = crm.ask("GET", "custom_field_definitions").json()[0]["options"][0]["id"]
    person = crm.make("person")
    with crm.receiving("update") as notifications:
        (subscription,) = crm.ask("GET", "webhooks").json()
        crm.ask("PUT", f"webhooks/{subscription['id']}", {"custom_field_computed_values": True})
        crm.ask("PUT", f"people/{person}", {"name": "Ann", "custom_fields": [item(size, small)]})
        crm.settle()
        (notice,) = notifications
    assert notice["updated_attributes"] == {"name": ["R", "Ann"], "custom_fields": {str(size): [None, "Small"]}}


def bulk(crm: Crm, field: int, records: list[int], value: Any = 5, plural: str = "people") -> Any:
    body = [{"id": record, "custom_fields": [item(field, value)]} for record in records]
    return crm.ask("POST", f"{plural}/bulk_update", {plural: body})


@pytest.mark.parametrize(("plural", "record_type"), [("people", "person"), ("leads", "lead")])
def test_a_bulk_update_answers_in_the_order_of_the_request(crm: Crm, plural: str, record_type: str) -> None:
    field = define(crm)
    first, second, third = (crm.make(record_type) for _ in range(3))
    body = [
        {"id": second, "custom_fields": [item(field, 5)]},
        {"id": 99, "custom_fields": [item(field, 5)]},
        {"id": first, "custom_fields": [item(field, "5")]},
        {"id": first, "custom_fields": [item(8, 5)]},
        {"id": third, "name": "Named", "custom_fields": [item(field, 7)]},
        {"id": third, "colour": "red"},
        {"id": "x"},
        {"id": 10**30},
        {},
    ]
    response = crm.ask("POST", f"{plural}/bulk_update", {plural: body})

    def failure(record_id: int | None, key: str, error: str) -> dict[str, Any]:
        return {"success": False, "message": {key: [{"error": error}]}, "id": record_id}

    assert response.status_code == 200
    assert response.json() == [
        crm.ask("GET", f"{plural}/{second}").json(),
        failure(99, "id", "not found"),
        failure(first, "custom_fields", "invalid"),
        failure(first, "custom_fields", "invalid"),
        crm.ask("GET", f"{plural}/{third}").json(),
        failure(third, "colour", "invalid"),
        *[failure(None, "id", "not found")] * 3,
    ]
    values = [value_of(crm.ask("GET", f"{plural}/{key}").json(), field) for key in (first, second, third)]
    assert values == [None, 5, 7]
    assert crm.ask("GET", f"{plural}/{third}").json()["name"] == "Named"


def test_a_bulk_update_has_at_most_ten_records(crm: Crm) -> None:
    field = define(crm)
    people = [crm.make("person") for _ in range(11)]
    assert bulk(crm, field, people[:10]).status_code == 200
    response = bulk(crm, field, people, 6)
    assert (response.status_code, response.json()) == (422, {"error": "Request size too large, limit is 10"})
    crm.act("set_write_rules", bulk_size=11)
    assert len(bulk(crm, field, people, 6).json()) == 11
    assert crm.ask("POST", "people/bulk_update", {"people": []}).json() == []
    bodies: list[Any] = [{}, {"leads": []}, {"people": [], "leads": []}, {"people": {}}, {"people": [5]}, []]
    for body in bodies:
        assert crm.ask("POST", "people/bulk_update", body).status_code == 422


@pytest.mark.parametrize(("plural", "record_type"), [("companies", "company"), ("opportunities", "opportunity")])
def test_companies_and_opportunities_have_bulk_updates_only_where_that_is_set(
    crm: Crm, plural: str, record_type: str
) -> None:
    field, record = define(crm), crm.make(record_type)
    assert bulk(crm, field, [record], plural=plural).status_code == 404
    assert crm.ask("POST", "tasks/bulk_update", {"tasks": []}).status_code == 404
    crm.act("set_write_rules", bulk_for_all_types=True)
    (updated,) = bulk(crm, field, [record], plural=plural).json()
    assert value_of(updated, field) == 5


def test_bulk_calls_are_limited_to_three_a_second_beside_the_180_a_minute(crm: Crm) -> None:
    field, person = define(crm), crm.make("person")
    # Time passes a thousand times more slowly, so that no second passes within the test.
    crm.sandbox.control("PUT", "clock", json={"speed": 0.001})
    assert [bulk(crm, field, [person], value).status_code for value in range(6)] == [200] * 6, "limits are off"
    other_crm = Crm(crm.sandbox)
    crm.sandbox.control("PUT", "limits", json={"copper_calls_per_minute": 1_000})
    assert bulk(crm, field, [person], 7).status_code == 429, "calls count while limits are off, too"
    assert crm.ask("GET", f"people/{person}").status_code == 200, "other calls have no such limit"
    assert value_of(crm.ask("GET", f"people/{person}").json(), field) == 5
    statuses = [other_crm.ask("POST", "leads/bulk_update", {"leads": []}).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429], "per account"
    crm.sandbox.control("PUT", "clock", json={"speed": 1_000_000})
    assert bulk(crm, field, [person], 8).status_code == 200
    crm.sandbox.control("PUT", "clock", json={"speed": 1})
    crm.sandbox.control("PUT", "limits", json={"copper_calls_per_minute": 1, "copper_bulk_calls_per_second": 100})
    crm.ask("GET", "account")
    assert bulk(crm, field, [person], 9).status_code == 429, "a bulk call is a call"


def test_writes_of_a_record_can_be_made_to_fail(crm: Crm) -> None:
    field = define(crm)
    person, other_person = crm.make("person"), crm.make("person")
    crm.act("refuse_writes", type="person", id=person, message="Close date is required")
    response = put(crm, person, item(field, 5))
    assert (response.status_code, response.json()["message"]) == (422, "Close date is required")
    refused, updated = bulk(crm, field, [person, other_person]).json()
    message = {"custom_fields": [{"error": "Close date is required"}]}
    assert refused == {"success": False, "message": message, "id": person}
    assert value_of(updated, field) == 5
    crm.act("set_write_rules", bulk_size=5)
    assert put(crm, person, item(field, 5)).status_code == 422, "other rules do not end it"
    crm.act("refuse_writes", type="person", id=person, message=None)
    assert put(crm, person, item(field, 5)).status_code == 200


def test_a_deleted_field_takes_its_values_along(crm: Crm) -> None:
    field, other_field, person = define(crm), define_type(crm, "Float"), crm.make("person")
    put(crm, person, item(field, 5), item(other_field, 6))
    with crm.receiving("update") as notifications:
        crm.act("delete_field", field=field)
        crm.settle()
        assert notifications == []
    assert crm.ask("GET", f"people/{person}").json()["custom_fields"] == [item(other_field, 6)]
    assert [entry["id"] for entry in crm.ask("GET", "custom_field_definitions").json()] == [other_field]
    assert put(crm, person, item(field, 5)).status_code == 422
    assert crm.ask("PUT", f"custom_field_definitions/{field}", {"name": "x"}).status_code == 404
    assert define(crm) != field, "its key is free again"


def test_a_retyped_field_keeps_its_key_and_gets_another_id(crm: Crm) -> None:
    field, person = define(crm, is_filterable=True), crm.make("person")
    put(crm, person, item(field, 5))
    before = crm.ask("GET", "custom_field_definitions").json()[0]
    wrong = {"field": field, "data_type": "Float", "currency": "NZD", "account": crm.account["account"]}
    response = crm.sandbox.http.post("/control/actions/retype_field", json=wrong)
    assert (response.status_code, "currency" in response.json()["error"]) == (422, True)
    assert value_of(crm.ask("GET", f"people/{person}").json(), field) == 5, "nothing has changed"
    crm.act("set_write_rules", max_definitions=1)
    retyped = crm.act("retype_field", field=field, data_type="Text")["field"]
    assert retyped != field
    del before["currency"]
    assert crm.ask("GET", "custom_field_definitions").json() == [{**before, "id": retyped, "data_type": "Text"}]
    assert crm.ask("GET", f"people/{person}").json()["custom_fields"] == [item(retyped, None)]
    crm.act("retype_field", field=retyped, data_type="Currency", currency="USD")
    assert crm.ask("GET", "custom_field_definitions").json()[0]["currency"] == "USD"


def test_a_field_is_renamed_and_restricted_to_types_by_hand(crm: Crm) -> None:
    field, person = define(crm), crm.make("person")
    put(crm, person, item(field, 5))
    crm.act("update_field", field=field, name="Overdue (ours)")
    (definition,) = crm.ask("GET", "custom_field_definitions").json()
    assert definition == {**OVERDUE, "id": field, "is_filterable": False, "name": "Overdue (ours)"}
    crm.act("update_field", field=field, available_on=["company"], is_filterable=True)
    (definition,) = crm.ask("GET", "custom_field_definitions").json()
    assert (definition["available_on"], definition["is_filterable"]) == (["company"], True)
    assert put(crm, person, item(field, 6)).status_code == 422
    for action in ("update_field", "delete_field"):
        response = crm.sandbox.http.post(f"/control/actions/{action}", json={"field": 9})
        assert (response.status_code, response.json()["error"]) == (422, "there is no custom field 9")


def test_a_key_is_unique_for_users_of_the_web_app_too(crm: Crm) -> None:
    define(crm)
    by_hand = {**OVERDUE, "canonical_name": "Patina_Xero_Overdue_NZD", "account": crm.account["account"]}
    response = crm.sandbox.http.post("/control/actions/define_field", json=by_hand)
    assert (response.status_code, "already in use" in response.json()["error"]) == (422, True)


def test_fields_values_and_rules_are_saved(tmp_path: Path) -> None:
    account = CopperAccount(1, "Acme")
    body = {"name": "Size", "data_type": "Dropdown", "options": [{"name": "Small"}], "available_on": ["person"]}
    field = create_definition(account, NewDefinition.model_validate(body))
    account.records["person"][7] = Record(7, "person", "Ann", 1, 1, custom_values={field.id: field.options[0].id})
    account.write_rules = WriteRules(max_definitions=1, updated_attributes=False, refused_writes={"person": {7: "no"}})
    world = SandboxWorld(accounts={1: account})
    save(world, tmp_path / "state.json")
    assert load(tmp_path / "state.json") == world


def test_ranges_find_numbers_and_dates(crm: Crm) -> None:
    money, day = define(crm), define_type(crm, "Date")
    number, percentage = define_type(crm, "Float"), define_type(crm, "Percentage")
    ann, bob, cid = (crm.make("person", name) for name in ("Ann", "Bob", "Cid"))
    put(crm, ann, item(money, 0.01), item(day, "02/28/2026"), item(number, -2.5), item(percentage, 5))
    put(crm, bob, item(money, 0), item(day, "03/01/2026"), item(number, 1e6), item(percentage, 10))

    def having(field: int, **bounds: Any) -> list[int]:
        return crm.ids("people", custom_fields=[{"custom_field_definition_id": field, **bounds}])

    assert having(money, minimum_value=0.001) == [ann]
    assert having(money, minimum_value=0) == [ann, bob]
    assert having(money, maximum_value=0, allow_empty=True) == [bob, cid]
    assert having(number, maximum_value=-2.5) == [ann]
    assert having(percentage, minimum_value=6, maximum_value=10) == [bob]
    assert having(day, minimum_value=1_772_236_800, maximum_value=1_772_236_800) == [ann]
    assert having(day, minimum_value=1_772_236_801) == [bob]
    assert having(day, value="03/01/2026") == having(day, value=1_772_323_200) == [bob]


def test_text_cannot_be_searched_and_what_is_no_number_has_no_range(crm: Crm) -> None:
    url, flag = define_type(crm, "URL"), define_type(crm, "Checkbox")
    person = crm.make("person")
    put(crm, person, item(url, "https://acme.test/"), item(flag, False))
    assert crm.ids("people", custom_fields=[item(url, "https://acme.test/"), item(flag, False)]) == [person]
    assert crm.ids("people", custom_fields=[item(flag, True)]) == []
    for field, bounds, named in (
        (define_type(crm, "String"), {"value": "x"}, "cannot be searched"),
        (define_type(crm, "Text"), {"value": "x"}, "cannot be searched"),
        (9, {"value": "x"}, "9 cannot be searched"),
        (url, {"minimum_value": 1}, "has no range"),
        (flag, {"maximum_value": 1}, "has no range"),
    ):
        body = {"custom_fields": [{"custom_field_definition_id": field, **bounds}]}
        response = crm.ask("POST", "people/search", body)
        assert (response.status_code, named in response.json()["message"]) == (422, True), response.text


def page(crm: Crm, path: str = "") -> Any:
    return crm.sandbox.http.get(f"/copper/companies/{crm.account['account']}/records{path}").json()


def test_the_saved_list_has_the_records_that_are_overdue_in_any_currency(crm: Crm) -> None:
    assert page(crm)["overdue"] is None
    define(crm, canonical_name="our_xero_overdue_nzd", name="Else")
    assert page(crm)["overdue"] is None, "the key of another field"
    assert page(crm, "/person?saved=overdue") == {"records": [], "total": 0, "columns": []}
    nzd = define(crm, is_filterable=True)
    usd = define(crm, name="Xero overdue USD", currency="USD", canonical_name="patina_xero_overdue_usd")
    people = [crm.make("person", f"P{number}") for number in range(4)]
    company = crm.make("company", "Acme")
    put(crm, people[0], item(nzd, 0.01))
    put(crm, people[1], item(nzd, 0), item(usd, 7))
    put(crm, people[2], item(nzd, 0), item(usd, -1))
    put(crm, company, item(nzd, 5), plural="companies")
    put(crm, crm.make("lead"), item(nzd, 5), plural="leads")
    assert page(crm)["overdue"] == {"person": 2, "company": 1}
    overdue = page(crm, "/person?saved=overdue")
    assert (overdue["columns"], overdue["total"]) == (["Xero overdue NZD", "Xero overdue USD"], 2)
    values = {row["id"]: [field["value"] for field in row["custom"]] for row in overdue["records"]}
    assert values == {people[0]: [0.01, None], people[1]: [0, 7]}
    assert page(crm, "/person?saved=overdue&search=p1")["total"] == 1
    assert page(crm, "/lead?saved=overdue") == {"error": "no such list"}
    crm.act("retype_field", field=nzd, data_type="Text")
    assert page(crm, "/person?saved=overdue")["columns"] == ["Xero overdue USD"]
