"""Forms as Pydantic models. One that is refused keeps what was typed, and each error stands at its field."""

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
SECRETS = frozenset({"key", "confirm_key", "csrf"})
"""Fields whose values no page repeats."""


def line(text: str) -> str:
    """What somebody typed into a field of one line: trimmed, without control characters."""
    return CONTROL.sub("", text).strip()


def _digits(value: Any) -> int:
    number = whole_number(line(str(value)))
    if number is None:
        raise ValueError("not a whole number")
    return number


def _filled(text: str) -> str:
    if not text:
        raise ValueError("empty")
    return text


WholeNumber = Annotated[int, BeforeValidator(_digits)]
"""A whole number as typed: ASCII digits alone, blanks around them ignored."""
Name = Annotated[str, BeforeValidator(lambda value: line(str(value))), AfterValidator(_filled)]
"""A name of at least one character that can be seen."""


@dataclass(frozen=True)
class FormState:
    """A form as a page shows it: what was typed, and what is wrong, by field ('': with the form as a whole).

    `action` is the address that it is sent to, where a page has several forms.
    """

    values: Mapping[str, list[str]] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    action: str = ""

    @property
    def is_refused(self) -> bool:
        """Whether this form was sent and refused."""
        return bool(self.errors)

    def at(self, action: str) -> FormState:
        """This form, if it is the one that is sent to `action`; an empty one otherwise."""
        return self if self.action == action else EMPTY

    def value(self, name: str, default: object = "") -> str:
        """What stands in a field: what was typed, or `default` while nothing was."""
        return self.values[name][-1] if self.values.get(name) else str(default)

    def has(self, name: str, value: object, *, default: bool) -> bool:
        """Whether a choice is ticked: as it was sent, or `default` while nothing was."""
        return str(value) in self.values.get(name, ()) if self.is_refused else default


EMPTY = FormState()


def refused(sent: FormData, errors: Mapping[str, str], action: str = "") -> FormState:
    """The state of a form that was sent and is shown again with its errors; secrets are typed anew."""
    typed = {name: [CONTROL.sub("", str(one)) for one in sent.getlist(name)] for name in sent if name not in SECRETS}
    return FormState(typed, errors, action)


def read(model: type[Model], sent: FormData, messages: Mapping[str, str]) -> Model | dict[str, str]:
    """The form as `model`, or the errors by field, in the words that `messages` has for every field of the model.

    A field that is a list in the model takes all values of that name, any other the last one.
    """
    given = {
        name: [str(one) for one in sent.getlist(name)] if _is_list(info.annotation) else str(sent[name])
        for name, info in model.model_fields.items()
        if name in sent
    }
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong = {str(one["loc"][0]) if one["loc"] else "" for one in error.errors()}
        return {name: messages[name] for name in model.model_fields if name in wrong}


def _is_list(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) in {list, tuple}
