"""Reading what vendors send: a row is kept for its id alone, and a field that cannot be understood is "not given".

A value that is null, absent or blank was not given. One of another type, out of range or not to be read at all is
dropped and counted by its name; its row, and the other entries of its list, are kept. Only what has no id, or is no
JSON object, cannot be kept.
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

MAX_NAME, MAX_NUMBER, MAX_WORD, MAX_CURRENCY = 500, 255, 30, 10
MAX_ENTRIES = 1_000
MAX_ID = 2**63 - 1
MAX_PASSES = 10
# More digits than any currency needs; what PostgreSQL would have to write out in thousands of them stays out.
MAX_INTEGER_DIGITS, MAX_DECIMALS, MAX_NUMBER_TEXT = 20, 30, 60
NO_UUID = "0" * 32
# Clocks of one vendor's machines differ; a version later than this lies beyond the vendor's own clock.
MAX_CLOCK_SKEW = timedelta(minutes=5)
# Unix times from here on are milliseconds: as seconds they would lie beyond the year 5000.
FIRST_MILLISECONDS = 10**11
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

DOT_NET_DATE = re.compile(r"/Date\((-?\d{1,20})([+-]\d{4})?\)/", re.ASCII)
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
LONE_SURROGATES = re.compile("[\ud800-\udfff]")
# What stands where an id should stand, yet looks like none, is a value, and stays out of logs.
LOGGED_ID = re.compile(r"[0-9A-Za-z{}-]{1,64}")


def clean(value: str, limit: int) -> str:
    """Text that PostgreSQL and UTF-8 can hold: no zero characters, no lone surrogates, at most `limit` characters."""
    if not value.isascii():
        value = LONE_SURROGATES.sub("\ufffd", value)
    return value.replace("\x00", "")[:limit]


def text(limit: int) -> Callable[[Any], str]:
    """A reader of text, cut at `limit` characters and empty where none was given; a number is read as its digits."""

    def read(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            return clean(value, limit)
        if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
            return str(value)[:limit]
        raise ValueError("neither text nor a number")

    return read


def is_blank(value: Any) -> bool:
    """Whether nothing was given: null, or text of blanks alone."""
    return value is None or (isinstance(value, str) and not value.strip())


def decimal_number(value: Any) -> Decimal | None:
    """A number with all its digits, given as a number or as text; None where none was given.

    Raises `ValueError` for what is no number, is not finite, or has more digits than 20 before and 30 after the point.
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


def whole_number(value: Any) -> int | None:
    """A whole number, given as a number (`12.0` too) or as text; None where none was given; else `ValueError`."""
    number = decimal_number(value)
    if number is None:
        return None
    if number != number.to_integral_value():
        raise ValueError("not a whole number")
    return int(number)


def positive_id(value: Any) -> int | None:
    """An id as Copper has them, from 1 to what PostgreSQL's bigint holds; None where none was given."""
    number = whole_number(value)
    if number is not None and not 0 < number <= MAX_ID:
        raise ValueError("out of range")
    return number


def identifier(value: Any) -> Any:
    """A UUID's text without blanks; None where none was given, and for the one that is all zeros."""
    if not isinstance(value, str):
        return value
    value = value.strip()
    return None if not value or (value[1:3] == "00" and value.strip("{}").replace("-", "") == NO_UUID) else value


def moment(value: Any) -> datetime | None:
    """An instant: `/Date(1541176290160+0000)/`, ISO 8601, or Unix time in seconds or milliseconds, also as text.

    Without a zone it is UTC. The year 1 (.NET's empty date) and the Unix time 0 mean that none was given. Raises
    `ValueError` for anything else, and for what lies beyond the calendar.
    """
    if is_blank(value):
        return None
    if isinstance(value, str):
        value = value.strip()
        if match := DOT_NET_DATE.fullmatch(value):
            return _since_epoch(timedelta_of(milliseconds=int(match[1])))
        if not NUMBER.fullmatch(value):
            return _in_utc(datetime.fromisoformat(value))
    number = decimal_number(value)
    if not number:
        return None
    if number < 0:
        raise ValueError("before 1970")
    unit = "milliseconds" if number >= FIRST_MILLISECONDS else "seconds"
    return _since_epoch(timedelta_of(**{unit: float(number)}))


def timedelta_of(**amounts: float) -> timedelta:
    """A span of time; raises `ValueError` where it is too long."""
    try:
        return timedelta(**amounts)
    except OverflowError:
        raise ValueError("beyond the calendar") from None


def _since_epoch(span: timedelta) -> datetime | None:
    try:
        found = EPOCH + span
    except OverflowError:
        raise ValueError("beyond the calendar") from None
    return found if found.year > 1 else None


def _in_utc(found: datetime) -> datetime | None:
    if found.year <= 1:
        return None
    try:
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("beyond the calendar") from None


def calendar_date(value: Any) -> date | None:
    """A calendar date: `2018-10-20`, with any time behind it, or the day of `/Date(…)/` in the zone that it names.

    The year 1 means that none was given. Raises `ValueError` for anything else.
    """
    if isinstance(value, str) and value[4:5] == "-" and value[7:8] == "-":
        day = date.fromisoformat(value[:10])
        return day if day.year > 1 else None
    if isinstance(value, str) and (match := DOT_NET_DATE.fullmatch(value.strip())):
        offset = match[2]
        minutes = int(offset[0] + "1") * (int(offset[1:3]) * 60 + int(offset[3:5])) if offset else 0
        found = _since_epoch(timedelta_of(milliseconds=int(match[1]), minutes=minutes))
        return found.date() if found else None
    if isinstance(value, str) and not is_blank(value) and not NUMBER.fullmatch(value.strip()):
        day = date.fromisoformat(value.strip()[:10])
        return day if day.year > 1 else None
    found = moment(value)
    return found.date() if found else None


def as_list(value: Any) -> Any:
    """A list, of at most 1,000 entries; one object or text that stands for itself is a list of one."""
    if value is None:
        return []
    if isinstance(value, (dict, str)):
        return [] if is_blank(value) else [value]
    return value[:MAX_ENTRIES] if isinstance(value, list) else value


Name = Annotated[str, BeforeValidator(text(MAX_NAME))]
Number = Annotated[str, BeforeValidator(text(MAX_NUMBER))]
Word = Annotated[str, BeforeValidator(text(MAX_WORD))]
Currency = Annotated[str, BeforeValidator(text(MAX_CURRENCY))]
LongText = Annotated[str, BeforeValidator(text(20_000))]
Amount = Annotated[Decimal | None, BeforeValidator(decimal_number)]
WholeNumber = Annotated[int | None, BeforeValidator(whole_number)]
Moment = Annotated[datetime | None, BeforeValidator(moment)]
CalendarDate = Annotated[date | None, BeforeValidator(calendar_date)]
RowId = Annotated[int, BeforeValidator(positive_id)]
RelatedId = Annotated[int | None, BeforeValidator(positive_id)]
RowUuid = Annotated[UUID, BeforeValidator(identifier)]
RelatedUuid = Annotated[UUID | None, BeforeValidator(identifier)]


class WireRow(BaseModel):
    """A row with a version, the vendor's time of its last change.

    A row whose version was not given, or lies beyond the vendor's clock, counts as changed when it was fetched.
    """

    updated_at: Moment = None
    _fetched_at: datetime | None = PrivateAttr(None)

    @property
    def has_version(self) -> bool:
        """Whether the vendor said when the row was last changed."""
        return self.updated_at is not None

    @property
    def version(self) -> datetime:
        """When the row was last changed, as far as known."""
        return self.updated_at or self._fetched_at or datetime.now(UTC)

    def bound_version(self, clock: datetime) -> bool:
        """Note the vendor's clock at the fetch; returns whether the row's version lies beyond it and was dropped."""
        self._fetched_at = clock
        is_beyond = self.updated_at is not None and self.updated_at > clock + MAX_CLOCK_SKEW
        if is_beyond:
            self.updated_at = None
        return is_beyond


Wire = TypeVar("Wire", bound=BaseModel)


@dataclass
class FieldCount:
    """In how many rows of an answer a field could not be read, and the id of the first of them."""

    rows: int
    row_id: str


@dataclass
class ParseResult(Generic[Wire]):
    """What could be read of an answer's rows.

    `unreadable` says by id (in lower case) what is wrong with rows that could not be kept, `unidentified` counts those
    without an id; `fields` counts what was dropped from the rows that were kept.
    """

    items: list[Wire] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    unidentified: int = 0
    fields: dict[str, FieldCount] = field(default_factory=dict)

    @property
    def unreadable_rows(self) -> int:
        """How many rows could not be kept."""
        return len(self.unreadable) + self.unidentified

    def count_fields(self, names: Iterable[str], row_id: str) -> None:
        """Count fields that were dropped from one row."""
        for name in names:
            known = self.fields.get(name)
            if known is None:
                self.fields[name] = FieldCount(1, row_id)
            else:
                known.rows += 1


def parse(model: type[Wire], raw: Iterable[Any], key: str, clock: datetime | None = None) -> ParseResult[Wire]:
    """Read rows as `model`, whose id is in `key`; `clock` is the vendor's at the time of the answer."""
    result: ParseResult[Wire] = ParseResult()
    for item in raw:
        dropped: set[str] = set()
        row = _read(model, item, dropped)
        row_id = _row_id(item, key)
        if row is None:
            if row_id:
                result.unreadable[row_id.lower()] = f"could not be read: {', '.join(sorted(dropped)) or key}"
            else:
                result.unidentified += 1
            continue
        if clock is not None and isinstance(row, WireRow) and row.bound_version(clock):
            dropped.add(model.model_fields["updated_at"].alias or "updated_at")
        result.items.append(row)
        result.count_fields(dropped, row_id)
    return result


def _row_id(item: Any, key: str) -> str:
    """A row's id as it may stand in a log, empty where it has none."""
    value = item.get(key) if isinstance(item, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, str, Decimal)):
        return ""
    name = str(value)
    return name if LOGGED_ID.fullmatch(name) else ""


def _read(model: type[Wire], item: Any, dropped: set[str]) -> Wire | None:
    """One row, without the fields that do not fit, whose names are added to `dropped`; None when it has no id."""
    for _ in range(MAX_PASSES):
        try:
            return model.model_validate(item)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
        places = [part["loc"] for part in found]
        dropped.update(".".join(part for part in place if isinstance(part, str)) for place in places if place)
        if not all(places) or any(part["type"] == "missing" and len(part["loc"]) == 1 for part in found):
            return None
        item = _without(item, places)
    return None


def _without(value: Any, places: Sequence[tuple[int | str, ...]]) -> Any:
    """A copy of `value` without what stands at `places`, or, where a place is not there, without what would hold it."""
    below: dict[int | str, list[tuple[int | str, ...]]] = {}
    for place in places:
        below.setdefault(place[0], []).append(place[1:])
    if isinstance(value, dict):
        kept = ((key, _kept(item, below[key]) if key in below else (item,)) for key, item in value.items())
        return {key: item[0] for key, item in kept if item}
    parts = (_kept(item, below[index]) if index in below else (item,) for index, item in enumerate(value))
    return [part[0] for part in parts if part]


def _kept(value: Any, places: Sequence[tuple[int | str, ...]]) -> tuple[Any, ...]:
    """What is left of a value, as a tuple of one; an empty one when it goes altogether."""
    is_there = all(place and _holds(value, place[0]) for place in places)
    return (_without(value, places),) if is_there else ()


def _holds(value: Any, key: int | str) -> bool:
    if isinstance(value, dict):
        return isinstance(key, str) and key in value
    return isinstance(value, list) and isinstance(key, int) and key < len(value)
