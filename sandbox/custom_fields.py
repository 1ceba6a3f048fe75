"""The rules of Copper's custom fields: their definitions, which values are valid, and how both are written in JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sandbox.world import CopperAccount, CustomField, FieldOption

DataType = Literal[
    "Checkbox", "Currency", "Date", "Dropdown", "Float", "MultiSelect", "Percentage", "String", "Text", "URL"
]
# What a custom field can be available on; the sandbox has no projects and no tasks.
FieldOwner = Literal["lead", "person", "opportunity", "company", "project", "task"]
NUMBER_TYPES = {"Currency", "Float", "Percentage"}
RANGE_TYPES = NUMBER_TYPES | {"Date"}
OPTION_TYPES = {"Dropdown", "MultiSelect"}
UNSEARCHABLE_TYPES = {"String", "Text"}
# Larger numbers are refused, because not every JSON parser reads them exactly.
MAX_NUMBER = 10**15
DATE_FORMAT = "%m/%d/%Y"


class CustomFieldError(ValueError):
    """A definition, a value or a search that Copper refuses; the message names the key."""


class DefinitionLimitError(Exception):
    """The account's plan allows no further custom field."""


class NewOption(BaseModel):
    """An option in the body of a definition; with an id, an existing option is kept."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    id: int | None = None
    rank: int | None = None


class NewDefinition(BaseModel):
    """The body of `POST /custom_field_definitions`; `canonical_name` is lower-cased."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    data_type: DataType
    canonical_name: str | None = Field(None, min_length=1)
    available_on: list[FieldOwner] = Field(default_factory=list)
    is_filterable: bool = False
    options: list[NewOption] = Field(default_factory=list)
    currency: str | None = None

    @field_validator("canonical_name")
    @classmethod
    def _lower(cls, canonical_name: str | None) -> str | None:
        return canonical_name.lower() if canonical_name else None


class DefinitionChange(BaseModel):
    """The body of `PUT /custom_field_definitions/{id}`: nothing else of a definition can change."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("", min_length=1)
    available_on: list[FieldOwner] = Field(default_factory=list)
    is_filterable: bool = False
    options: list[NewOption] = Field(default_factory=list)


class FieldValue(BaseModel):
    """An item of `custom_fields` in the body of a write; null clears the value."""

    model_config = ConfigDict(extra="forbid")

    custom_field_definition_id: int
    value: Any


def create_definition(account: CopperAccount, new: NewDefinition, replaced: CustomField | None = None) -> CustomField:
    """Add a custom field to an account; `replaced` is deleted for it.

    Raises `CustomFieldError` if the definition is not valid, and `DefinitionLimitError` if the plan allows no more;
    then nothing has changed.
    """
    others = [definition for definition in account.custom_fields.values() if definition is not replaced]
    _check_definition(new, others)
    limit = account.write_rules.max_definitions
    if limit is not None and len(others) >= limit:
        raise DefinitionLimitError(f"Your plan allows at most {limit} custom fields")
    definition = CustomField(
        account.allocate_id(),
        new.name,
        new.data_type,
        list(new.available_on),
        new.currency,
        new.canonical_name,
        new.is_filterable,
    )
    _set_options(account, definition, new.options)
    if replaced is not None:
        delete_definition(account, replaced)
    account.custom_fields[definition.id] = definition
    return definition


def _check_definition(new: NewDefinition, others: list[CustomField]) -> None:
    if (new.data_type == "Currency") != (new.currency is not None):
        raise CustomFieldError("currency: a Currency field needs a currency; other fields have none")
    if new.currency is not None and not re.fullmatch(r"[A-Z]{3}", new.currency):
        raise CustomFieldError("currency must be a code of three letters, such as NZD")
    if new.canonical_name is not None and new.canonical_name in {other.canonical_name for other in others}:
        raise CustomFieldError(f"canonical_name: {new.canonical_name} is already in use")


def change_definition(account: CopperAccount, definition: CustomField, change: DefinitionChange) -> None:
    """Change what is set in `change`; raises `CustomFieldError` if its options are not valid."""
    if "options" in change.model_fields_set:
        _set_options(account, definition, change.options)
    for name in change.model_fields_set - {"options"}:
        setattr(definition, name, getattr(change, name))


def delete_definition(account: CopperAccount, definition: CustomField) -> None:
    """Delete a custom field and its values, as a user of the web app does; no notification is sent."""
    del account.custom_fields[definition.id]
    for records in account.records.values():
        for record in records.values():
            record.custom_values.pop(definition.id, None)


def _set_options(account: CopperAccount, definition: CustomField, options: list[NewOption]) -> None:
    if options and definition.data_type not in OPTION_TYPES:
        raise CustomFieldError(f"options: a field of type {definition.data_type} has none")
    known_ids = {option.id for option in definition.options}
    unknown_ids = [option.id for option in options if option.id is not None and option.id not in known_ids]
    if unknown_ids:
        raise CustomFieldError(f"options: {unknown_ids[0]} is not an option of this field")
    definition.options = [
        FieldOption(option.id or account.allocate_id(), option.name, position if option.rank is None else option.rank)
        for position, option in enumerate(options)
    ]


def definition_json(definition: CustomField) -> dict[str, Any]:
    """A definition in Copper's format: `currency` and `options` are only there for the types that have them."""
    payload: dict[str, Any] = {
        "id": definition.id,
        "name": definition.name,
        "canonical_name": definition.canonical_name,
        "data_type": definition.data_type,
        "available_on": definition.available_on,
        "is_filterable": definition.is_filterable,
    }
    if definition.data_type == "Currency":
        payload["currency"] = definition.currency
    if definition.data_type in OPTION_TYPES:
        payload["options"] = [
            {"id": option.id, "name": option.name, "rank": option.rank} for option in definition.options
        ]
    return payload


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


def _timestamp(text: str) -> int:
    return int(datetime.strptime(text, DATE_FORMAT).replace(tzinfo=UTC).timestamp())


def _is_date(value: Any) -> bool:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{2}/[0-9]{2}/[0-9]{4}", value):
        return False
    try:
        _timestamp(value)
    except ValueError:
        return False
    return True


# What a value must be: in words, and as a check.
VALUE_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(NUMBER_TYPES, ("a number", _is_number)),
    **dict.fromkeys(("String", "Text", "URL"), ("text", lambda value: isinstance(value, str))),
    "Date": ("a date as mm/dd/yyyy", _is_date),
    "Checkbox": ("true or false", lambda value: isinstance(value, bool)),
}


def check_value(definition: CustomField, value: Any) -> None:
    """Raise `CustomFieldError` if a field cannot have this value; None is valid for every field."""
    if value is None:
        return
    option_ids = {option.id for option in definition.options}
    if definition.data_type == "Dropdown":
        expected, is_valid = "the id of an option", type(value) is int and value in option_ids
    elif definition.data_type == "MultiSelect":
        expected = "a list of ids of options"
        is_valid = isinstance(value, list) and all(type(item) is int and item in option_ids for item in value)
    else:
        expected, rule = VALUE_RULES[definition.data_type]
        is_valid = rule(value)
    if not is_valid:
        raise CustomFieldError(f"custom_fields: the value of {definition.id} must be {expected}")


def find_definition(account: CopperAccount, record_type: str, definition_id: int) -> CustomField:
    """A custom field of a record type; raises `CustomFieldError` if there is none with this id."""
    definition = account.custom_fields.get(definition_id)
    if definition is None or record_type not in definition.available_on:
        raise CustomFieldError(f"custom_fields: a {record_type} has no custom field {definition_id}")
    return definition


def checked_values(account: CopperAccount, record_type: str, items: Iterable[FieldValue]) -> dict[int, Any]:
    """The values of a write by the id of their field; raises `CustomFieldError` if a field or a value is not valid."""
    values = {}
    for item in items:
        check_value(find_definition(account, record_type, item.custom_field_definition_id), item.value)
        values[item.custom_field_definition_id] = item.value
    return values


def with_timestamp(definition: CustomField, value: Any) -> Any:
    """A value as searches and notifications have it: a date is a Unix timestamp."""
    if value is None or definition.data_type != "Date":
        return value
    return _timestamp(value)


def computed_value(definition: CustomField, value: Any) -> Any:
    """A value with the names of options instead of their ids, for `custom_field_computed_values`."""
    if value is None or definition.data_type not in OPTION_TYPES:
        return value
    names = {option.id: option.name for option in definition.options}
    return [names.get(item) for item in value] if isinstance(value, list) else names.get(value)


def computed_changes(account: CopperAccount, changed: dict[str, Any]) -> dict[str, Any]:
    """The `updated_attributes` of a notification with the names of options instead of their ids."""
    fields = {
        key: [computed_value(account.custom_fields[int(key)], value) for value in values]
        if int(key) in account.custom_fields
        else values
        for key, values in changed.get("custom_fields", {}).items()
    }
    return {**changed, "custom_fields": fields} if fields else changed
