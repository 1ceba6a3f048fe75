"""Parsing of webhook payloads: valid parts become events, malformed ones go to quarantine.

A malformed optional field never invalidates its event, and a malformed event never its delivery. An event needs its
tenant, its category and the id of its resource; its type and date are optional. The content type is ignored, because
the signature or the secret authenticates the body. The beginning of a malformed body is stored, without the secret.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any
from uuid import UUID

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from runtime.validation_messages import describe_error, format_path
from store.db.enums import INSTALLATION
from store.ingest.inbox import COPPER_CATEGORIES, XERO_CATEGORIES, Delivery, MalformedEvent, NewEvent
from worker.vendors.parsing import parse_instant

MAX_IDS = 1_000
MAX_MALFORMED = 100
MAX_BIGINT = 2**63 - 1
MAX_ERRORS = 5
MAX_STORED_BYTES = 16 * 1024
"""How much of a malformed body is stored for inspection, from its beginning."""
REDACTED = b"[removed]"
# Event dates outside of these years are ignored, because the date of a CREATE becomes the invoice's created date.
FIRST_YEAR, LAST_YEAR = 2000, 2200
# Vendors send printable characters only. PostgreSQL cannot store a NUL in a text.
PRINTABLE = r"^[ -~]+$"
WORD_PATTERN = re.compile(r"[ -~]{1,50}")
TEXT_PATTERN = re.compile(r"[ -~]{1,100}")
DIGITS_PATTERN = re.compile(r"[0-9]{1,19}")
BOM = b"\xef\xbb\xbf"
KEY_SEPARATOR = "\x1f"
# Not one of Xero's categories: a malformed event of which only the organisation is known.
UNREADABLE = "UNREADABLE"


def _word(value: object) -> str:
    """A vendor's keyword, trimmed; '' if it is not a valid one."""
    word = value.strip() if isinstance(value, str) else ""
    return word if WORD_PATTERN.fullmatch(word) else ""


def parse_event_time(value: object) -> datetime | None:
    """When an event happened, as an aware datetime; None if it is not a valid date."""
    try:
        occurred_at = parse_instant(value)
    except ValueError:
        return None
    is_plausible = occurred_at is not None and FIRST_YEAR <= occurred_at.year < LAST_YEAR
    return occurred_at if is_plausible else None


def parse_sequence_number(value: object) -> int:
    """A positive 64-bit number, from a number or digits; 0 for anything else."""
    if isinstance(value, str) and DIGITS_PATTERN.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return value if 0 < value <= MAX_BIGINT else 0


def parse_record_id(value: object) -> int | None:
    """The id of a Copper record, from a number or digits; None if it is invalid."""
    return parse_sequence_number(value.strip() if isinstance(value, str) else value) or None


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
EventTime = Annotated[datetime | None, BeforeValidator(parse_event_time)]
SequenceNumber = Annotated[int, BeforeValidator(parse_sequence_number)]


class XeroEvent(BaseModel):
    """One event of a delivery (Xero's webhooks contract). `resourceUrl` is never requested. `type` may be empty.

    The id of a resource that is fetched is a UUID, in its usual form.
    """

    tenant_id: Id = Field(alias="tenantId")
    category: Category = Field(alias="eventCategory")
    resource_id: Id = Field(alias="resourceId")
    type: UpperWord = Field(alias="eventType", default="")
    occurred_at: EventTime = Field(alias="eventDateUtc", default=None)

    @field_validator("resource_id")
    @classmethod
    def _is_uuid(cls, resource_id: str, info: ValidationInfo) -> str:
        if info.data.get("category") not in XERO_CATEGORIES:
            return resource_id
        try:
            return str(UUID(resource_id))
        except ValueError:
            raise ValueError("must be a UUID") from None


class XeroEnvelope(BaseModel):
    """A delivery's body. `events` is empty or null for Xero's intent to receive. A sequence number of 0 means none."""

    events: list[Any] | None = None
    first_sequence: SequenceNumber = Field(alias="firstEventSequence", default=0)
    last_sequence: SequenceNumber = Field(alias="lastEventSequence", default=0)


class CopperNotification(BaseModel):
    """A notification's body, without the secret's fields at the top level. `event` may be empty."""

    ids: list[Any] = Field(max_length=MAX_IDS)
    type: RecordTypeName
    event: LowerWord = ""


XERO_EVENTS = TypeAdapter(list[XeroEvent])


def parse_json(body: bytes) -> object:
    """Parse a body as JSON, with or without a byte order mark, whatever its content type; raises `ValueError`.

    JSON is UTF-8 (RFC 8259). orjson limits nesting and rejects NaN and invalid UTF-8.
    """
    value: object = orjson.loads(body.removeprefix(BOM))
    return value


def event_key(*parts: str) -> str:
    """The deduplication key of an event: the hexadecimal SHA-256 of its identifying parts."""
    return hashlib.sha256(KEY_SEPARATOR.join(parts).encode()).hexdigest()


def copper_event_key(body_hash: str, record_id: int) -> str:
    """The deduplication key of one id of a notification, by the SHA-256 of the notification's body."""
    return event_key("copper", body_hash, str(record_id))


@dataclass(frozen=True)
class Origin:
    """The authenticated request that events came with."""

    body: bytes
    correlation: str = ""

    @cached_property
    def hash(self) -> str:
        """The hexadecimal SHA-256 of the body, computed only if needed; ordinary Xero deliveries do without."""
        return hashlib.sha256(self.body).hexdigest()


def read_delivery(origin: Origin) -> Delivery:
    """Read a Xero delivery whose signature is valid."""
    try:
        envelope = XeroEnvelope.model_validate(parse_json(origin.body))
    except ValueError as error:
        return Delivery([], malformed=[_malformed_body(INSTALLATION, "xero", origin, origin.body, _describe(error))])
    events, malformed = read_xero_events(envelope.events or [], origin)
    return Delivery(events, envelope.first_sequence, envelope.last_sequence, malformed)


def read_xero_events(raw_events: list[Any], origin: Origin) -> tuple[list[NewEvent], list[MalformedEvent]]:
    """The valid and the malformed events; validated all at once, and one by one if that fails."""
    try:
        return [_xero_event(event, origin) for event in XERO_EVENTS.validate_python(raw_events)], []
    except ValidationError:
        return _read_individually(raw_events, origin)


def _read_individually(raw_events: list[Any], origin: Origin) -> tuple[list[NewEvent], list[MalformedEvent]]:
    events: list[NewEvent] = []
    malformed: list[MalformedEvent] = []
    for index, raw in enumerate(raw_events):
        try:
            events.append(_xero_event(XeroEvent.model_validate(raw), origin))
        except ValidationError as error:
            tenant, category = _text(raw, "tenantId").lower(), _text(raw, "eventCategory").upper()
            if not tenant and category == "SUBSCRIPTION":
                # About the app itself, not about an organisation.
                events.append(_minimal_event("", category, origin))
                continue
            malformed.append(_malformed_xero_event(raw, index, error, origin))
            if tenant:
                # Something changed in this organisation, and it is unknown what.
                events.append(_minimal_event(tenant, UNREADABLE, origin))
    return events, _limited(malformed, len(raw_events), _malformed_body(INSTALLATION, "xero", origin, origin.body, ""))


def _xero_event(event: XeroEvent, origin: Origin) -> NewEvent:
    """An event. Its deduplication key identifies the change, so a redelivered event is stored once.

    Without milliseconds two changes look the same, so the key then identifies the delivery.
    """
    occurred_at = event.occurred_at
    discriminator = occurred_at.isoformat() if occurred_at is not None and occurred_at.microsecond else origin.hash
    return NewEvent(
        tenant=event.tenant_id,
        category=event.category,
        event_type=event.type,
        resource_id=event.resource_id,
        occurred_at=occurred_at,
        dedupe_key=event_key("xero", event.tenant_id, event.category, event.type, event.resource_id, discriminator),
        correlation=origin.correlation,
    )


def _minimal_event(tenant: str, category: str, origin: Origin) -> NewEvent:
    """An event of which nothing else is known; one per delivery and category."""
    return NewEvent(
        tenant=tenant,
        category=category,
        event_type="",
        resource_id="",
        occurred_at=None,
        dedupe_key=event_key("xero", tenant, category, "", "", origin.hash),
        correlation=origin.correlation,
    )


def _text(raw: object, name: str) -> str:
    value = raw.get(name) if isinstance(raw, dict) else None
    text = value.strip() if isinstance(value, str) else ""
    return text if TEXT_PATTERN.fullmatch(text) else ""


def _dump(value: object) -> bytes:
    """A part of a body as JSON; empty if it is nested too deeply for orjson to write."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return b""


@dataclass(frozen=True)
class Secret:
    """The secret that authenticates an account's notifications, which carry it in the field `name`."""

    name: str
    value: str

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"

    def redact(self, value: object) -> bytes:
        """A part of a body as JSON, without the secret anywhere, and without any field with the secret's name."""
        json = _dump(value)
        if not json:
            return b""
        json = _dump(_without(orjson.loads(json), self.name))
        return re.sub(re.escape(self.value.encode()), REDACTED, json, flags=re.IGNORECASE)[:MAX_STORED_BYTES]


def _without(value: Any, name: str) -> Any:
    """JSON without the fields of a name, in any case and at any depth; orjson limits the depth of the recursion."""
    if isinstance(value, list):
        return [_without(item, name) for item in value]
    if isinstance(value, dict):
        return {key: _without(item, name) for key, item in value.items() if key.strip().lower() != name.lower()}
    return value


def _malformed_xero_event(raw: object, index: int, error: ValidationError, origin: Origin) -> MalformedEvent:
    """A malformed event of a delivery; it belongs to the account with its organisation, if it names one."""
    return MalformedEvent(
        account_id=None,
        vendor="xero",
        tenant=_text(raw, "tenantId"),
        resource_id=_text(raw, "resourceId"),
        dedupe_key=event_key("malformed", origin.hash, str(index)),
        body=_dump(raw)[:MAX_STORED_BYTES],
        error=_describe(error, "events", index),
        correlation=origin.correlation,
    )


def _malformed_body(account_id: int, vendor: str, origin: Origin, body: bytes, error: str) -> MalformedEvent:
    """A body that is malformed as a whole; `body` is what is stored of it."""
    return MalformedEvent(
        account_id=account_id,
        vendor=vendor,
        tenant="",
        resource_id="",
        dedupe_key=origin.hash,
        body=body[:MAX_STORED_BYTES],
        error=error,
        correlation=origin.correlation,
    )


def _limited(malformed: list[MalformedEvent], count: int, whole: MalformedEvent) -> list[MalformedEvent]:
    """The malformed events, or the whole body as one if they are too many."""
    if len(malformed) <= MAX_MALFORMED:
        return malformed
    error = f"{len(malformed)} of {count} could not be read; the first: {malformed[0].error}"
    return [replace(whole, error=error)]


def _describe(error: ValueError, *path: int | str) -> str:
    """Which fields are malformed and why, without their values."""
    if not isinstance(error, ValidationError):
        return "the body is not JSON"
    errors = error.errors(include_url=False, include_input=False)[:MAX_ERRORS]
    return "; ".join(f"{format_path((*path, *item['loc'])) or 'the body'} {describe_error(item)}" for item in errors)


@dataclass(frozen=True)
class Notification:
    """An account's authenticated notification: one event for each of its ids, and the malformed ids.

    Nothing of an unsupported type is stored: `ignored_type` is that type, and `ignored` its number of ids.
    """

    events: list[NewEvent] = field(default_factory=list)
    malformed: list[MalformedEvent] = field(default_factory=list)
    ignored_type: str = ""
    ignored: int = 0

    @property
    def size(self) -> int:
        """The number of rows to store."""
        return len(self.events) + len(self.malformed)

    @property
    def has_deletions(self) -> bool:
        """Whether it may be about deleted records, which includes events of unknown types."""
        return any(event.event_type not in {"new", "update"} for event in self.events)


def read_notification(payload: dict[str, Any], account_id: int, origin: Origin, secret: Secret) -> Notification:
    """Read an account's authenticated notification; its `secret` is removed from everything that is stored."""
    whole = _malformed_body(account_id, "copper", origin, b"", "")
    try:
        notification = CopperNotification.model_validate(payload)
    except ValidationError as error:
        return Notification(malformed=[replace(whole, body=secret.redact(payload), error=_describe(error))])
    if notification.type not in COPPER_CATEGORIES:
        return Notification(ignored_type=notification.type, ignored=len(notification.ids))
    event = notification.event if secret.value.lower() not in notification.event else ""
    notification = notification.model_copy(update={"event": event})
    events: list[NewEvent] = []
    malformed: list[MalformedEvent] = []
    for index, value in enumerate(notification.ids):
        record_id = parse_record_id(value)
        if record_id is not None:
            events.append(_copper_event(notification, record_id, origin))
        else:
            malformed.append(_malformed_id(whole, notification, index, value, secret))
    if len(malformed) > MAX_MALFORMED:
        whole = replace(whole, body=secret.redact(payload))
    return Notification(events, _limited(malformed, len(notification.ids), whole))


def names_only_fields(payload: dict[str, Any], definition_ids: Collection[int]) -> bool:
    """Whether a notification is of an update that changed nothing but custom fields with these ids, at least one.

    A notification that does not say what changed may be about anything.
    """
    attributes = payload.get("updated_attributes")
    if not definition_ids or not isinstance(attributes, dict) or set(attributes) != {"custom_fields"}:
        return False
    changed, event = attributes["custom_fields"], payload.get("event")
    if not isinstance(changed, dict) or not changed or not isinstance(event, str):
        return False
    return event.strip().lower() == "update" and all(parse_record_id(key) in definition_ids for key in changed)


def _malformed_id(
    whole: MalformedEvent, notification: CopperNotification, index: int, value: object, secret: Secret
) -> MalformedEvent:
    return replace(
        whole,
        dedupe_key=event_key("malformed", whole.dedupe_key, str(index)),
        body=secret.redact({"ids": [value], "type": notification.type, "event": notification.event}),
        error=f"ids[{index}] is not the id of a record",
    )


def _copper_event(notification: CopperNotification, record_id: int, origin: Origin) -> NewEvent:
    return NewEvent(
        tenant="",
        category=notification.type,
        event_type=notification.event,
        resource_id=str(record_id),
        occurred_at=None,
        dedupe_key=copper_event_key(origin.hash, record_id),
        correlation=origin.correlation,
    )
