"""Invoices that an admin pinned to opportunities by hand.

A pin belongs to one invoice: it outlives reconciliation and a change of the invoice's contact, and nothing follows it.
If the account's opportunities show pinned invoices only, they have no others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from runtime.numbers import whole_number
from store.db.database import execute_rowcount

MAX_PINNED_BY_LENGTH = 200
MAX_PINS_PER_OPPORTUNITY = 500

# What the audit log stores about a pin: ids, so that no name stays there after it is erased everywhere else.
REFERENCE = re.compile(r"invoice ([0-9a-f-]{36}), opportunity (\d{1,19})")
# A deleted invoice is found too, so that it can be unpinned.
FIND_INVOICE = text("""
    SELECT i.organisation_id, i.number, i.type, i.is_deleted OR i.status = 'DELETED' AS is_deleted
    FROM xero_organisation o
    JOIN xero_invoice i ON i.account_id = o.account_id AND i.organisation_id = o.id AND i.invoice_id = :invoice
    WHERE o.account_id = :account AND o.status <> 'removed'
    ORDER BY i.is_deleted LIMIT 1
""")
FIND_OPPORTUNITY = text("""
    SELECT record_id FROM copper_record
    WHERE account_id = :account AND record_type = 'opportunity' AND record_id = :opportunity AND NOT is_deleted
""")
# All of the account's opportunities are scanned, as in a search for records.
SEARCH_OPPORTUNITIES = text("""
    SELECT record_id, name FROM copper_record
    WHERE account_id = :account AND record_type = 'opportunity' AND NOT is_deleted
      AND (position(:search IN lower(name)) > 0 OR record_id = CAST(:number AS bigint))
    ORDER BY (record_id = CAST(:number AS bigint)) IS TRUE DESC, lower(name) <> :search, lower(name), record_id
    LIMIT :limit
""")
COUNT_PINS = text("""
    SELECT count(*) FROM invoice_pin WHERE account_id = :account AND opportunity_id = :opportunity
""")
INSERT = text("""
    WITH added AS (
        INSERT INTO invoice_pin (account_id, organisation_id, invoice_id, opportunity_id, pinned_by)
        VALUES (:account, :organisation, :invoice, :opportunity, :pinned_by)
        ON CONFLICT DO NOTHING RETURNING invoice_id)
    INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
    SELECT :account, 'invoice', :organisation, invoice_id FROM added
    RETURNING 1
""")
DELETE = text("""
    WITH removed AS (
        DELETE FROM invoice_pin
        WHERE account_id = :account AND opportunity_id = :opportunity AND invoice_id = :invoice
        RETURNING organisation_id, invoice_id),
    marked AS (
        INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
        SELECT :account, 'invoice', organisation_id, invoice_id FROM removed)
    SELECT count(*) FROM removed
""")
SELECTED_PINS = """
    SELECT p.organisation_id, p.invoice_id, p.opportunity_id, p.pinned_by, p.pinned_at, coalesce(c.name, '') AS name,
           i.number, coalesce(i.type, 'ACCREC') AS type
    FROM invoice_pin p
    JOIN xero_organisation o ON o.account_id = p.account_id AND o.id = p.organisation_id AND o.status <> 'removed'
    LEFT JOIN xero_invoice i ON i.account_id = p.account_id AND i.organisation_id = p.organisation_id
         AND i.invoice_id = p.invoice_id
    LEFT JOIN copper_record c ON c.account_id = p.account_id AND c.record_type = 'opportunity'
         AND c.record_id = p.opportunity_id
    WHERE p.account_id = :account
"""
LIST_OF_OPPORTUNITY = text(f"""
    {SELECTED_PINS} AND p.opportunity_id = :opportunity ORDER BY p.pinned_at DESC, p.invoice_id LIMIT :limit
""")
LIST_OF_INVOICE = text(f"""
    {SELECTED_PINS} AND p.invoice_id = :invoice ORDER BY p.pinned_at DESC, p.opportunity_id LIMIT :limit
""")
LIST = text(f"{SELECTED_PINS} ORDER BY p.opportunity_id, p.pinned_at DESC, p.invoice_id LIMIT :limit")
SELECT_NAMES = text("""
    SELECT k.ordinal, i.number, r.name
    FROM unnest(CAST(:invoices AS uuid[]), CAST(:opportunities AS bigint[])) WITH ORDINALITY
         AS k(invoice_id, opportunity_id, ordinal)
    LEFT JOIN LATERAL (
        SELECT i.number FROM xero_organisation o
        JOIN xero_invoice i ON i.account_id = o.account_id AND i.organisation_id = o.id AND i.invoice_id = k.invoice_id
        WHERE o.account_id = :account LIMIT 1) i ON true
    LEFT JOIN copper_record r ON r.account_id = :account AND r.record_type = 'opportunity'
         AND r.record_id = k.opportunity_id
    ORDER BY k.ordinal
""")
# The projection takes these marks in batches of its own size.
MARK_OPPORTUNITIES = text("""
    INSERT INTO projection_queue (account_id, entity_type, record_id)
    SELECT :account, 'opportunity', record_id FROM copper_record
    WHERE account_id = :account AND record_type = 'opportunity' AND NOT is_deleted
    ORDER BY record_id
""")


class PinError(ValueError):
    """A pin that is not possible; the message is for the admin."""


class PinLimitError(PinError):
    """The opportunity has as many pinned invoices as it may have."""


@dataclass(frozen=True)
class Pin:
    """A pinned invoice: the opportunity with its name, the invoice's number and type, and who pinned it when."""

    organisation_id: int
    invoice_id: UUID
    opportunity_id: int
    pinned_by: str
    pinned_at: datetime
    name: str
    number: str | None
    type: str


@dataclass(frozen=True)
class PinReference:
    """Both ends of a pin by their ids, as the audit log stores them."""

    invoice_id: UUID
    opportunity_id: int

    def __str__(self) -> str:
        return f"invoice {self.invoice_id}, opportunity {self.opportunity_id}"

    @classmethod
    def parse(cls, reference: str) -> PinReference | None:
        """The pin that an entry of the audit log is about; None if the text is not such a reference."""
        match = REFERENCE.fullmatch(reference)
        return cls(UUID(match[1]), int(match[2])) if match else None


def add(session: Session, account_id: int, invoice_id: UUID, opportunity_id: int, pinned_by: str) -> bool:
    """Pin an invoice to an opportunity with effect from the next projection; returns False if it was pinned already.

    Raises `PinError` if either does not exist, or the opportunity has `MAX_PINS_PER_OPPORTUNITY` pinned invoices.
    """
    params = {"account": account_id, "invoice": invoice_id, "opportunity": opportunity_id}
    invoice = session.execute(FIND_INVOICE, params).one_or_none()
    if invoice is None or invoice.is_deleted:
        raise PinError("This invoice isn't in your account, or it was deleted in Xero.")
    if session.execute(FIND_OPPORTUNITY, params).scalar_one_or_none() is None:
        raise PinError(f"No opportunity with ID {opportunity_id}.")
    if session.execute(COUNT_PINS, params).scalar_one() >= MAX_PINS_PER_OPPORTUNITY:
        raise PinLimitError(
            f"This opportunity has {MAX_PINS_PER_OPPORTUNITY} pinned invoices already. Unpin some of them."
        )
    params |= {"organisation": invoice.organisation_id, "pinned_by": pinned_by[:MAX_PINNED_BY_LENGTH]}
    return session.execute(INSERT, params).scalar_one_or_none() is not None


def remove(session: Session, account_id: int, invoice_id: UUID, opportunity_id: int) -> bool:
    """Unpin an invoice; returns whether it was pinned."""
    params = {"account": account_id, "invoice": invoice_id, "opportunity": opportunity_id}
    return bool(session.execute(DELETE, params).scalar_one())


def list_of_opportunity(session: Session, account_id: int, opportunity_id: int) -> list[Pin]:
    """The pins of an opportunity, the latest first."""
    params = {"account": account_id, "opportunity": opportunity_id, "limit": MAX_PINS_PER_OPPORTUNITY}
    return [Pin(**row) for row in session.execute(LIST_OF_OPPORTUNITY, params).mappings()]


def list_of_invoice(session: Session, account_id: int, invoice_id: UUID, limit: int) -> list[Pin]:
    """The pins of an invoice, the latest first."""
    params = {"account": account_id, "invoice": invoice_id, "limit": limit}
    return [Pin(**row) for row in session.execute(LIST_OF_INVOICE, params).mappings()]


def list_all(session: Session, account_id: int, limit: int) -> list[Pin]:
    """The pins of the account by opportunity, the latest of each first."""
    return [Pin(**row) for row in session.execute(LIST, {"account": account_id, "limit": limit}).mappings()]


def search_opportunities(session: Session, account_id: int, search: str, limit: int) -> list[tuple[int, str]]:
    """The ids and names of opportunities with this Copper ID, or whose name contains the text."""
    params = {"account": account_id, "search": search.lower(), "number": whole_number(search), "limit": limit}
    return [(row.record_id, row.name) for row in session.execute(SEARCH_OPPORTUNITIES, params)]


def describe(session: Session, account_id: int, references: Sequence[PinReference]) -> list[str]:
    """Both ends of each pin by their current number and name, with the opportunity's id."""
    params = {
        "account": account_id,
        "invoices": [reference.invoice_id for reference in references],
        "opportunities": [reference.opportunity_id for reference in references],
    }
    rows = session.execute(SELECT_NAMES, params)
    return [
        f"{row.number or 'invoice without a number'} and {row.name or 'unnamed opportunity'}"
        f" (opportunity {reference.opportunity_id})"
        for reference, row in zip(references, rows, strict=True)
    ]


def mark_opportunities(session: Session, account_id: int) -> int:
    """Queue the projection of all of the account's opportunities, after the setting changed; return how many."""
    return execute_rowcount(session, MARK_OPPORTUNITIES, {"account": account_id})
