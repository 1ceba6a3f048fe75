"""Xero contacts that an admin linked by hand to records, because no address matches.

A link to a lead or person acts like another address of it, a link to a company like an address of one of its
people, and a link to an opportunity shows the contact's invoices there alone. The projection follows it like any other
match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from store.db.enums import RecordType

MAX_LINKED_BY_LENGTH = 200

SELECT_NAMES = text("""
    SELECT k.ordinal, c.name AS contact, r.name AS record
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:contacts AS uuid[]), CAST(:types AS text[]),
                CAST(:records AS bigint[])) WITH ORDINALITY
         AS k(organisation_id, contact_id, record_type, record_id, ordinal)
    LEFT JOIN xero_contact c ON c.account_id = :account AND c.organisation_id = k.organisation_id
         AND c.contact_id = k.contact_id
    LEFT JOIN copper_record r ON r.account_id = :account AND r.record_type = k.record_type AND r.record_id = k.record_id
    ORDER BY k.ordinal
""")
# What the audit log stores about a link: ids, so that no name stays there after it is erased everywhere else.
REFERENCE = re.compile(
    r"contact ([0-9a-f-]{36}) of organisation (\d{1,19}), (lead|person|company|opportunity) (\d{1,19})"
)
FIND_CONTACT = text("""
    SELECT c.contact_id FROM xero_contact c
    JOIN xero_organisation o ON o.account_id = c.account_id AND o.id = c.organisation_id AND o.status <> 'removed'
    WHERE c.account_id = :account AND c.organisation_id = :organisation AND c.contact_id = :contact AND NOT c.is_deleted
""")
FIND_RECORD = text("""
    SELECT record_id FROM copper_record
    WHERE account_id = :account AND record_type = :type AND record_id = :record AND NOT is_deleted
""")
INSERT = text("""
    WITH added AS (
        INSERT INTO contact_link (account_id, organisation_id, contact_id, record_type, record_id, linked_by)
        VALUES (:account, :organisation, :contact, :type, :record, :linked_by)
        ON CONFLICT DO NOTHING RETURNING contact_id)
    INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
    SELECT :account, 'contact', :organisation, contact_id FROM added
    RETURNING 1
""")
DELETE = text("""
    WITH removed AS (
        DELETE FROM contact_link
        WHERE account_id = :account AND organisation_id = :organisation AND contact_id = :contact
          AND record_type = :type AND record_id = :record
        RETURNING contact_id),
    marked AS (
        INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
        SELECT :account, 'contact', :organisation, contact_id FROM removed)
    SELECT count(*) > 0 FROM removed
""")


CHECK_ENDS = text("""
    SELECT k.ordinal,
           EXISTS (SELECT FROM xero_contact c
                   JOIN xero_organisation o ON o.account_id = c.account_id AND o.id = c.organisation_id
                        AND o.status <> 'removed'
                   WHERE c.account_id = :account AND c.organisation_id = k.organisation_id
                     AND c.contact_id = k.contact_id AND NOT c.is_deleted) AS has_contact,
           EXISTS (SELECT FROM copper_record r
                   WHERE r.account_id = :account AND r.record_type = k.record_type AND r.record_id = k.record_id
                     AND NOT r.is_deleted) AS has_record,
           EXISTS (SELECT FROM contact_link l
                   WHERE l.account_id = :account AND l.organisation_id = k.organisation_id
                     AND l.contact_id = k.contact_id AND l.record_type = k.record_type
                     AND l.record_id = k.record_id) AS is_linked
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:contacts AS uuid[]), CAST(:types AS text[]),
                CAST(:records AS bigint[])) WITH ORDINALITY
         AS k(organisation_id, contact_id, record_type, record_id, ordinal)
    ORDER BY k.ordinal
""")
INSERT_BATCH = text("""
    WITH added AS (
        INSERT INTO contact_link (account_id, organisation_id, contact_id, record_type, record_id, linked_by, batch_id)
        SELECT :account, k.organisation_id, k.contact_id, k.record_type, k.record_id, :linked_by, :batch
        FROM unnest(CAST(:organisations AS bigint[]), CAST(:contacts AS uuid[]), CAST(:types AS text[]),
                    CAST(:records AS bigint[])) AS k(organisation_id, contact_id, record_type, record_id)
        ORDER BY k.organisation_id, k.contact_id, k.record_type, k.record_id
        ON CONFLICT DO NOTHING
        RETURNING organisation_id, contact_id, record_type, record_id),
    marked AS (
        INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
        SELECT DISTINCT :account, 'contact', organisation_id, contact_id FROM added)
    SELECT organisation_id, contact_id, record_type, record_id FROM added
""")
DELETE_BATCH = text("""
    WITH removed AS (
        DELETE FROM contact_link WHERE account_id = :account AND batch_id = :batch
        RETURNING organisation_id, contact_id, record_type, record_id),
    marked AS (
        INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
        SELECT DISTINCT :account, 'contact', organisation_id, contact_id FROM removed)
    SELECT organisation_id, contact_id, record_type, record_id FROM removed
""")
COUNT_BATCH = text("SELECT count(*) FROM contact_link WHERE account_id = :account AND batch_id = :batch")
LIST_AFTER = text("""
    SELECT k.organisation_id, k.contact_id, k.record_type, k.record_id FROM contact_link k
    JOIN xero_organisation o ON o.account_id = k.account_id AND o.id = k.organisation_id AND o.status <> 'removed'
    WHERE k.account_id = :account
      AND (k.organisation_id, k.contact_id, k.record_type, k.record_id) > (:organisation, :contact, :type, :record)
    ORDER BY k.organisation_id, k.contact_id, k.record_type, k.record_id LIMIT :limit
""")


class LinkError(Exception):
    """The link is not possible; the message is for the person who asked for it."""


class LinkStatus(StrEnum):
    """What became of one link of a batch, or would become of it."""

    LINKED = "linked"
    ALREADY_LINKED = "already linked"
    UNKNOWN_CONTACT = "unknown contact"
    UNKNOWN_RECORD = "unknown record"

    @property
    def is_error(self) -> bool:
        """Whether the link is not possible."""
        return self in {LinkStatus.UNKNOWN_CONTACT, LinkStatus.UNKNOWN_RECORD}


@dataclass(frozen=True)
class Link:
    """A contact of an organisation, and the record that it is linked to."""

    organisation_id: int
    contact_id: UUID
    record_type: RecordType
    record_id: int

    @property
    def reference(self) -> str:
        """Both ends by their ids, as the audit log stores them."""
        record = f"{self.record_type.value} {self.record_id}"
        return f"contact {self.contact_id} of organisation {self.organisation_id}, {record}"

    @classmethod
    def from_reference(cls, reference: str) -> Link | None:
        """The link that an entry of the audit log is about; None if the text is not such a reference."""
        match = REFERENCE.fullmatch(reference)
        return cls(int(match[2]), UUID(match[1]), RecordType(match[3]), int(match[4])) if match else None


def add(session: Session, account_id: int, link: Link, linked_by: str) -> bool:
    """Link a contact to a record with effect from the next projection; returns False if they were linked already.

    Raises `LinkError` if either end does not exist.
    """
    params = _params(account_id, link)
    if session.execute(FIND_CONTACT, params).scalar_one_or_none() is None:
        raise LinkError("This Xero contact isn't known in your account.")
    if session.execute(FIND_RECORD, params).scalar_one_or_none() is None:
        raise LinkError(f"No {link.record_type.value} with ID {link.record_id}.")
    params["linked_by"] = linked_by[:MAX_LINKED_BY_LENGTH]
    return session.execute(INSERT, params).scalar_one_or_none() is not None


def remove(session: Session, account_id: int, link: Link) -> bool:
    """Remove a link; returns whether it existed."""
    return bool(session.execute(DELETE, _params(account_id, link)).scalar_one())


def check_many(session: Session, account_id: int, links: Sequence[Link]) -> list[LinkStatus]:
    """What would become of each link; a repeated one is already linked by the first."""
    statuses: list[LinkStatus] = []
    seen: set[Link] = set()
    for link, row in zip(links, session.execute(CHECK_ENDS, _many_params(account_id, links)), strict=True):
        if not row.has_contact:
            statuses.append(LinkStatus.UNKNOWN_CONTACT)
        elif not row.has_record:
            statuses.append(LinkStatus.UNKNOWN_RECORD)
        else:
            statuses.append(LinkStatus.ALREADY_LINKED if row.is_linked or link in seen else LinkStatus.LINKED)
        seen.add(link)
    return statuses


def add_batch(
    session: Session, account_id: int, links: Sequence[Link], linked_by: str, batch_id: UUID
) -> list[LinkStatus]:
    """Link contacts to records, except where an end does not exist; what became of each, in the order of `links`."""
    statuses = check_many(session, account_id, links)
    possible = [link for link, status in zip(links, statuses, strict=True) if status is LinkStatus.LINKED]
    params = _many_params(account_id, possible)
    added = session.execute(INSERT_BATCH, {**params, "linked_by": linked_by[:MAX_LINKED_BY_LENGTH], "batch": batch_id})
    linked = {_to_link(row) for row in added}
    # Somebody else may have made a link meanwhile.
    return [
        LinkStatus.ALREADY_LINKED if status is LinkStatus.LINKED and link not in linked else status
        for link, status in zip(links, statuses, strict=True)
    ]


def remove_batch(session: Session, account_id: int, batch_id: UUID) -> list[Link]:
    """Remove the links that were made together, as far as they still exist; returns them."""
    rows = session.execute(DELETE_BATCH, {"account": account_id, "batch": batch_id})
    return [_to_link(row) for row in rows]


def count_batch(session: Session, account_id: int, batch_id: UUID) -> int:
    """How many of the links that were made together still exist."""
    return int(session.execute(COUNT_BATCH, {"account": account_id, "batch": batch_id}).scalar_one())


def list_after(session: Session, account_id: int, after: Link | None, limit: int) -> list[Link]:
    """The account's next links in the order of their key; None: the first ones."""
    params = {
        "account": account_id,
        "organisation": after.organisation_id if after else 0,
        "contact": after.contact_id if after else UUID(int=0),
        "type": after.record_type.value if after else "",
        "record": after.record_id if after else 0,
        "limit": limit,
    }
    return [_to_link(row) for row in session.execute(LIST_AFTER, params)]


def describe_ends(session: Session, account_id: int, links: Sequence[Link]) -> list[tuple[str, str]]:
    """The current names of the contact and the record of each link."""
    rows = session.execute(SELECT_NAMES, _many_params(account_id, links))
    return [(row.contact or "unnamed contact", row.record or "unnamed record") for row in rows]


def describe(session: Session, account_id: int, links: Sequence[Link]) -> list[str]:
    """Both ends of each link by their current names, with the record's id."""
    return [
        f"{contact} and {record} ({link.record_type.value} {link.record_id})"
        for link, (contact, record) in zip(links, describe_ends(session, account_id, links), strict=True)
    ]


def _to_link(row: Row[Any]) -> Link:
    return Link(row.organisation_id, row.contact_id, RecordType(row.record_type), row.record_id)


def _many_params(account_id: int, links: Sequence[Link]) -> dict[str, Any]:
    return {
        "account": account_id,
        "organisations": [link.organisation_id for link in links],
        "contacts": [link.contact_id for link in links],
        "types": [link.record_type.value for link in links],
        "records": [link.record_id for link in links],
    }


def _params(account_id: int, link: Link) -> dict[str, object]:
    return {
        "account": account_id,
        "organisation": link.organisation_id,
        "contact": link.contact_id,
        "type": link.record_type.value,
        "record": link.record_id,
    }
