"""Xero contacts linked by hand to leads, people and companies, where no address matches.

A link to a lead or person acts as one more address of it, a link to a company as an address of one of its
people: the projection follows it like any other match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlmodel import Session

from store.models import RecordType

LINKABLE = (RecordType.LEAD, RecordType.PERSON, RecordType.COMPANY)

NAMES = text("""
    SELECT k.place, c.name AS contact, r.name AS record
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:contacts AS uuid[]), CAST(:types AS text[]),
                CAST(:records AS bigint[])) WITH ORDINALITY
         AS k(organisation_id, contact_id, record_type, record_id, place)
    LEFT JOIN xero_contact c ON c.account_id = :account AND c.organisation_id = k.organisation_id
         AND c.contact_id = k.contact_id
    LEFT JOIN crm_record r ON r.account_id = :account AND r.record_type = k.record_type AND r.record_id = k.record_id
    ORDER BY k.place
""")
# What the audit log keeps of a link: ids, so that nobody's name stays there when it is gone everywhere else.
REFERENCE = re.compile(r"contact ([0-9a-f-]{36}) of organisation (\d{1,19}), (lead|person|company) (\d{1,19})")
CONTACT = text("""
    SELECT c.contact_id FROM xero_contact c
    JOIN xero_organisation o ON o.account_id = c.account_id AND o.id = c.organisation_id AND o.status <> 'dropped'
    WHERE c.account_id = :account AND c.organisation_id = :organisation AND c.contact_id = :contact AND NOT c.gone
""")
RECORD = text("""
    SELECT record_id FROM crm_record
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
    SELECT count(*) > 0 FROM removed
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

    @property
    def reference(self) -> str:
        """Both ends by their ids, as the audit log keeps them."""
        ends = f"{self.record_type.value} {self.record_id}"
        return f"contact {self.contact_id} of organisation {self.organisation_id}, {ends}"

    @classmethod
    def of_reference(cls, reference: str) -> Link | None:
        """The link that an entry of the audit log is about; None for what is no such reference."""
        if (found := REFERENCE.fullmatch(reference)) is None:
            return None
        return cls(int(found[2]), UUID(found[1]), RecordType(found[3]), int(found[4]))


def _chosen(account_id: int, link: Link) -> dict[str, object]:
    return {
        "account": account_id,
        "organisation": link.organisation_id,
        "contact": link.contact_id,
        "type": link.record_type.value,
        "record": link.record_id,
    }


def link(session: Session, account_id: int, wanted: Link, who: str) -> bool:
    """Link a contact to a living record, from the next projection on; returns whether it was not linked already.

    Raises `LinkError` for an opportunity, or when either end is not there.
    """
    if wanted.record_type not in LINKABLE:
        raise LinkError("Contacts are linked to leads, people and companies; an opportunity shows those of its people.")
    chosen = _chosen(account_id, wanted)
    if session.execute(CONTACT, chosen).scalar_one_or_none() is None:
        raise LinkError("This Xero contact isn't known in your account.")
    if session.execute(RECORD, chosen).scalar_one_or_none() is None:
        raise LinkError(f"No {wanted.record_type.value} with ID {wanted.record_id}.")
    return session.execute(LINK, {**chosen, "who": who[:200]}).scalar_one_or_none() is not None


def unlink(session: Session, account_id: int, known: Link) -> bool:
    """Undo a link; returns whether there was one."""
    return bool(session.execute(UNLINK, _chosen(account_id, known)).scalar_one())


def in_words(session: Session, account_id: int, links: Sequence[Link]) -> list[str]:
    """Both ends of each link by the names that they have now, with the record's id."""
    params = {
        "account": account_id,
        "organisations": [link.organisation_id for link in links],
        "contacts": [link.contact_id for link in links],
        "types": [link.record_type.value for link in links],
        "records": [link.record_id for link in links],
    }
    rows = session.execute(NAMES, params)
    return [
        f"{row.contact or 'unnamed contact'} and {row.record or 'unnamed record'}"
        f" ({link.record_type.value} {link.record_id})"
        for link, row in zip(links, rows, strict=True)
    ]
