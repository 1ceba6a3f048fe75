"""Xero's `where`: the common forms of its filter language, compiled to a predicate; other forms are refused by name.

Text comparison is case-sensitive, as with `==` in Xero's own examples; `ToLower()` and `ToUpper()` make it
case-insensitive (Xero docs: Requests and responses, optimised use of the where filter).
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from lark import Lark, Transformer, v_args
from lark.exceptions import LarkError, UnexpectedInput, VisitError

from sandbox.query import BadQueryError
from sandbox.world import Organisation
from sandbox.xero_fields import Field, FieldType, Value, field_of

ERROR_TYPE = "QueryParseException"
Predicate = Callable[[Any, Organisation], bool]
GRAMMAR = r"""
    ?start: either
    ?either: both (_OR both)*
    ?both: condition (_AND condition)*
    ?condition: _NOT condition          -> negated
              | "(" either ")"
              | term COMPARE term       -> compared
              | term                    -> alone
    ?term: path method*                 -> called
         | STRING                       -> text
         | NUMBER                       -> number
         | _DATETIME "(" [NUMBER ("," NUMBER)*] ")"       -> date
         | _PARSE "(" STRING ")"                         -> parsed_date
         | _GUID "(" STRING ")"                          -> guid
         | TRUE                         -> true
         | FALSE                        -> false
         | NULL                         -> null
    path: NAME ("." NAME)*
    method: METHOD "(" [STRING] ")"
    METHOD.5: /\.\s*[A-Za-z]+(?=\s*\()/
    _DATETIME.3: /DateTime(?=\s*\()/i
    _PARSE.6: /DateTime\s*\.\s*Parse(?=\s*\()/i
    _GUID.3: /(new\s+)?Guid(?=\s*\()/i
    _OR.3: /\|\||\bOR\b/i
    _AND.3: /&&|\bAND\b/i
    _NOT.3: /!(?!=)|\bNOT\b/i
    TRUE.3: /\btrue\b/i
    FALSE.3: /\bfalse\b/i
    NULL.3: /\bnull\b/i
    COMPARE: "==" | "=" | "!=" | "<>" | "<=" | ">=" | "<" | ">"
    NAME: /[A-Za-z_]\w*/
    NUMBER: /-?\d+(\.\d+)?/
    STRING: /"(\\.|[^"\\])*"/
    %ignore /\s+/
"""
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
TEXT_TESTS: dict[str, Callable[[str, str], bool]] = {
    "contains": operator.contains,
    "startswith": str.startswith,
    "endswith": str.endswith,
}
CONVERSIONS: dict[str, Callable[[str], str]] = {"tolower": str.lower, "toupper": str.upper}


class _WhereError(Exception):
    """An invalid filter; reported as Xero's 400."""


@dataclass(frozen=True)
class _Term:
    """A side of a comparison: its type (None for null), and a function that returns its value for a row."""

    type: FieldType | None
    value: Callable[[Any, Organisation], Value]


def _literal(field_type: FieldType | None, value: Value) -> _Term:
    return _Term(field_type, lambda _, __: value)


@v_args(inline=True)
class _Compiler(Transformer[Any, Any]):
    """Compiles the syntax tree of a filter to a predicate."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        super().__init__()
        self._fields = fields

    def either(self, *predicates: Predicate) -> Predicate:
        """Conditions joined by OR."""
        return lambda row, organisation: any(predicate(row, organisation) for predicate in predicates)

    def both(self, *predicates: Predicate) -> Predicate:
        """Conditions joined by AND."""
        return lambda row, organisation: all(predicate(row, organisation) for predicate in predicates)

    def negated(self, predicate: Predicate) -> Predicate:
        """A negated condition."""
        return lambda row, organisation: not predicate(row, organisation)

    def compared(self, left: _Term, sign: str, right: _Term) -> Predicate:
        """A comparison of two terms of the same type. Nothing is less or greater than null."""
        compare = COMPARISONS[sign]
        equality = compare in {operator.eq, operator.ne}
        types = {left.type, right.type} - {None}
        if len(types) > 1 or (not equality and types & {FieldType.BOOLEAN, FieldType.GUID}):
            type_names = " and ".join(sorted(field_type.value for field_type in types if field_type))
            raise _WhereError(f"Operator '{sign}' incompatible with {type_names}")

        def predicate(row: Any, organisation: Organisation) -> bool:
            left_value, right_value = left.value(row, organisation), right.value(row, organisation)
            return compare(left_value, right_value) if equality or None not in (left_value, right_value) else False

        return predicate

    def alone(self, term: _Term) -> Predicate:
        """A Boolean term without a comparison."""
        if term.type is not FieldType.BOOLEAN:
            raise _WhereError("Expression of type 'Boolean' expected")
        return lambda row, organisation: bool(term.value(row, organisation))

    def path(self, *names: str) -> _Term:
        """An element."""
        field = field_of(".".join(names), self._fields, ERROR_TYPE)
        return _Term(field.type, field.value)

    def method(self, name: str, argument: str | None) -> tuple[str, str | None]:
        """A method's name and argument."""
        canonical_name = name.lstrip(". ").lower()
        if canonical_name not in TEXT_TESTS and canonical_name not in CONVERSIONS:
            raise _WhereError(f"The sandbox does not support the method '{name.lstrip('. ')}'")
        return canonical_name, None if argument is None else _unquoted(argument)

    def called(self, term: _Term, *methods: tuple[str, str | None]) -> _Term:
        """An element with a chain of text methods."""
        for name, argument in methods:
            if term.type is not FieldType.TEXT:
                raise _WhereError(f"No applicable method '{name}' exists for {term.type.value if term.type else ''}")
            if (argument is None) == (name in TEXT_TESTS):
                raise _WhereError(f"'{name}' has the wrong number of arguments")
            term = _converted(term, name) if argument is None else _tested(term, name, argument)
        return term

    def text(self, quoted: str) -> _Term:
        """A text literal."""
        return _literal(FieldType.TEXT, _unquoted(quoted))

    def number(self, digits: str) -> _Term:
        """A number literal."""
        return _literal(FieldType.NUMBER, Decimal(digits))

    def date(self, *parts: str | None) -> _Term:
        """`DateTime(2026, 11, 30)`, optionally with hours, minutes and seconds."""
        numbers = [int(part) for part in parts if part is not None and part.isdigit()]
        if len(numbers) != len(parts) or len(numbers) not in {3, 6}:
            raise _WhereError("DateTime takes three or six whole numbers")
        year, month, day, hour, minute, second = (*numbers, 0, 0, 0)[:6]
        try:
            instant = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except (ValueError, OverflowError):
            raise _WhereError("DateTime is not a valid date") from None
        return _literal(FieldType.DATE, instant)

    def parsed_date(self, quoted: str) -> _Term:
        """`DateTime.Parse("2026-11-30")`."""
        try:
            instant = datetime.fromisoformat(_unquoted(quoted))
        except ValueError:
            raise _WhereError("DateTime.Parse supports ISO 8601 only") from None
        return _literal(FieldType.DATE, instant if instant.tzinfo else instant.replace(tzinfo=UTC))

    def guid(self, quoted: str) -> _Term:
        """`Guid("…")`."""
        try:
            return _literal(FieldType.GUID, UUID(_unquoted(quoted)))
        except ValueError:
            raise _WhereError("Guid should contain 32 digits with 4 dashes") from None

    def true(self, _: str) -> _Term:
        """`true`."""
        return _literal(FieldType.BOOLEAN, True)

    def false(self, _: str) -> _Term:
        """`false`."""
        return _literal(FieldType.BOOLEAN, False)

    def null(self, _: str) -> _Term:
        """`null`, which can be compared with anything."""
        return _literal(None, None)


def _unquoted(quoted: str) -> str:
    try:
        return str(json.loads(quoted, strict=False))
    except ValueError:
        raise _WhereError(f"{quoted} is not a text literal") from None


def _converted(term: _Term, name: str) -> _Term:
    convert = CONVERSIONS[name]
    return _Term(FieldType.TEXT, lambda row, organisation: convert(str(term.value(row, organisation) or "")))


def _tested(term: _Term, name: str, argument: str) -> _Term:
    test = TEXT_TESTS[name]
    return _Term(FieldType.BOOLEAN, lambda row, organisation: test(str(term.value(row, organisation) or ""), argument))


@lru_cache(maxsize=1)
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", maybe_placeholders=True)


def compile_where(text: str, fields: Mapping[str, Field]) -> Predicate:
    """Compile a filter to a predicate; raises `BadQueryError` (`QueryParseException`) if it is not supported."""
    try:
        predicate: Predicate = _Compiler(fields).transform(_parser().parse(text))
    except VisitError as error:
        if isinstance(error.orig_exc, BadQueryError):
            raise error.orig_exc from None
        if isinstance(error.orig_exc, _WhereError):
            raise BadQueryError(str(error.orig_exc), ERROR_TYPE) from None
        raise BadQueryError("where is nested too deeply", ERROR_TYPE) from None
    except UnexpectedInput as error:
        raise BadQueryError(f"where is invalid at character {error.column}", ERROR_TYPE) from None
    except (LarkError, RecursionError):
        raise BadQueryError("where is invalid", ERROR_TYPE) from None
    return predicate
