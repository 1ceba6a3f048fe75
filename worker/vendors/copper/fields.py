"""The custom fields that Patina keeps up to date in Copper: their definitions, and the forms of their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from store.accounts.copper_fields import CopperField
from store.db.enums import FieldMeasure, FieldState, RecordType
from store.read_model.field_values import FieldValue, Observation
from worker.vendors.copper.client import CopperClient, CustomValues
from worker.vendors.copper.schemas import CopperFieldDefinition, CopperRecord
from worker.vendors.errors import EndpointRefusedError, InvalidRequestError
from worker.vendors.parsing import parse_decimal, parse_integer

NAMES = {
    FieldMeasure.OVERDUE: "Xero overdue",
    FieldMeasure.OUTSTANDING: "Xero outstanding",
    FieldMeasure.INVOICED: "Xero invoiced",
    FieldMeasure.CREDIT: "Xero credit to use",
    FieldMeasure.OVERDUE_SINCE: "Xero overdue since",
    FieldMeasure.LAST_INVOICE: "Xero last invoice",
    FieldMeasure.LAST_PAYMENT: "Xero last payment",
    FieldMeasure.OPEN_INVOICES: "Xero open invoices",
}
DATE_FORMAT = "%m/%d/%Y"
UNREADABLE = "unreadable"


def name_of(field: CopperField) -> str:
    """The name that a field gets in Copper, where somebody may change it: "Xero overdue NZD"."""
    return f"{NAMES[field.measure]} {field.currency}".rstrip()


def find_definition(
    field: CopperField, definitions: Sequence[CopperFieldDefinition]
) -> tuple[CopperFieldDefinition | None, FieldState]:
    """A field's definition, whatever its name is now, and the field's state; None if it must be created or is gone."""
    if field.definition_id is not None:
        candidates = [known for known in definitions if known.id == field.definition_id]
    else:
        candidates = [known for known in definitions if known.key.lower() == field.key]
    definition = next(
        (known for known in candidates if _is_usable(known, field)), candidates[0] if candidates else None
    )
    if definition is None:
        return None, FieldState.NEW if field.definition_id is None else FieldState.MISSING
    return definition, FieldState.READY if _is_usable(definition, field) else FieldState.RETYPED


def _is_usable(definition: CopperFieldDefinition, field: CopperField) -> bool:
    """Whether a definition has the type of a field, and its currency as far as Copper names one."""
    has_type = definition.data_type.lower() == field.measure.data_type.lower()
    return has_type and (not field.currency or definition.currency.upper() in {"", field.currency})


def create_definition(
    client: CopperClient, field: CopperField, record_types: Sequence[RecordType]
) -> CopperFieldDefinition:
    """Create a field's definition, as a filter of lists."""
    definition: dict[str, Any] = {
        "name": name_of(field),
        "canonical_name": field.key,
        "data_type": field.measure.data_type,
        "available_on": [record_type.value for record_type in record_types],
        "is_filterable": True,
    }
    return client.create_field_definition(definition | ({"currency": field.currency} if field.currency else {}))


def extend_definition(
    client: CopperClient, definition: CopperFieldDefinition, record_types: Sequence[RecordType]
) -> None:
    """Make a definition available on more types of records, if it is not; what it is available on stays."""
    missing = {record_type.value for record_type in record_types} - definition.available_on
    if missing:
        client.extend_field_definition(definition.id, sorted(definition.available_on | missing))


def refusal_text(field: CopperField, error: InvalidRequestError | EndpointRefusedError) -> str:
    """Why Copper refuses a field, in its own words."""
    return f"Copper refuses the field {name_of(field)}: {error.detail or error}"


def to_custom_values(changes: Mapping[str, FieldValue | None], fields: Mapping[str, CopperField]) -> CustomValues:
    """Changes by field key as values by definition; a field that was never created in Copper has nothing to change."""
    return {
        fields[key].definition_id or 0: to_copper(fields[key].measure, value)
        for key, value in changes.items()
        if key in fields and fields[key].definition_id is not None
    }


def to_copper(measure: FieldMeasure, value: FieldValue | None) -> FieldValue | None:
    """A value as Copper takes it: a number, or a date as mm/dd/yyyy (Copper docs: custom fields, best practices)."""
    if isinstance(value, str) and measure.data_type == "Date":
        return date.fromisoformat(value).strftime(DATE_FORMAT)
    return value


def from_copper(measure: FieldMeasure, value: object) -> FieldValue | None:
    """A value that Copper returned; None if the field is empty.

    Dates come as mm/dd/yyyy or as Unix seconds. What cannot be read becomes a text that equals no value of ours.
    """
    if value is None or value == "":
        return None
    try:
        if measure.data_type != "Date":
            return parse_decimal(value)
        if isinstance(value, str) and "/" in value:
            month, day, year = map(int, value.strip().split("/"))
            return date(year, month, day).isoformat()
        seconds = parse_integer(value)
        return datetime.fromtimestamp(seconds, UTC).date().isoformat() if seconds is not None else None
    except (ValueError, ArithmeticError, OSError):
        return UNREADABLE


def observe(record_type: RecordType, records: Iterable[CopperRecord], fields: Sequence[CopperField]) -> Observation:
    """The values that some records have in the account's own fields."""
    by_definition = {field.definition_id: field for field in fields if field.definition_id is not None}
    observation = Observation(record_type)
    for record in records:
        # Copper's answer names every field of the record. If it names none, it says nothing about them.
        if isinstance(record.custom_fields, list):
            observation.values[record.id] = dict(_own_values(record.custom_fields, by_definition))
    return observation


def _own_values(
    custom_fields: Iterable[object], by_definition: Mapping[int, CopperField]
) -> Iterable[tuple[str, FieldValue]]:
    for entry in custom_fields:
        if isinstance(entry, dict) and isinstance(definition_id := entry.get("custom_field_definition_id"), int):
            field = by_definition.get(definition_id)
            value = from_copper(field.measure, entry.get("value")) if field else None
            if field and value is not None:
                yield field.key, value
