"""`patina forget`: who is meant, and what it came to in words."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from runtime.numbers import MAX_ID, whole_number
from store.erasure import Namesake
from store.models import RecordType
from terminal.words import counted
from worker import forgetting
from worker.addresses import normalised, visible
from worker.connect import COMMAND
from worker.forgetting import Forgotten

WIDTH = 60
Person = str | tuple[RecordType, int] | UUID


class UnreadableOptionError(ValueError):
    """What was given is not what the option takes; the message is for whoever typed it."""

    def __init__(self, said: str, option: str) -> None:
        super().__init__(said)
        self.option = option


def read(*, email: str | None, record: str | None, contact: str | None) -> Person:
    """Who is meant: an address as it is compared, a record, or a contact; raises `UnreadableOptionError`."""
    if record is not None:
        return _record(record)
    if contact is not None:
        try:
            return UUID(contact.strip())
        except ValueError:
            raise UnreadableOptionError("not the ID of a Xero contact.", "--contact") from None
    plain = normalised(email)
    if plain is None:
        raise UnreadableOptionError("not a valid email address.", "--email")
    return plain


def _record(given: str) -> tuple[RecordType, int]:
    kind, _, number = given.strip().partition("/")
    known = {kind.value: kind for kind in RecordType} | {kind.plural: kind for kind in RecordType}
    record_id = whole_number(number, maximum=MAX_ID)
    if kind not in known or record_id is None:
        raise UnreadableOptionError("give a type and an ID, such as person/9600073.", "--record")
    return known[kind], record_id


def forget(account_id: int, person: Person) -> Iterator[str]:
    """Forget a person, and tell line by line what was erased and what was not."""
    if isinstance(person, UUID):
        found = forgetting.forget_contact(account_id, person, who=COMMAND)
    elif isinstance(person, str):
        found = forgetting.forget_email(account_id, person, who=COMMAND)
    else:
        found = forgetting.forget_record(account_id, *person, who=COMMAND)
    yield _summary(found)
    if found.namesakes:
        yield "These carry the name or an address too. They may be somebody else's, so they were left as they are:"
        yield from map(_line, found.namesakes)
    yield "Erase it in Copper and Xero too; otherwise the next sync brings it back."


def _summary(found: Forgotten) -> str:
    elsewhere = f" and {counted(found.others, 'other place')}" if found.others else ""
    bodies = counted(found.bodies, "kept body", "kept bodies")
    places = f"{counted(found.records, 'record')}, {counted(found.contacts, 'contact')}"
    joined = f"{places}, {bodies}{elsewhere}" if elsewhere else f"{places} and {bodies}"
    return f"forget ok: erased from {joined}; {counted(found.rows, 'row')} changed"


def _line(namesake: Namesake) -> str:
    said = visible(namesake.said)
    return f"  {namesake.what} {namesake.id}: {said[:WIDTH]}{'…' if len(said) > WIDTH else ''}"
