"""What is wrong with a value, in plain English, instead of the parser's own words; never with the value itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# By the types of pydantic's errors; `{…}` is a limit of the field.
MESSAGES = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "json_invalid": "is not JSON",
    "string_type": "must be text",
    "string_too_long": "must have at most {max_length:,} characters",
    "string_too_short": "must have at least {min_length:,} characters",
    "string_pattern_mismatch": "contains a character that is not allowed",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "is too large",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than": "must be more than {gt:,}",
    "greater_than_equal": "must be at least {ge:,}",
    "less_than": "must be less than {lt:,}",
    "less_than_equal": "must be at most {le:,}",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
    "uuid_type": "must be a UUID",
    "uuid_parsing": "must be a UUID",
    "date_type": "must be a date",
    "datetime_type": "must be a time",
    "list_type": "must be a list",
    "too_long": "must have at most {max_length:,} entries",
    "too_short": "must have at least {min_length:,} entries",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "value_error": "{error}",
}


def describe_error(error: Mapping[str, Any]) -> str:
    """One error of a `ValidationError`, to be read after the name of its field: "must be a whole number"."""
    context = error.get("ctx", {})
    if context.get("min_length") == 1:
        return "is empty"
    message = MESSAGES.get(error["type"])
    return message.format(**context) if message else "is not valid"


def format_path(path: tuple[int | str, ...]) -> str:
    """The path of a value in JSON: `events[0].tenantId`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")
