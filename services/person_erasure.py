"""Erase a person (GDPR) by an email address, a Copper record or a Xero contact, in all spellings of the address.

Companies, deals and other records with the same name are only reported: a person has to decide whose they are.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from urllib.parse import unquote
from uuid import UUID

from store.accounts import accounts, audit, erasure
from store.accounts.erasure import Namesake, Person
from store.db.database import Session, transaction
from store.db.enums import RecordType
from worker.sync import projector
from worker.vendors.addresses import contains_address
from worker.vendors.copper import known_keys

ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
# Escapes may be nested.
MAX_ESCAPE_DEPTH = 3


@dataclass(frozen=True)
class ErasureResult:
    """How many records, contacts, stored event bodies, other texts and read model rows were changed.

    `namesakes` are other rows that contain the name, or an address.
    """

    records: int
    contacts: int
    bodies: int
    others: int
    rows: int
    namesakes: list[Namesake]


def erase_by_email(account_id: int, email: str, *, actor: str) -> ErasureResult:
    """Erase a normalised email address and the names of the records and contacts that have it."""
    return _erase(account_id, lambda session: erasure.find_by_email(session, account_id, email), {email}, actor)


def erase_by_record(account_id: int, record_type: RecordType, record_id: int, *, actor: str) -> ErasureResult:
    """Erase a record's name and all of its addresses; raises `LookupError` if the account has no such record."""

    def find_person(session: Session) -> Person:
        person = erasure.find_by_record(session, account_id, record_type, record_id)
        return _require(person, f"Account {account_id} has no {record_type.value} {record_id}.")

    return _erase(account_id, find_person, None, actor)


def erase_by_contact(account_id: int, contact_id: UUID, *, actor: str) -> ErasureResult:
    """Erase a Xero contact's name and all of its addresses; raises `LookupError` if there is no such contact."""

    def find_person(session: Session) -> Person:
        person = erasure.find_by_contact(session, account_id, contact_id)
        return _require(person, f"Account {account_id} has no Xero contact {contact_id}.")

    return _erase(account_id, find_person, None, actor)


def _require(person: Person, message: str) -> Person:
    if person.is_empty:
        raise LookupError(message)
    return person


def _erase(
    account_id: int, find_person: Callable[[Session], Person], emails: Collection[str] | None, actor: str
) -> ErasureResult:
    """Erase a person in one transaction with its audit entry: the `emails`, or (None) all of theirs."""
    with transaction() as session:
        person = find_person(session)
        erasure.add_linked(session, account_id, person)
        erased_emails = set(emails) if emails is not None else erasure.find_addresses(session, account_id, person)
        _add_mentioned(session, account_id, person, erased_emails)
        names = erasure.find_names(session, account_id, person)
        records, contacts = erasure.erase(session, account_id, person, erased_emails)
        erasure.erase_linked_names(session, account_id)
        others = _erase_texts(session, account_id, erased_emails)
        bodies, events_with_name = _erase_events(session, account_id, erased_emails, names)
        counts = f"{records} records, {contacts} contacts, {bodies} stored bodies, {others} other texts"
        audit.record(session, account_id, actor, "person.erased", counts)
        namesakes = erasure.find_namesakes(session, account_id, names, erased_emails) + events_with_name
        copper_account_id = accounts.get_copper_account_id(session, account_id)
        for email in erased_emails:
            known_keys.delete_email(email, copper_account_id)
    return ErasureResult(records, contacts, bodies, others, projector.project(account_id), namesakes)


def _add_mentioned(session: Session, account_id: int, person: Person, emails: Collection[str]) -> None:
    """Add the records and contacts whose name contains one of the addresses."""
    records, contacts = erasure.candidate_records(session, account_id), erasure.candidate_contacts(session, account_id)
    person.records |= {key for key, name in records if _is_mentioned(name, emails)}
    person.contacts |= {key for key, name in contacts if _is_mentioned(name, emails)}


def _erase_texts(session: Session, account_id: int, emails: Collection[str]) -> int:
    changed = 0
    for text_column in erasure.TEXT_COLUMNS:
        suspects = erasure.candidate_texts(session, account_id, text_column)
        texts = [text for text in suspects if _is_mentioned(text, emails)]
        changed += erasure.replace_texts(session, account_id, text_column, texts) if texts else 0
    return changed


def _erase_events(
    session: Session, account_id: int, emails: Collection[str], names: Collection[str]
) -> tuple[int, list[Namesake]]:
    """Clear the events that contain an address; return their number, and the events that only contain the name."""
    keys, with_name = [], []
    lower_names = [name.strip().lower() for name in names if len(name.strip()) >= erasure.MIN_NAME_LENGTH]
    for event in erasure.candidate_events(session, account_id):
        texts = [*spellings(decode_json_bytes(event.body)), *spellings(event.text)]
        if any(contains_address(text, email) for text in texts for email in emails):
            keys.append(event.key)
        elif any(name in text.lower() for text in texts for name in lower_names):
            with_name.append(Namesake("event", str(event.key[1]), "the name in a body that could not be parsed"))
    return erasure.clear_events(session, keys), with_name


def _is_mentioned(text: str, emails: Collection[str]) -> bool:
    return any(contains_address(spelling, email) for spelling in spellings(text) for email in emails)


def decode_json_bytes(body: bytes) -> str:
    """Decode a body in any of JSON's encodings, with replacement characters for invalid bytes."""
    return body.decode(json.detect_encoding(body), "replace")


def spellings(text: str) -> Iterator[str]:
    """Yield a text, and the same without the escapes of JSON, HTML and URLs, `MAX_ESCAPE_DEPTH` levels deep."""
    yield text
    for _ in range(MAX_ESCAPE_DEPTH):
        unescaped = unquote(html.unescape(ESCAPE.sub(_unescape, text)))
        if unescaped == text:
            return
        yield unescaped
        text = unescaped


def _unescape(match: re.Match[str]) -> str:
    code, letter = match.groups()
    return chr(int(code, 16)) if code else letter if letter in '"\\/' else " "
