"""Tolerant parsing of vendors' rows: only the id is required, and a field that cannot be read counts as not given.

A value that is null, absent or blank was not given. A value of the wrong type, out of range or malformed is dropped and
counted by its field name; its row, and the other entries of its list, are kept. Only a row without an id, or one that
is not a JSON object, cannot be kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, PrivateAttr, ValidationError

MAX_NAME, MAX_DOCUMENT_NUMBER, MAX_SHORT_TEXT, MAX_CURRENCY = 500, 255, 30, 10
MAX_LONG_TEXT = 20_000
MAX_ENTRIES = 1_000
MAX_ID = 2**63 - 1
MAX_PASSES = 10
# More digits than any currency needs. PostgreSQL would write out an exponent as thousands of digits.
MAX_INTEGER_DIGITS, MAX_DECIMALS, MAX_NUMBER_TEXT = 20, 30, 60
NIL_UUID = "0" * 32
# The clocks of one vendor's hosts differ. A version later than this is beyond the vendor's own clock.
MAX_CLOCK_SKEW = timedelta(minutes=5)
# Unix times from here on are milliseconds: as seconds they would be beyond the year 5000.
MIN_MILLISECONDS = 10**11
# The largest offset of a time zone, in either direction.
MAX_OFFSET_MINUTES = 14 * 60
# 20181020: ISO 8601 without separators.
BASIC_DATE = re.compile(r"[0-9]{8}")
# A number that would be an earlier day is more likely a year or a day without separators than a Unix time.
MIN_UNIX_DATE = datetime(1980, 1, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

DOT_NET_DATE = re.compile(r"/Date\((-?\d{1,20})([+-]\d{4})?\)/", re.ASCII)
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
LONE_SURROGATES = re.compile("[\ud800-\udfff]")
# An id field that does not look like an id holds some other value, which must not be logged.
LOGGED_ID = re.compile(r"[0-9A-Za-z{}-]{1,64}")


def sanitise_text(value: str, limit: int) -> str:
    """Text that PostgreSQL and UTF-8 can store: no NUL characters, no lone surrogates, at most `limit` characters."""
    if not value.isascii():
        value = LONE_SURROGATES.sub("\ufffd", value)
    return value.replace("\x00", "")[:limit]


def text_parser(limit: int) -> Callable[[Any], str]:
    """A parser of text: cut at `limit` characters, empty if none was given; a number becomes its digits."""

    def parse_text(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            return sanitise_text(value, limit)
        if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
            return str(value)[:limit]
        raise ValueError("neither text nor a number")

    return parse_text


def is_blank(value: Any) -> bool:
    """Whether nothing was given: null, or only white space."""
    return value is None or (isinstance(value, str) and not value.strip())


def parse_decimal(value: Any) -> Decimal | None:
    """A number with all its digits, given as a number or as text; None if none was given.

    Raises `ValueError` if it is not a number, not finite, or has more than 20 digits before or 30 after the point.
    """
    if is_blank(value):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise ValueError("not a number")
    if isinstance(value, float):
        value = repr(value)
    if isinstance(value, str):
        value = value.strip()
        if len(value) > MAX_NUMBER_TEXT or not NUMBER.fullmatch(value):
            raise ValueError("not a number")
    try:
        number = Decimal(value)
    except ArithmeticError:
        raise ValueError("not a number") from None
    if not number.is_finite():
        raise ValueError("not a finite number")
    exponent = int(number.as_tuple().exponent)
    if number and (number.adjusted() >= MAX_INTEGER_DIGITS or exponent < -MAX_DECIMALS):
        raise ValueError("too many digits")
    return number if number or abs(exponent) <= MAX_DECIMALS else Decimal(0)


def parse_integer(value: Any) -> int | None:
    """An integer, given as a number (`12.0` too) or as text; None if none was given; otherwise `ValueError`."""
    number = parse_decimal(value)
    if number is None:
        return None
    if number != number.to_integral_value():
        raise ValueError("not a whole number")
    return int(number)


def parse_id(value: Any) -> int | None:
    """A Copper id, from 1 to the maximum of PostgreSQL's bigint; None if none was given."""
    number = parse_integer(value)
    if number is not None and not 0 < number <= MAX_ID:
        raise ValueError("out of range")
    return number


def strip_uuid(value: Any) -> Any:
    """The text of a UUID without white space; None if none was given, and for the nil UUID."""
    if not isinstance(value, str):
        return value
    value = value.strip()
    return None if not value or (value[1:3] == "00" and value.strip("{}").replace("-", "") == NIL_UUID) else value


def parse_instant(value: Any) -> datetime | None:
    """An instant: `/Date(1541176290160+0000)/`, ISO 8601, or Unix time in seconds or milliseconds, also as text.

    Without a time zone it is UTC. The year 1 (.NET's empty date) and the Unix time 0 mean that none was given. Raises
    `ValueError` for anything else, and for what is beyond the calendar.
    """
    if is_blank(value):
        return None
    if isinstance(value, str):
        value = value.strip()
        if match := DOT_NET_DATE.fullmatch(value):
            return _since_epoch(_time_span(milliseconds=int(match[1])))
        if not NUMBER.fullmatch(value):
            return _in_utc(datetime.fromisoformat(value))
    number = parse_decimal(value)
    if not number:
        return None
    if number < 0:
        raise ValueError("before 1970")
    unit = "milliseconds" if number >= MIN_MILLISECONDS else "seconds"
    return _since_epoch(_time_span(**{unit: float(number)}))


def _time_span(**units: float) -> timedelta:
    try:
        return timedelta(**units)
    except OverflowError:
        raise ValueError("beyond the calendar") from None


def _since_epoch(span: timedelta) -> datetime | None:
    try:
        instant = EPOCH + span
    except OverflowError:
        raise ValueError("beyond the calendar") from None
    return instant if instant.year > 1 else None


def _in_utc(instant: datetime) -> datetime | None:
    if instant.year <= 1:
        return None
    try:
        return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("beyond the calendar") from None


def parse_date(value: Any) -> date | None:
    """A calendar date: `2018-10-20`, with or without a time, or the day of `/Date(…)/` in the time zone that it names.

    The year 1 means that none was given. Raises `ValueError` for anything else, such as a number that is too small for
    the Unix time of an invoice.
    """
    if isinstance(value, str) and value[4:5] == "-" and value[7:8] == "-":
        day = date.fromisoformat(value[:10])
        return day if day.year > 1 else None
    if isinstance(value, str) and (match := DOT_NET_DATE.fullmatch(value.strip())):
        offset = match[2]
        minutes = int(offset[0] + "1") * (int(offset[1:3]) * 60 + int(offset[3:5])) if offset else 0
        if abs(minutes) > MAX_OFFSET_MINUTES:
            raise ValueError("no offset from UTC")
        local_time = _since_epoch(_time_span(milliseconds=int(match[1]), minutes=minutes))
        return local_time.date() if local_time else None
    text = value.strip() if isinstance(value, str) else ""
    if text and (BASIC_DATE.fullmatch(text) or not NUMBER.fullmatch(text)):
        day = date.fromisoformat(text[:10])
        return day if day.year > 1 else None
    instant = parse_instant(value)
    if instant and instant < MIN_UNIX_DATE:
        raise ValueError("a number, but no Unix time")
    return instant.date() if instant else None


def parse_boolean(value: Any) -> bool | None:
    """True or false, also as a text or as 0 or 1; None if it is blank."""
    if is_blank(value):
        return None
    boolean = BOOLEANS.get(str(value).strip().lower()) if isinstance(value, (bool, int, str)) else None
    if boolean is None:
        raise ValueError("neither true nor false")
    return boolean


def as_list(value: Any) -> Any:
    """A list of at most 1,000 entries; a single object or text becomes a list of one."""
    if value is None:
        return []
    if isinstance(value, (dict, str)):
        return [] if is_blank(value) else [value]
    return value[:MAX_ENTRIES] if isinstance(value, list) else value


Name = Annotated[str, BeforeValidator(text_parser(MAX_NAME))]
DocumentNumber = Annotated[str, BeforeValidator(text_parser(MAX_DOCUMENT_NUMBER))]
ShortText = Annotated[str, BeforeValidator(text_parser(MAX_SHORT_TEXT))]
Currency = Annotated[str, BeforeValidator(text_parser(MAX_CURRENCY))]
LongText = Annotated[str, BeforeValidator(text_parser(MAX_LONG_TEXT))]
Amount = Annotated[Decimal | None, BeforeValidator(parse_decimal)]
Integer = Annotated[int | None, BeforeValidator(parse_integer)]
Instant = Annotated[datetime | None, BeforeValidator(parse_instant)]
Boolean = Annotated[bool | None, BeforeValidator(parse_boolean)]
CalendarDate = Annotated[date | None, BeforeValidator(parse_date)]
RowId = Annotated[int, BeforeValidator(parse_id)]
RelatedId = Annotated[int | None, BeforeValidator(parse_id)]
RowUuid = Annotated[UUID, BeforeValidator(strip_uuid)]
RelatedUuid = Annotated[UUID | None, BeforeValidator(strip_uuid)]


class VersionedRow(BaseModel):
    """A row with a version: the vendor's time of its last change.

    A row without a version, or with one beyond the vendor's clock, counts as changed when it was fetched.
    """

    updated_at: Instant = None
    _fetched_at: datetime | None = PrivateAttr(None)

    @property
    def has_version(self) -> bool:
        """Whether the vendor sent when the row was last changed."""
        return self.updated_at is not None

    @property
    def version(self) -> datetime:
        """When the row was last changed, as far as known."""
        return self.updated_at or self._fetched_at or datetime.now(UTC)

    def drop_future_version(self, vendor_time: datetime) -> bool:
        """Record the vendor's clock at the fetch; returns whether the row's version was beyond it and was dropped."""
        self._fetched_at = vendor_time
        is_beyond = self.updated_at is not None and self.updated_at > vendor_time + MAX_CLOCK_SKEW
        if is_beyond:
            self.updated_at = None
        return is_beyond


Schema = TypeVar("Schema", bound=BaseModel)


@dataclass
class FieldCount:
    """The number of rows of a response in which a field was dropped, and the id of the first of them."""

    rows: int
    row_id: str


@dataclass
class ParseResult(Generic[Schema]):
    """The rows of a response that could be read, and what was dropped.

    `unreadable` has an error message, by id in lower case, for each row that was dropped; `rows_without_id` counts the
    dropped rows that have no id. `dropped_fields` counts the fields that were dropped from the rows in `items`.
    """

    items: list[Schema] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    rows_without_id: int = 0
    dropped_fields: dict[str, FieldCount] = field(default_factory=dict)

    @property
    def unreadable_rows(self) -> int:
        """The number of rows that were dropped."""
        return len(self.unreadable) + self.rows_without_id

    def count_dropped_fields(self, names: Iterable[str], row_id: str) -> None:
        """Count the fields that were dropped from one row."""
        for name in names:
            count = self.dropped_fields.get(name)
            if count is None:
                self.dropped_fields[name] = FieldCount(1, row_id)
            else:
                count.rows += 1


def parse_rows(
    schema: type[Schema], rows: Iterable[Any], id_field: str, vendor_time: datetime | None = None
) -> ParseResult[Schema]:
    """Parse rows as `schema`; their id is in `id_field`, and `vendor_time` is the vendor's clock at the response."""
    result: ParseResult[Schema] = ParseResult()
    for raw_row in rows:
        dropped: set[str] = set()
        row = _parse_row(schema, raw_row, dropped)
        row_id = _loggable_id(raw_row, id_field)
        if row is None:
            if row_id:
                result.unreadable[row_id.lower()] = f"could not be read: {', '.join(sorted(dropped)) or id_field}"
            else:
                result.rows_without_id += 1
            continue
        if vendor_time is not None and isinstance(row, VersionedRow) and row.drop_future_version(vendor_time):
            dropped.add(schema.model_fields["updated_at"].alias or "updated_at")
        result.items.append(row)
        result.count_dropped_fields(dropped, row_id)
    return result


def _loggable_id(raw_row: Any, id_field: str) -> str:
    """A row's id if it may appear in logs; empty if there is none."""
    value = raw_row.get(id_field) if isinstance(raw_row, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, str, Decimal)):
        return ""
    row_id = str(value)
    return row_id if LOGGED_ID.fullmatch(row_id) else ""


def _parse_row(schema: type[Schema], raw_row: Any, dropped: set[str]) -> Schema | None:
    """One row without its invalid fields, whose names are added to `dropped`; None if it has no id."""
    for _ in range(MAX_PASSES):
        try:
            return schema.model_validate(raw_row)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
        paths = [error_details["loc"] for error_details in errors]
        dropped.update(".".join(key for key in path if isinstance(key, str)) for path in paths if path)
        is_id_missing = any(details["type"] == "missing" and len(details["loc"]) == 1 for details in errors)
        if is_id_missing or not all(paths):
            return None
        raw_row = _without(raw_row, paths)
    return None


def _without(value: Any, paths: Sequence[tuple[int | str, ...]]) -> Any:
    """A copy of `value` without the values at `paths`. If a path does not exist, its nearest parent is removed."""
    subpaths: dict[int | str, list[tuple[int | str, ...]]] = {}
    for path in paths:
        subpaths.setdefault(path[0], []).append(path[1:])
    if isinstance(value, dict):
        entries = ((key, _prune(item, subpaths[key]) if key in subpaths else (item,)) for key, item in value.items())
        return {key: pruned[0] for key, pruned in entries if pruned}
    items = (_prune(item, subpaths[index]) if index in subpaths else (item,) for index, item in enumerate(value))
    return [pruned[0] for pruned in items if pruned]


def _prune(value: Any, paths: Sequence[tuple[int | str, ...]]) -> tuple[Any, ...]:
    """The rest of a value as a tuple of one; an empty tuple if the whole value is removed."""
    is_inside = all(path and _has_key(value, path[0]) for path in paths)
    return (_without(value, paths),) if is_inside else ()


def _has_key(value: Any, key: int | str) -> bool:
    if isinstance(value, dict):
        return isinstance(key, str) and key in value
    return isinstance(value, list) and isinstance(key, int) and key < len(value)
