"""Forgetting a person: by an address, a record of Copper or a contact of Xero; what it finds in any spelling goes.

What merely has the same name (a company, a deal, another record) is told and left: only a person can say whose it is.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from urllib.parse import unquote
from uuid import UUID

from store import accounts, audit, erasure
from store.database import Session, transaction
from store.erasure import Namesake, Person
from store.models import RecordType
from worker import known_keys, projecting
from worker.addresses import mentions

ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
# What is escaped within something that is escaped is found as well.
DEEPEST = 3


@dataclass(frozen=True)
class Forgotten:
    """Of how many records, contacts, kept bodies and other places a person was erased, and how many rows changed.

    `namesakes` is what else carries the name, or an address.
    """

    records: int
    contacts: int
    bodies: int
    others: int
    rows: int
    namesakes: list[Namesake]


def forget_email(account_id: int, email: str, *, who: str) -> Forgotten:
    """Forget whom an address, as it is compared, belongs to: the address, and the names it stands by."""
    return _forget(account_id, lambda session: erasure.by_email(session, account_id, email), {email}, who)


def forget_record(account_id: int, kind: RecordType, record_id: int, *, who: str) -> Forgotten:
    """Forget a record's name and all of its addresses; raises `LookupError` when the account has no such record."""

    def find(session: Session) -> Person:
        person = erasure.by_record(session, account_id, kind, record_id)
        return _known(person, f"Account {account_id} has no {kind.value} {record_id}.")

    return _forget(account_id, find, None, who)


def forget_contact(account_id: int, contact_id: UUID, *, who: str) -> Forgotten:
    """The same of a contact of Xero."""

    def find(session: Session) -> Person:
        person = erasure.by_contact(session, account_id, contact_id)
        return _known(person, f"Account {account_id} has no Xero contact {contact_id}.")

    return _forget(account_id, find, None, who)


def _known(person: Person, otherwise: str) -> Person:
    if person.is_nobody:
        raise LookupError(otherwise)
    return person


def _forget(account_id: int, find: Callable[[Session], Person], emails: Collection[str] | None, who: str) -> Forgotten:
    """Erase whom `find` finds, in one transaction with its audit entry. Without `emails`, all of theirs go."""
    with transaction() as session:
        person = find(session)
        erasure.add_linked(session, account_id, person)
        gone = set(emails) if emails is not None else erasure.addresses(session, account_id, person)
        _add_mentioned(session, account_id, person, gone)
        names = erasure.names(session, account_id, person)
        records, contacts = erasure.erase(session, account_id, person, gone)
        erasure.forget_linked_names(session, account_id)
        others = _erase_texts(session, account_id, gone)
        bodies, named = _erase_events(session, account_id, gone, names)
        counts = f"{records} records, {contacts} contacts, {bodies} kept bodies, {others} other places"
        audit.note(session, account_id, who, "person.forgotten", counts)
        namesakes = erasure.namesakes(session, account_id, names, gone) + named
        copper_account_id = accounts.copper_account(session, account_id)
        for email in gone:
            known_keys.forget_email(email, copper_account_id)
    return Forgotten(records, contacts, bodies, others, projecting.project(account_id), namesakes)


def _add_mentioned(session: Session, account_id: int, person: Person, emails: Collection[str]) -> None:
    """Whatever has an address of theirs in its name."""
    records, contacts = erasure.suspect_records(session, account_id), erasure.suspect_contacts(session, account_id)
    person.records |= {key for key, name in records if _is_mentioned(name, emails)}
    person.contacts |= {key for key, name in contacts if _is_mentioned(name, emails)}


def _erase_texts(session: Session, account_id: int, emails: Collection[str]) -> int:
    changed = 0
    for place in erasure.PLACES:
        texts = [said for said in erasure.suspect_texts(session, account_id, place) if _is_mentioned(said, emails)]
        changed += erasure.replace_texts(session, account_id, place, texts) if texts else 0
    return changed


def _erase_events(
    session: Session, account_id: int, emails: Collection[str], names: Collection[str]
) -> tuple[int, list[Namesake]]:
    """Clear the events that spell an address; returns how many, and those that only have the name in them."""
    found, named = [], []
    wanted = [name.strip().lower() for name in names if len(name.strip()) >= erasure.SHORTEST_NAME]
    for event in erasure.kept_events(session, account_id):
        texts = [*spellings(decoded(event.body)), *spellings(event.words)]
        if any(mentions(text, email) for text in texts for email in emails):
            found.append(event.key)
        elif any(name in text.lower() for text in texts for name in wanted):
            named.append(Namesake("event", str(event.key[1]), "the name in a body that could not be read"))
    return erasure.clear_events(session, found), named


def _is_mentioned(said: str, emails: Collection[str]) -> bool:
    return any(mentions(text, email) for text in spellings(said) for email in emails)


def decoded(body: bytes) -> str:
    """A body as text, in whichever of JSON's encodings it is; what cannot be read is replaced."""
    return body.decode(json.detect_encoding(body), "replace")


def spellings(said: str) -> Iterator[str]:
    """A text as it stands and without the escapes of JSON, HTML and URLs, as deep as `DEEPEST`."""
    yield said
    for _ in range(DEEPEST):
        plain = unquote(html.unescape(ESCAPE.sub(_unescaped, said)))
        if plain == said:
            return
        yield plain
        said = plain


def _unescaped(found: re.Match[str]) -> str:
    code, letter = found.groups()
    return chr(int(code, 16)) if code else letter if letter in '"\\/' else " "
