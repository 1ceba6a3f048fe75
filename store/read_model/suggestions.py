"""Suggestions: the Copper records that an unmatched Xero contact may belong to, for an admin to decide.

Nothing is matched by them. Every lookup is by an index, for the contacts of one page at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from store.db.enums import RecordType
from store.mirror.names import name_key
from store.read_model.free_email_domains import FREE_EMAIL_DOMAINS
from store.read_model.match_reports import MAX_VARIED_LENGTH, edits1

MAX_CONTACTS = 50
MAX_SUGGESTIONS = 3
MAX_VARIED_ADDRESSES = 2
MAX_PHONES = 5
COMPARED_DIGITS = 8

SELECT_CONTACTS = text("""
    SELECT k.organisation_id, k.contact_id, c.name,
           ARRAY(SELECT e.email FROM xero_contact_email e WHERE e.account_id = :account
                 AND e.organisation_id = k.organisation_id AND e.contact_id = k.contact_id
                 ORDER BY e.email LIMIT 50) AS emails,
           ARRAY(SELECT p.phone FROM xero_contact_phone p WHERE p.account_id = :account
                 AND p.organisation_id = k.organisation_id AND p.contact_id = k.contact_id
                 ORDER BY p.phone LIMIT :max_phones) AS phones
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:contacts AS uuid[])) AS k(organisation_id, contact_id)
    JOIN xero_contact c ON c.account_id = :account AND c.organisation_id = k.organisation_id
         AND c.contact_id = k.contact_id AND NOT c.is_deleted
""")
# Each statement returns what is compared (`key`) with the records that have it, the most likely first, a few each.
BY_ADDRESS = text("""
    SELECT e.email AS key, r.record_type, r.record_id, r.name
    FROM copper_record_email e
    JOIN copper_record r ON r.account_id = :account AND r.record_type = e.record_type AND r.record_id = e.record_id
         AND NOT r.is_deleted
    WHERE e.account_id = :account AND e.email = ANY(:keys)
    ORDER BY e.email, r.record_type DESC, r.record_id LIMIT 500
""")
BY_NAME = text("""
    SELECT k.key, r.record_type, r.record_id, r.name
    FROM unnest(CAST(:keys AS text[])) AS k(key),
         LATERAL (SELECT record_type, record_id, name FROM copper_record
                  WHERE account_id = :account AND name_key = k.key AND name_key <> ''
                    AND record_type IN ('company', 'person') AND NOT is_deleted
                  ORDER BY record_type, record_id LIMIT 3) r
""")
# The digits found by the index are compared as a whole: the shorter number must be the end of the longer one.
BY_PHONE = text("""
    SELECT k.phone AS key, r.record_type, r.record_id, r.name
    FROM unnest(CAST(:keys AS text[]), CAST(:last_digits AS text[])) AS k(phone, last_digits),
         LATERAL (SELECT c.record_type, c.record_id, c.name
                  FROM copper_record_phone p
                  JOIN copper_record c ON c.account_id = :account AND c.record_type = p.record_type
                       AND c.record_id = p.record_id AND NOT c.is_deleted
                  WHERE p.account_id = :account AND p.last_digits = k.last_digits
                    AND (right(p.phone, length(k.phone)) = k.phone OR right(k.phone, length(p.phone)) = p.phone)
                  ORDER BY c.record_type, c.record_id LIMIT 3) r
""")
# The company with the domain, then companies of people with an address there, then those people and leads.
BY_DOMAIN = text("""
    SELECT k.key, r.record_type, r.record_id, r.name
    FROM unnest(CAST(:keys AS text[])) AS k(key),
         LATERAL (
             WITH holder AS (
                 SELECT record_type, record_id FROM copper_record_email
                 WHERE account_id = :account AND domain = k.key
                 ORDER BY record_type DESC, record_id LIMIT 20),
             candidate AS (
                 SELECT 1 AS rank, record_type, record_id FROM copper_record
                 WHERE account_id = :account AND email_domain = k.key AND record_type = 'company'
                 UNION ALL
                 SELECT 2, l.related_type, l.related_id FROM holder h
                 JOIN copper_relation l ON l.account_id = :account AND l.record_type = h.record_type
                      AND l.record_id = h.record_id AND l.related_type = 'company'
                 WHERE h.record_type = 'person'
                 UNION ALL
                 SELECT 3, record_type, record_id FROM holder)
             SELECT c.record_type, c.record_id, c.name
             FROM (SELECT record_type, record_id, min(rank) AS rank FROM candidate GROUP BY 1, 2) m
             JOIN copper_record c ON c.account_id = :account AND c.record_type = m.record_type
                  AND c.record_id = m.record_id AND NOT c.is_deleted
             ORDER BY m.rank, m.record_type, m.record_id LIMIT 3) r
""")


class Similarity(IntEnum):
    """What a contact and a record have in common; the most telling first."""

    ADDRESS = 1
    PHONE = 2
    NAME = 3
    DOMAIN = 4


@dataclass(frozen=True)
class SuggestionReason:
    """One thing that a contact and a record have in common. `detail` is the address or domain, '' otherwise."""

    similarity: Similarity
    detail: str = ""

    @property
    def label(self) -> str:
        """The reason in a few words."""
        labels = {
            Similarity.ADDRESS: f"Similar address {self.detail}",
            Similarity.PHONE: "Same phone number",
            Similarity.NAME: "Same name",
            Similarity.DOMAIN: f"Same domain {self.detail}",
        }
        return labels[self.similarity]


@dataclass(frozen=True)
class Suggestion:
    """A record that a contact may belong to, with every reason, the most telling first."""

    record_type: RecordType
    record_id: int
    name: str
    reasons: tuple[SuggestionReason, ...]


ContactKey = tuple[int, UUID]
Suggestions = Mapping[ContactKey, tuple[Suggestion, ...]]


LOOKUPS: Mapping[Similarity, TextClause] = {
    Similarity.ADDRESS: BY_ADDRESS,
    Similarity.PHONE: BY_PHONE,
    Similarity.NAME: BY_NAME,
    Similarity.DOMAIN: BY_DOMAIN,
}


@dataclass(frozen=True)
class _Contact:
    """What of a contact is looked up, by what it would have in common with a record."""

    key: ContactKey
    compared: Mapping[Similarity, frozenset[str]]


def suggest(session: Session, account_id: int, contacts: Iterable[ContactKey]) -> Suggestions:
    """The records that each contact (organisation, contact) may belong to: at most 3 each, for at most 50 contacts."""
    compared = _select_contacts(session, account_id, list(contacts)[:MAX_CONTACTS])
    reasons: dict[ContactKey, dict[tuple[str, int], list[SuggestionReason]]] = {}
    names: dict[tuple[str, int], str] = {}
    for contact, reason, row in _matches(session, account_id, compared):
        record = (row.record_type, row.record_id)
        names[record] = row.name
        record_reasons = reasons.setdefault(contact.key, {}).setdefault(record, [])
        if all(known.similarity is not reason.similarity for known in record_reasons):
            record_reasons.append(reason)
    return {key: tuple(_rank(by_record, names)) for key, by_record in reasons.items()}


def _select_contacts(session: Session, account_id: int, keys: Sequence[ContactKey]) -> list[_Contact]:
    params = {
        "account": account_id,
        "organisations": [organisation_id for organisation_id, _ in keys],
        "contacts": [contact_id for _, contact_id in keys],
        "max_phones": MAX_PHONES,
    }
    return [
        _Contact((row.organisation_id, row.contact_id), _compared(row.name, row.emails, row.phones))
        for row in session.execute(SELECT_CONTACTS, params)
    ]


def _compared(name: str, emails: Sequence[str], phones: Sequence[str]) -> Mapping[Similarity, frozenset[str]]:
    varied = [email for email in emails if len(email) <= MAX_VARIED_LENGTH][:MAX_VARIED_ADDRESSES]
    return {
        Similarity.ADDRESS: frozenset(variant for email in varied for variant in edits1(email)),
        Similarity.PHONE: frozenset(phones),
        Similarity.NAME: frozenset({name_key(name)}),
        Similarity.DOMAIN: frozenset(email.rpartition("@")[2] for email in emails) - FREE_EMAIL_DOMAINS,
    }


def _matches(
    session: Session, account_id: int, contacts: Sequence[_Contact]
) -> Iterable[tuple[_Contact, SuggestionReason, Any]]:
    """Every contact with a record, and what they have in common; the most telling reasons come first."""
    for similarity, statement in LOOKUPS.items():
        keys = {key for contact in contacts for key in contact.compared[similarity]}
        for row in _look_up(session, statement, account_id, keys):
            detail = row.key if similarity in {Similarity.ADDRESS, Similarity.DOMAIN} else ""
            for contact in contacts:
                if row.key in contact.compared[similarity]:
                    yield contact, SuggestionReason(similarity, detail), row


def _look_up(session: Session, statement: TextClause, account_id: int, keys: Iterable[str]) -> Sequence[Any]:
    ordered = sorted(set(keys) - {""})
    params: dict[str, Any] = {"account": account_id, "keys": ordered}
    if statement is BY_PHONE:
        params["last_digits"] = [key[-COMPARED_DIGITS:] for key in ordered]
    return session.execute(statement, params).all() if ordered else []


def _rank(
    reasons: Mapping[tuple[str, int], Sequence[SuggestionReason]], names: Mapping[tuple[str, int], str]
) -> Iterable[Suggestion]:
    """The best suggestions: by their most telling reason, then by the number of reasons, then in order of lookup."""
    ranked = sorted(reasons.items(), key=lambda item: (item[1][0].similarity, -len(item[1])))
    for (record_type, record_id), record_reasons in ranked[:MAX_SUGGESTIONS]:
        record = (record_type, record_id)
        yield Suggestion(RecordType(record_type), record_id, names[record], tuple(record_reasons))
