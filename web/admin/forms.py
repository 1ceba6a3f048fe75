"""Forms as Pydantic models. A rejected form keeps the entered values, and shows each error at its field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError
from starlette.datastructures import FormData

from runtime.numbers import whole_number

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
Model = TypeVar("Model", bound=BaseModel)
SECRET_FIELDS = frozenset({"key", "confirm_key", "csrf"})
"""Fields whose values are never repeated on a page."""


def clean_line(text: str) -> str:
    """The value of a single-line field: trimmed, without control characters."""
    return CONTROL.sub("", text).strip()


def _digits(value: Any) -> int:
    number = whole_number(clean_line(str(value)))
    if number is None:
        raise ValueError("not a whole number")
    return number


def _filled(text: str) -> str:
    if not text:
        raise ValueError("empty")
    return text


WholeNumber = Annotated[int, BeforeValidator(_digits)]
"""A whole number: ASCII digits only, surrounding spaces ignored."""
Name = Annotated[str, BeforeValidator(lambda value: clean_line(str(value))), AfterValidator(_filled)]
"""A name with at least one visible character."""


@dataclass(frozen=True)
class FormState:
    """A form as a page shows it: the entered values and the errors, by field ('': an error of the whole form).

    `action` is the path that it is sent to, if a page has several forms.
    """

    values: Mapping[str, list[str]] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    action: str = ""

    @property
    def has_errors(self) -> bool:
        """Whether this form was sent and rejected."""
        return bool(self.errors)

    def for_action(self, action: str) -> FormState:
        """This form if it was sent to `action`, otherwise an empty one."""
        return self if self.action == action else EMPTY_FORM

    def value(self, name: str, default: object = "") -> str:
        """The value of a field: the entered one, or `default`."""
        return self.values[name][-1] if self.values.get(name) else str(default)

    def is_checked(self, name: str, value: object, *, default: bool) -> bool:
        """Whether a checkbox or radio button is checked: as it was sent, or `default`."""
        return str(value) in self.values.get(name, ()) if self.has_errors else default


EMPTY_FORM = FormState()


def rejected_form(form: FormData, errors: Mapping[str, str], action: str = "") -> FormState:
    """The state of a form that is shown again with its errors; secret fields are empty."""
    values = {
        name: [CONTROL.sub("", str(value)) for value in form.getlist(name)]
        for name in form
        if name not in SECRET_FIELDS
    }
    return FormState(values, errors, action)


def parse_form(model: type[Model], form: FormData, messages: Mapping[str, str]) -> Model | dict[str, str]:
    """The form as `model`, or the errors by field, with the texts that `messages` has for every field of the model.

    A field that is a list in the model takes all values of that name, any other field the last one.
    """
    values = {
        name: [str(value) for value in form.getlist(name)] if _is_list(info.annotation) else str(form[name])
        for name, info in model.model_fields.items()
        if name in form
    }
    try:
        return model.model_validate(values)
    except ValidationError as error:
        invalid_fields = {str(item["loc"][0]) if item["loc"] else "" for item in error.errors()}
        return {name: messages[name] for name in model.model_fields if name in invalid_fields}


def _is_list(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) in {list, tuple}
