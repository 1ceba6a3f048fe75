"""Custom fields between Copper's forms and ours: values, definitions, and what a notification says."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.accounts.copper_fields import CopperField, make_field
from store.db.enums import FieldMeasure, FieldState, RecordType
from webhooks.payloads import names_only_fields
from worker.vendors.copper.fields import UNREADABLE, find_definition, from_copper, observe, to_copper
from worker.vendors.copper.schemas import CopperFieldDefinition, CopperPerson
from worker.vendors.parsing import parse_rows

AMOUNT, DAY, COUNT = FieldMeasure.OVERDUE, FieldMeasure.OVERDUE_SINCE, FieldMeasure.OPEN_INVOICES
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("measure", "value", "expected"),
    [
        (AMOUNT, None, None),
        (AMOUNT, "", None),
        (AMOUNT, 12, Decimal(12)),
        (AMOUNT, Decimal("12.50"), Decimal("12.5")),
        (AMOUNT, "12.50", Decimal("12.5")),
        (AMOUNT, Decimal("123456789012345678.12"), Decimal("123456789012345678.12")),
        (AMOUNT, "a lot", UNREADABLE),
        (AMOUNT, [12], UNREADABLE),
        (AMOUNT, True, UNREADABLE),
        (DAY, "02/28/2026", "2026-02-28"),
        (DAY, "2/8/2026", "2026-02-08"),
        (DAY, 1_772_236_800, "2026-02-28"),
        (DAY, "1772236800", "2026-02-28"),
        (DAY, "02/30/2026", UNREADABLE),
        (DAY, "1/2/3/4", UNREADABLE),
        (DAY, 10**18, UNREADABLE),
        (DAY, {}, UNREADABLE),
        (COUNT, 3, Decimal(3)),
    ],
)
def test_a_value_of_copper_is_read_in_every_form(measure: FieldMeasure, value: object, expected: object) -> None:
    assert from_copper(measure, value) == expected


def test_a_value_is_written_as_copper_takes_it() -> None:
    assert to_copper(DAY, "2026-02-08") == "02/08/2026"
    assert to_copper(AMOUNT, Decimal("12.5")) == Decimal("12.5")
    assert to_copper(DAY, None) is None


@given(entries=ANYTHING, value=ANYTHING)
def test_nothing_in_a_record_keeps_its_own_fields_from_being_read(entries: Any, value: Any) -> None:
    field = CopperField("patina_xero_overdue_nzd", AMOUNT, "NZD", definition_id=7)
    ours = {"custom_field_definition_id": 7, "value": 12.5}
    odd = [entries, {"custom_field_definition_id": entries, "value": value}, {"custom_field_definition_id": 8}]
    rows = [{"id": 1, "custom_fields": entries}, {"id": 2, "custom_fields": [*odd, ours]}]
    people = parse_rows(CopperPerson, rows, "id", None).items
    observed = observe(RecordType.PERSON, people, [field]).values
    assert [person.id for person in people] == [1, 2]
    assert observed[2]["patina_xero_overdue_nzd"] == Decimal("12.5")
    unreadable = [{"id": 3, "custom_fields": [{"custom_field_definition_id": 7, "value": value}]}]
    (person,) = parse_rows(CopperPerson, unreadable, "id", None).items
    observe(RecordType.PERSON, [person], [field])


@pytest.mark.parametrize(
    ("definition", "state"),
    [
        ({"id": 7, "canonical_name": "PATINA_XERO_OVERDUE_NZD", "data_type": "Currency", "currency": "nzd"}, "ready"),
        ({"id": 7, "canonical_name": None, "data_type": "Currency"}, "ready"),
        ({"id": 7, "data_type": "currency", "currency": None, "available_on": None}, "ready"),
        ({"id": 7, "data_type": "Float"}, "retyped"),
        ({"id": 7, "data_type": "Currency", "currency": "AUD"}, "retyped"),
        ({"id": 8, "canonical_name": "patina_xero_overdue_nzd", "data_type": "Currency"}, "missing"),
    ],
)
def test_a_known_definition_is_recognised_by_its_id(definition: dict[str, Any], state: str) -> None:
    field = CopperField("patina_xero_overdue_nzd", AMOUNT, "NZD", definition_id=7)
    definitions = parse_rows(CopperFieldDefinition, [definition], "id", None).items
    assert find_definition(field, definitions)[1] == FieldState(state)


def test_an_unknown_definition_is_recognised_by_its_key() -> None:
    field = make_field(FieldMeasure.LAST_PAYMENT)
    rows = [{"id": 5, "canonical_name": "patina_xero_last_payment", "data_type": "Date"}]
    definition, state = find_definition(field, parse_rows(CopperFieldDefinition, rows, "id", None).items)
    assert definition is not None
    assert (definition.id, state) == (5, FieldState.READY)
    assert find_definition(field, []) == (None, FieldState.NEW)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"event": "update", "updated_attributes": {"custom_fields": {"7": [1, 2]}}}, True),
        ({"event": " Update ", "updated_attributes": {"custom_fields": {"7": [1, 2], "8": [None, 2]}}}, True),
        ({"event": "update", "updated_attributes": {"custom_fields": {"7": [1, 2], "9": [1, 2]}}}, False),
        ({"event": "update", "updated_attributes": {"custom_fields": {"7": [1, 2]}, "name": ["a", "b"]}}, False),
        ({"event": "update", "updated_attributes": {"custom_fields": {}}}, False),
        ({"event": "update", "updated_attributes": {"custom_fields": [7]}}, False),
        ({"event": "update", "updated_attributes": {}}, False),
        ({"event": "update", "updated_attributes": None}, False),
        ({"event": "update"}, False),
        ({"event": "new", "updated_attributes": {"custom_fields": {"7": [1, 2]}}}, False),
        ({"event": "delete", "updated_attributes": {"custom_fields": {"7": [1, 2]}}}, False),
        ({"event": 7, "updated_attributes": {"custom_fields": {"7": [1, 2]}}}, False),
        ({"event": "update", "updated_attributes": {"custom_fields": {"seven": [1, 2]}}}, False),
    ],
)
def test_only_an_update_of_nothing_but_our_fields_is_ours(payload: dict[str, Any], expected: bool) -> None:
    assert names_only_fields(payload, {7, 8}) is expected
    assert names_only_fields(payload, ()) is False
