"""Xero contacts linked by hand to leads, people and companies, where no address matches.

A link to a lead or person acts as one more address of it, a link to a company as an address of one of its
people: the projection follows it like any other match.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlmodel import Session

from store.models import RecordType

LINKABLE = (RecordType.LEAD, RecordType.PERSON, RecordType.COMPANY)

CONTACT = text("""
    SELECT c.name FROM xero_contact c
    JOIN xero_organisation o ON o.account_id = c.account_id AND o.id = c.organisation_id AND o.status <> 'dropped'
    WHERE c.account_id = :account AND c.organisation_id = :organisation AND c.contact_id = :contact AND NOT c.gone
""")
RECORD = text("""
    SELECT name FROM crm_record
    WHERE account_id = :account AND record_type = :type AND record_id = :record AND NOT gone
""")
LINK = text("""
    WITH added AS (
        INSERT INTO contact_link (account_id, organisation_id, contact_id, record_type, record_id, linked_by)
        VALUES (:account, :organisation, :contact, :type, :record, :who)
        ON CONFLICT DO NOTHING RETURNING contact_id)
    INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
    SELECT :account, 'contact', :organisation, contact_id FROM added
    RETURNING 1
""")
UNLINK = text("""
    WITH removed AS (
        DELETE FROM contact_link
        WHERE account_id = :account AND organisation_id = :organisation AND contact_id = :contact
          AND record_type = :type AND record_id = :record
        RETURNING contact_id),
    marked AS (
        INSERT INTO dirty (account_id, kind, organisation_id, xero_id)
        SELECT :account, 'contact', :organisation, contact_id FROM removed)
    SELECT (SELECT name FROM xero_contact WHERE account_id = :account AND organisation_id = :organisation
            AND contact_id = :contact) AS contact,
           (SELECT name FROM crm_record WHERE account_id = :account AND record_type = :type
            AND record_id = :record) AS record
    FROM removed
""")


class LinkError(Exception):
    """This cannot be linked; the message is written for whoever asked."""


@dataclass(frozen=True)
class Link:
    """A contact of an organisation, and the record that it is linked to."""

    organisation_id: int
    contact_id: UUID
    record_type: RecordType
    record_id: int


def _chosen(account_id: int, link: Link) -> dict[str, object]:
    return {
        "account": account_id,
        "organisation": link.organisation_id,
        "contact": link.contact_id,
        "type": link.record_type.value,
        "record": link.record_id,
    }


def link(session: Session, account_id: int, wanted: Link, who: str) -> str | None:
    """Link a contact to a living record, from the next projection on; returns what was linked, in words.

    None when it was linked already. Raises `LinkError` for an opportunity, or when either end is not there.
    """
    if wanted.record_type not in LINKABLE:
        raise LinkError("Contacts are linked to leads, people and companies; an opportunity shows those of its people.")
    chosen = _chosen(account_id, wanted)
    contact = session.execute(CONTACT, chosen).scalar_one_or_none()
    if contact is None:
        raise LinkError("This Xero contact isn't known in your account.")
    record = session.execute(RECORD, chosen).scalar_one_or_none()
    if record is None:
        raise LinkError(f"No {wanted.record_type.value} with ID {wanted.record_id}.")
    added = session.execute(LINK, {**chosen, "who": who[:200]}).scalar_one_or_none()
    return _in_words(contact, record, wanted) if added else None


def _in_words(contact: str | None, record: str | None, link: Link) -> str:
    """Both ends by their names, cut so that the record's id is kept whatever they are."""
    ends = f"{link.record_type.value} {link.record_id}"
    return f"{(contact or 'unnamed contact')[:200]} and {(record or 'unnamed record')[:200]} ({ends})"


def unlink(session: Session, account_id: int, known: Link) -> str | None:
    """Undo a link; returns what was linked, in words, or None when nothing was."""
    row = session.execute(UNLINK, _chosen(account_id, known)).one_or_none()
    return _in_words(row.contact, row.record, known) if row else None
