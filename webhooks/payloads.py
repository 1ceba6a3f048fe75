"""What webhooks carry, parsed once, at the edge: what can be read becomes events, what cannot is put aside.

One odd field never costs an event, one odd event never its siblings. An event needs to say whose it is, what it is
about and which one; its type and its date are hints. The body counts, not its content type: it proves its sender. Of
what is put aside the beginning is kept, and never the secret.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints, TypeAdapter, ValidationError

from store.inbox import COPPER_KINDS, NOBODY, Delivery, MalformedEvent, NewEvent
from worker.parsing import moment

MAX_IDS = 1_000
MAX_MALFORMED = 100
MAX_BIGINT = 2**63 - 1
MAX_ERRORS = 5
MAX_BODY_KEPT = 16 * 1024
"""Bytes of what nobody could read that are kept for a person to see: its beginning."""
REMOVED = b"[removed]"
# An event's date outside of these years is no date: a CREATE's becomes the invoice's created date.
FIRST_YEAR, LAST_YEAR = 2000, 2200
# What is not printable (a NUL, which PostgreSQL keeps in no text) comes from no vendor.
PRINTABLE = r"^[ -~]+$"
WORD = re.compile(r"[ -~]{1,50}")
TEXT = re.compile(r"[ -~]{1,100}")
DIGITS = re.compile(r"[0-9]{1,19}")
BOM = b"\xef\xbb\xbf"
KEY_SEPARATOR = "\x1f"
# Not a category of Xero's: an event that could not be read, of which only the organisation is known.
UNREADABLE = "UNREADABLE"


def _word(value: object) -> str:
    """A vendor's word without blanks around it; empty when it is no word."""
    word = value.strip() if isinstance(value, str) else ""
    return word if WORD.fullmatch(word) else ""


def event_time(value: object) -> datetime | None:
    """When an event happened, aware; None when that cannot be read."""
    try:
        occurred_at = moment(value)
    except ValueError:
        return None
    is_plausible = occurred_at is not None and FIRST_YEAR <= occurred_at.year < LAST_YEAR
    return occurred_at if is_plausible else None


def sequence_number(value: object) -> int:
    """A positive number of 64 bits, as a number or as digits; 0 for anything else, which is not counted."""
    if isinstance(value, str) and DIGITS.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return value if 0 < value <= MAX_BIGINT else 0


def record_id(value: object) -> int | None:
    """The id of a Copper record, as a number or as digits; None when it is none."""
    return sequence_number(value.strip() if isinstance(value, str) else value) or None


Id = Annotated[
    str, StringConstraints(strip_whitespace=True, to_lower=True, min_length=1, max_length=100, pattern=PRINTABLE)
]
Category = Annotated[
    str, StringConstraints(strip_whitespace=True, to_upper=True, min_length=1, max_length=50, pattern=PRINTABLE)
]
RecordTypeName = Annotated[
    str, StringConstraints(strip_whitespace=True, to_lower=True, min_length=1, max_length=50, pattern=PRINTABLE)
]
UpperWord = Annotated[str, BeforeValidator(lambda value: _word(value).upper())]
LowerWord = Annotated[str, BeforeValidator(lambda value: _word(value).lower())]
EventTime = Annotated[datetime | None, BeforeValidator(event_time)]
SequenceNumber = Annotated[int, BeforeValidator(sequence_number)]


class XeroEvent(BaseModel):
    """One event of a delivery (Xero's webhooks contract); `resourceUrl` is never followed. `type` may be empty."""

    tenant_id: Id = Field(alias="tenantId")
    resource_id: Id = Field(alias="resourceId")
    category: Category = Field(alias="eventCategory")
    type: UpperWord = Field(alias="eventType", default="")
    occurred_at: EventTime = Field(alias="eventDateUtc", default=None)


class XeroEnvelope(BaseModel):
    """A delivery's body; `events` is empty or null in Xero's intent to receive. A number of 0 is none."""

    events: list[Any] | None = None
    first_sequence: SequenceNumber = Field(alias="firstEventSequence", default=0)
    last_sequence: SequenceNumber = Field(alias="lastEventSequence", default=0)


class CopperNotification(BaseModel):
    """A notification's body, apart from the secret's own keys at its top level. `event` may be empty."""

    ids: list[Any] = Field(max_length=MAX_IDS)
    type: RecordTypeName
    event: LowerWord = ""


XERO_EVENTS = TypeAdapter(list[XeroEvent])


def parse_json(body: bytes) -> object:
    """The body as JSON, whatever it is declared as, with or without a byte order mark; raises `ValueError`.

    JSON is UTF-8 (RFC 8259). orjson bounds nesting and refuses NaN and bad UTF-8.
    """
    value: object = orjson.loads(body.removeprefix(BOM))
    return value


def event_key(*parts: str) -> str:
    """The hexadecimal SHA-256 of what makes an event the same one."""
    return hashlib.sha256(KEY_SEPARATOR.join(parts).encode()).hexdigest()


def copper_key(body_hash: str, record: int) -> str:
    """The key of one id of a notification, whose body's SHA-256 is `body_hash`."""
    return event_key("copper", body_hash, str(record))


@dataclass(frozen=True)
class Origin:
    """The authentic request that events came with."""

    body: bytes
    correlation: str = ""

    @cached_property
    def hash(self) -> str:
        """The body's hexadecimal SHA-256, computed where it is needed: an ordinary delivery of Xero's goes without."""
        return hashlib.sha256(self.body).hexdigest()


def read_delivery(origin: Origin) -> Delivery:
    """What a rightly signed delivery of Xero's says."""
    try:
        envelope = XeroEnvelope.model_validate(parse_json(origin.body))
    except ValueError as error:
        return Delivery([], malformed=[_malformed_body(NOBODY, "xero", origin, origin.body, _describe(error))])
    events, malformed = read_xero_events(envelope.events or [], origin)
    return Delivery(events, envelope.first_sequence, envelope.last_sequence, malformed)


def read_xero_events(raw_events: list[Any], origin: Origin) -> tuple[list[NewEvent], list[MalformedEvent]]:
    """The events that can be read, and those that cannot: all at once, and one by one where that fails."""
    try:
        return [_xero_event(event, origin) for event in XERO_EVENTS.validate_python(raw_events)], []
    except ValidationError:
        return _read_one_by_one(raw_events, origin)


def _read_one_by_one(raw_events: list[Any], origin: Origin) -> tuple[list[NewEvent], list[MalformedEvent]]:
    events: list[NewEvent] = []
    malformed: list[MalformedEvent] = []
    for index, raw in enumerate(raw_events):
        try:
            events.append(_xero_event(XeroEvent.model_validate(raw), origin))
        except ValidationError as error:
            tenant, category = _text(raw, "tenantId").lower(), _text(raw, "eventCategory").upper()
            if not tenant and category == "SUBSCRIPTION":
                # The app's own: it concerns no organisation.
                events.append(_bare_event("", category, origin))
                continue
            malformed.append(_malformed_xero_event(raw, index, error, origin))
            if tenant:
                # Something changed there, and nobody can tell what.
                events.append(_bare_event(tenant, UNREADABLE, origin))
    return events, _bounded(malformed, len(raw_events), _malformed_body(NOBODY, "xero", origin, origin.body, ""))


def _xero_event(event: XeroEvent, origin: Origin) -> NewEvent:
    """The key is the change itself, so that a delivery sent twice is kept once.

    Without its millisecond two changes look alike: then it is the event of this very delivery.
    """
    occurred = event.occurred_at
    moment = occurred.isoformat() if occurred is not None and occurred.microsecond else origin.hash
    return NewEvent(
        tenant=event.tenant_id,
        kind=event.category,
        event=event.type,
        resource_id=event.resource_id,
        occurred_at=occurred,
        dedupe_key=event_key("xero", event.tenant_id, event.category, event.type, event.resource_id, moment),
        correlation=origin.correlation,
    )


def _bare_event(tenant: str, category: str, origin: Origin) -> NewEvent:
    """An event of which no more is known; one a delivery."""
    return NewEvent(
        tenant=tenant,
        kind=category,
        event="",
        resource_id="",
        occurred_at=None,
        dedupe_key=event_key("xero", tenant, category, "", "", origin.hash),
        correlation=origin.correlation,
    )


def _text(raw: object, name: str) -> str:
    value = raw.get(name) if isinstance(raw, dict) else None
    text = value.strip() if isinstance(value, str) else ""
    return text if TEXT.fullmatch(text) else ""


def _dump(value: object) -> bytes:
    """A part of a body as JSON again; empty for what is nested so deeply that it can be read but not written."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return b""


@dataclass(frozen=True)
class Secret:
    """The secret that proves an account's notifications: they carry it in the field `name`."""

    name: str
    value: str

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"

    def cut(self, value: object) -> bytes:
        """A part of a body as JSON, without the secret wherever it stands, and without any field of its name."""
        dumped = _dump(value)
        if not dumped:
            return b""
        named = _dump(_without(orjson.loads(dumped), self.name))
        return re.sub(re.escape(self.value.encode()), REMOVED, named, flags=re.IGNORECASE)[:MAX_BODY_KEPT]


def _without(value: Any, name: str) -> Any:
    """JSON without the fields of a name, in any case, at any depth; as deep as orjson writes, so that this ends."""
    if isinstance(value, list):
        return [_without(each, name) for each in value]
    if isinstance(value, dict):
        return {key: _without(each, name) for key, each in value.items() if key.strip().lower() != name.lower()}
    return value


def _malformed_xero_event(raw: object, index: int, error: ValidationError, origin: Origin) -> MalformedEvent:
    """It belongs to the account that has its organisation, where it names one."""
    return MalformedEvent(
        account_id=None,
        source="xero",
        tenant=_text(raw, "tenantId"),
        resource_id=_text(raw, "resourceId"),
        dedupe_key=event_key("malformed", origin.hash, str(index)),
        body=_dump(raw)[:MAX_BODY_KEPT],
        error=_describe(error, "events", str(index)),
        correlation=origin.correlation,
    )


def _malformed_body(account_id: int, source: str, origin: Origin, body: bytes, error: str) -> MalformedEvent:
    """A whole body of which nothing can be used; `body` is what is kept of it."""
    return MalformedEvent(
        account_id=account_id,
        source=source,
        tenant="",
        resource_id="",
        dedupe_key=origin.hash,
        body=body[:MAX_BODY_KEPT],
        error=error,
        correlation=origin.correlation,
    )


def _bounded(malformed: list[MalformedEvent], count: int, whole: MalformedEvent) -> list[MalformedEvent]:
    """They themselves, or the whole body in one piece when they are too many to be looked at one by one."""
    if len(malformed) <= MAX_MALFORMED:
        return malformed
    error = f"{len(malformed)} of {count} could not be read; the first: {malformed[0].error}"
    return [replace(whole, error=error)]


def _describe(error: ValueError, *place: str) -> str:
    """Where something could not be read and why; never what it said there."""
    if not isinstance(error, ValidationError):
        return "not JSON"
    problems = [(".".join([*place, *map(str, found["loc"])]), found["type"]) for found in error.errors()[:MAX_ERRORS]]
    return "; ".join(f"{where}: {problem}" if where else problem for where, problem in problems)


@dataclass(frozen=True)
class Notification:
    """What an account's authentic notification says: its events, one for each of its ids, and what cannot be read.

    Of a type that is not followed nothing is kept: `ignored_type` is that type, and `ignored` how many ids it had.
    """

    events: list[NewEvent] = field(default_factory=list)
    malformed: list[MalformedEvent] = field(default_factory=list)
    ignored_type: str = ""
    ignored: int = 0

    @property
    def size(self) -> int:
        """How many rows it takes."""
        return len(self.events) + len(self.malformed)

    @property
    def has_deletions(self) -> bool:
        """Whether it may tell of records that are gone: of an event that is not known nobody can tell."""
        return any(event.event not in {"new", "update"} for event in self.events)


def read_notification(payload: dict[str, Any], account_id: int, origin: Origin, secret: Secret) -> Notification:
    """Read an account's authentic notification; its `secret` is kept nowhere in the open."""
    whole = _malformed_body(account_id, "copper", origin, b"", "")
    try:
        notification = CopperNotification.model_validate(payload)
    except ValidationError as error:
        return Notification(malformed=[replace(whole, body=secret.cut(payload), error=_describe(error))])
    if notification.type not in COPPER_KINDS:
        return Notification(ignored_type=notification.type, ignored=len(notification.ids))
    event = notification.event if secret.value.lower() not in notification.event else ""
    notification = notification.model_copy(update={"event": event})
    events: list[NewEvent] = []
    malformed: list[MalformedEvent] = []
    for index, value in enumerate(notification.ids):
        record = record_id(value)
        if record is not None:
            events.append(_copper_event(notification, record, origin))
        else:
            malformed.append(_malformed_id(whole, notification, index, value, secret))
    if len(malformed) > MAX_MALFORMED:
        whole = replace(whole, body=secret.cut(payload))
    return Notification(events, _bounded(malformed, len(notification.ids), whole))


def _malformed_id(
    whole: MalformedEvent, notification: CopperNotification, index: int, value: object, secret: Secret
) -> MalformedEvent:
    return replace(
        whole,
        dedupe_key=event_key("malformed", whole.dedupe_key, str(index)),
        body=secret.cut({"ids": [value], "type": notification.type, "event": notification.event}),
        error=f"ids.{index}: not the id of a record",
    )


def _copper_event(notification: CopperNotification, record: int, origin: Origin) -> NewEvent:
    return NewEvent(
        tenant="",
        kind=notification.type,
        event=notification.event,
        resource_id=str(record),
        occurred_at=None,
        dedupe_key=copper_key(origin.hash, record),
        correlation=origin.correlation,
    )
