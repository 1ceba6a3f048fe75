"""Xero contacts with sales invoices that are on no record: one row a contact, ranked by what it owes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.read_model.match_reports import UNMATCHED_SUMS

# All of the account's sales invoices are read and summed once. Amounts of different currencies cannot be added, so a
# contact is ranked by its largest one.
LIST_CONTACTS = f"""
    WITH unmatched AS ({UNMATCHED_SUMS}),
    contact AS (
        SELECT organisation_id, organisation_name, short_code, contact_id, name, emails, max(open) AS open,
               CASE WHEN emails IS NULL THEN 'no_address' ELSE 'unknown_address' END AS reason,
               jsonb_agg(jsonb_build_object('currency', currency, 'invoices', invoices, 'open', open::text,
                                            'overdue', overdue::text) ORDER BY open DESC, currency) AS amounts
        FROM unmatched
        GROUP BY organisation_id, organisation_name, short_code, contact_id, name, emails),
    sought AS (
        SELECT * FROM contact
        WHERE %(search)s::text IS NULL OR position(%(search)s IN lower(name)) > 0
           OR position(%(search)s IN emails) > 0),
    counted AS (
        SELECT count(*) FILTER (WHERE reason = 'no_address') AS no_address,
               count(*) FILTER (WHERE reason = 'unknown_address') AS unknown_address
        FROM sought)
    SELECT counted.no_address, counted.unknown_address, page.*
    FROM counted LEFT JOIN (
        SELECT * FROM sought
        WHERE (%(reason)s::text IS NULL OR reason = %(reason)s)
          AND (%(after_open)s::numeric IS NULL
               OR (open, organisation_id, contact_id)
                  < (%(after_open)s::numeric, %(after_organisation)s::bigint, %(after_contact)s::uuid))
        ORDER BY open DESC, organisation_id DESC, contact_id DESC
        LIMIT %(limit)s) page ON true
    ORDER BY page.open DESC, page.organisation_id DESC, page.contact_id DESC
"""
FIND_CONTACT = text("""
    SELECT c.organisation_id, o.name AS organisation_name, o.short_code, c.contact_id, c.name,
           (SELECT string_agg(e.email, ' ' ORDER BY e.email) FROM xero_contact_email e
            WHERE e.account_id = :account AND e.organisation_id = c.organisation_id
              AND e.contact_id = c.contact_id) AS emails
    FROM xero_contact c
    JOIN xero_organisation o ON o.account_id = c.account_id AND o.id = c.organisation_id AND o.status <> 'removed'
    WHERE c.account_id = :account AND c.organisation_id = :organisation AND c.contact_id = :contact AND NOT c.is_deleted
""")


class UnmatchedReason(StrEnum):
    """Why a contact matches no record."""

    NO_ADDRESS = "no_address"
    UNKNOWN_ADDRESS = "unknown_address"


@dataclass(frozen=True)
class ContactAmount:
    """A contact's sales invoices in one currency ('': none given), and what of them is outstanding and overdue."""

    currency: str
    invoices: int
    open: Decimal
    overdue: Decimal


@dataclass(frozen=True)
class ContactDetails:
    """A contact; `emails` are its normalised addresses."""

    organisation_id: int
    organisation_name: str
    short_code: str | None
    contact_id: UUID
    name: str
    emails: tuple[str, ...]

    @property
    def key(self) -> tuple[int, UUID]:
        """The organisation and the contact in it."""
        return self.organisation_id, self.contact_id


@dataclass(frozen=True)
class RankedContact(ContactDetails):
    """An unmatched contact with its amounts, the largest outstanding one first."""

    reason: UnmatchedReason
    amounts: tuple[ContactAmount, ...]

    @property
    def position(self) -> ContactPosition:
        """Where the contact is in the ranking."""
        return ContactPosition(self.amounts[0].open, self.organisation_id, self.contact_id)


@dataclass(frozen=True)
class ContactPosition:
    """A position in the ranking of unmatched contacts."""

    open: Decimal
    organisation_id: int
    contact_id: UUID


@dataclass(frozen=True)
class ContactQuery:
    """Which unmatched contacts to list: `search` is part of a name or an address; at most `limit` after a position."""

    search: str | None = None
    reason: UnmatchedReason | None = None
    after: ContactPosition | None = None
    limit: int = 50

    def params(self, account_id: int) -> dict[str, Any]:
        """The parameters of the statement."""
        return {
            "account": account_id,
            "currency": None,
            "search": self.search.lower() if self.search else None,
            "reason": self.reason,
            "after_open": self.after.open if self.after else None,
            "after_organisation": self.after.organisation_id if self.after else None,
            "after_contact": self.after.contact_id if self.after else None,
            "limit": self.limit,
        }


@dataclass(frozen=True)
class ContactPage:
    """A page of unmatched contacts, and how many there are of each reason, on all pages together."""

    contacts: tuple[RankedContact, ...]
    counts: Mapping[UnmatchedReason, int]


def list_page(session: Session, account_id: int, query: ContactQuery) -> ContactPage:
    """A page of contacts that no record matches; those who owe most in one currency come first."""
    rows = session.connection().exec_driver_sql(LIST_CONTACTS, query.params(account_id)).mappings().all()
    counts = {reason: int(rows[0][reason.value]) for reason in UnmatchedReason}
    return ContactPage(tuple(_ranked_contact(row) for row in rows if row["contact_id"]), counts)


def find_contact(session: Session, account_id: int, organisation_id: int, contact_id: UUID) -> ContactDetails | None:
    """A contact, matched or not; None if the account has no such contact."""
    params = {"account": account_id, "organisation": organisation_id, "contact": contact_id}
    row = session.execute(FIND_CONTACT, params).mappings().one_or_none()
    return ContactDetails(**{**row, "emails": _split(row["emails"])}) if row else None


def _ranked_contact(row: Mapping[Any, Any]) -> RankedContact:
    return RankedContact(
        organisation_id=row["organisation_id"],
        organisation_name=row["organisation_name"],
        short_code=row["short_code"],
        contact_id=row["contact_id"],
        name=row["name"],
        emails=_split(row["emails"]),
        reason=UnmatchedReason(row["reason"]),
        amounts=tuple(
            ContactAmount(amount["currency"], amount["invoices"], Decimal(amount["open"]), Decimal(amount["overdue"]))
            for amount in row["amounts"]
        ),
    )


def _split(emails: str | None) -> tuple[str, ...]:
    """Normalised addresses contain no spaces."""
    return tuple(emails.split(" ")) if emails else ()
