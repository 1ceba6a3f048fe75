"""Why an invoice stands on a record, or does not: addresses, contacts, links, near misses; and what nobody matches."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import text
from sqlmodel import Session

from runtime.numbers import whole_number
from store.days import IS_OVERDUE
from store.domains import PUBLIC
from store.models import RecordType

MOST_REASONS = 1_000
MOST_INVOICES = 500
MOST_MISSES = 20
MOST_VARIED = 20
LONGEST_VARIED = 100
CHARACTERS = string.ascii_lowercase + string.digits + ".-_+@"

# Every way from the record to a Xero contact: whose address, or which link by hand. An address that no contact
# has comes with none, so that it can be seen too. These are the projection's rules, followed for one record.
REASONS = text("""
    WITH linked_company AS (
        SELECT CAST(:record AS bigint) AS company_id WHERE :type = 'company'
        UNION
        SELECT l.related_id FROM crm_relation l
        WHERE l.account_id = :account AND l.record_type = :type AND l.record_id = :record
          AND l.related_type = 'company' AND :type = 'opportunity'),
    company AS (
        SELECT k.company_id, c.name FROM linked_company k
        JOIN crm_record c ON c.account_id = :account AND c.record_type = 'company' AND c.record_id = k.company_id
             AND NOT c.gone),
    holder AS (
        SELECT CAST(:type AS text) AS record_type, CAST(:record AS bigint) AS record_id,
               CAST(NULL AS bigint) AS company_id WHERE :type IN ('lead', 'person')
        UNION
        SELECT 'person', l.related_id, NULL FROM crm_relation l
        WHERE l.account_id = :account AND l.record_type = :type AND l.record_id = :record
          AND l.related_type = 'person' AND :type = 'opportunity'
        UNION
        SELECT 'person', l.record_id, company.company_id FROM company
        JOIN crm_relation l ON l.account_id = :account AND l.related_type = 'company'
             AND l.related_id = company.company_id AND l.record_type = 'person'),
    way AS (
        SELECT h.record_type, h.record_id, h.company_id, re.email, ce.organisation_id, ce.contact_id,
               CAST(NULL AS text) AS linked_by, re.as_typed, ce.as_typed AS contact_as_typed
        FROM holder h
        JOIN crm_record_email re ON re.account_id = :account AND re.record_type = h.record_type
             AND re.record_id = h.record_id
        LEFT JOIN (
            xero_contact_email ce
            JOIN xero_organisation o ON o.account_id = ce.account_id AND o.id = ce.organisation_id
                 AND o.status <> 'dropped') ON ce.account_id = :account AND ce.email = re.email
        UNION ALL
        SELECT e.record_type, e.record_id, e.company_id, NULL, k.organisation_id, k.contact_id, k.linked_by, NULL, NULL
        FROM (SELECT * FROM holder UNION SELECT 'company', company_id, company_id FROM company) e
        JOIN contact_link k ON k.account_id = :account AND k.record_type = e.record_type
             AND k.record_id = e.record_id
        JOIN xero_organisation o ON o.account_id = :account AND o.id = k.organisation_id AND o.status <> 'dropped')
    SELECT w.record_type, w.record_id, r.name AS record_name, w.company_id, company.name AS company_name, w.email,
           w.organisation_id, o.name AS organisation_name, o.short_code, w.contact_id, c.name AS contact_name,
           w.linked_by, w.as_typed, w.contact_as_typed
    FROM way w
    JOIN crm_record r ON r.account_id = :account AND r.record_type = w.record_type AND r.record_id = w.record_id
         AND NOT r.gone
    LEFT JOIN company USING (company_id)
    LEFT JOIN xero_organisation o ON o.account_id = :account AND o.id = w.organisation_id
    LEFT JOIN xero_contact c ON c.account_id = :account AND c.organisation_id = w.organisation_id
         AND c.contact_id = w.contact_id
    WHERE CAST(:contact AS uuid) IS NULL OR (w.organisation_id, w.contact_id) = (:organisation, :contact)
    ORDER BY w.company_id NULLS FIRST, w.record_id, w.email NULLS LAST, w.organisation_id, w.contact_id
    LIMIT :limit
""")
RECORD = text("""
    SELECT name, gone, updated_at FROM crm_record
    WHERE account_id = :account AND record_type = :type AND record_id = :record
""")
# Names have no index that finds their middles: the account's records are looked through, which is quick enough for a
# person who searches.
SEARCH = text("""
    SELECT c.record_type, c.record_id, c.name, e.email
    FROM crm_record c
    LEFT JOIN LATERAL (
        SELECT email FROM crm_record_email m
        WHERE m.account_id = :account AND m.record_type = c.record_type AND m.record_id = c.record_id
        ORDER BY (position(:wanted IN email) > 0 OR position(:wanted IN lower(as_typed)) > 0
                  OR email = CAST(:address AS text)) IS TRUE DESC, email LIMIT 1) e ON true
    WHERE c.account_id = :account AND NOT c.gone AND (
          position(:wanted IN lower(c.name)) > 0 OR c.record_id = CAST(:number AS bigint)
          OR (c.record_type, c.record_id) IN (
              SELECT record_type, record_id FROM crm_record_email
              WHERE account_id = :account AND (
                    position(:wanted IN email) > 0 OR position(:wanted IN lower(as_typed)) > 0
                    OR email = CAST(:address AS text)))
           OR (c.record_type, c.record_id) IN (
              SELECT x.record_type, x.record_id FROM invoice i
              JOIN account a ON a.id = i.account_id AND (a.show_bills OR i.type <> 'ACCPAY')
              JOIN record_invoice x ON x.account_id = :account AND x.invoice_id = i.invoice_id
                   AND a.record_types @> ARRAY[x.record_type]
              WHERE i.account_id = :account AND lower(i.number) = :wanted))
    ORDER BY lower(c.name) <> :wanted, lower(c.name), c.record_type, c.record_id LIMIT :limit
""")
INVOICES = text("""
    SELECT i.organisation_id, i.contact_id, i.invoice_id, i.type, i.number, i.status, i.total, i.balance, i.currency
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:contacts AS uuid[])) AS k(organisation_id, contact_id)
    JOIN account a ON a.id = :account
    JOIN invoice i ON i.account_id = :account AND i.organisation_id = k.organisation_id
         AND i.contact_id = k.contact_id AND i.status <> 'DELETED' AND NOT i.gone
         AND (a.show_bills OR i.type <> 'ACCPAY')
    ORDER BY i.organisation_id, i.contact_id, i.created_at DESC, i.invoice_id
    LIMIT :limit
""")
CONTACT_OF = text("""
    SELECT i.organisation_id, i.contact_id, i.number
    FROM record_invoice x
    JOIN account a ON a.id = x.account_id AND (a.show_bills OR x.type <> 'ACCPAY')
    JOIN invoice i ON i.account_id = x.account_id AND i.organisation_id = x.organisation_id
         AND i.invoice_id = x.invoice_id
    WHERE x.account_id = :account AND x.invoice_id = :invoice AND x.record_type = :type AND x.record_id = :record
""")
NEAR = text("""
    SELECT DISTINCT ce.organisation_id, o.name AS organisation_name, o.short_code, ce.contact_id, c.name, ce.email,
           ce.as_typed, ce.email = ANY(:variants) AS one_off,
           (SELECT count(*) FROM invoice i
            JOIN account a ON a.id = i.account_id AND (a.show_bills OR i.type <> 'ACCPAY')
            WHERE i.account_id = :account AND i.organisation_id = ce.organisation_id
            AND i.contact_id = ce.contact_id AND i.status <> 'DELETED' AND NOT i.gone) AS invoices
    FROM (SELECT organisation_id, contact_id, email, as_typed FROM xero_contact_email
          WHERE account_id = :account AND email = ANY(:variants)
          UNION
          (SELECT organisation_id, contact_id, email, as_typed FROM xero_contact_email
           WHERE account_id = :account AND domain = ANY(:domains) LIMIT 1000)) ce
    JOIN xero_contact c ON c.account_id = :account AND c.organisation_id = ce.organisation_id
         AND c.contact_id = ce.contact_id AND NOT c.gone
    JOIN xero_organisation o ON o.account_id = :account AND o.id = ce.organisation_id AND o.status <> 'dropped'
    WHERE NOT EXISTS (
        SELECT
        FROM unnest(CAST(:organisations AS bigint[]), CAST(:contacts AS uuid[])) AS k(organisation_id, contact_id)
        WHERE k.organisation_id = ce.organisation_id AND k.contact_id = ce.contact_id)
    ORDER BY one_off DESC, invoices DESC, c.name, ce.email LIMIT :limit
""")
# Sales invoices alone: nobody expects a supplier to be somebody's lead.
UNMATCHED_CONTACTS = f"""
    WITH sums AS (
        SELECT r.organisation_id, r.contact_id, coalesce(r.currency, '') AS currency, count(*) AS invoices,
               coalesce(sum(r.balance) FILTER (WHERE r.status = 'AUTHORISED'), 0) AS open,
               coalesce(sum(r.balance) FILTER (WHERE {IS_OVERDUE}), 0) AS overdue
        FROM account a
        JOIN invoice r ON r.account_id = a.id AND r.type = 'ACCREC' AND r.status <> 'DELETED' AND NOT r.gone
             AND r.contact_id IS NOT NULL
        WHERE a.id = %(account)s
        GROUP BY r.organisation_id, r.contact_id, coalesce(r.currency, ''))
    SELECT s.organisation_id, o.name AS organisation_name, o.short_code, s.contact_id, coalesce(c.name, '') AS name,
           (SELECT string_agg(e.email, ' ' ORDER BY e.email) FROM xero_contact_email e
            WHERE e.account_id = %(account)s AND e.organisation_id = s.organisation_id
              AND e.contact_id = s.contact_id) AS emails,
           s.currency, s.invoices, s.open, s.overdue
    FROM sums s
    JOIN xero_organisation o ON o.account_id = %(account)s AND o.id = s.organisation_id AND o.status <> 'dropped'
    LEFT JOIN xero_contact c ON c.account_id = %(account)s AND c.organisation_id = s.organisation_id
         AND c.contact_id = s.contact_id
    WHERE (%(currency)s::text IS NULL OR s.currency = %(currency)s)
      AND NOT EXISTS (
        SELECT FROM xero_contact_email ce
        JOIN crm_record_email re ON re.account_id = %(account)s AND re.email = ce.email
        WHERE ce.account_id = %(account)s AND ce.organisation_id = s.organisation_id AND ce.contact_id = s.contact_id)
      AND NOT EXISTS (
        SELECT FROM contact_link k
        JOIN crm_record r ON r.account_id = %(account)s AND r.record_type = k.record_type
             AND r.record_id = k.record_id AND NOT r.gone
        WHERE k.account_id = %(account)s AND k.organisation_id = s.organisation_id AND k.contact_id = s.contact_id)
    ORDER BY s.currency, s.open DESC, c.name, s.contact_id
    LIMIT %(limit)s
"""
UNMATCHED_RECORDS = """
    WITH holder AS (
        SELECT re.record_type, re.record_id FROM crm_record_email re
        JOIN xero_contact_email ce ON ce.account_id = %(account)s AND ce.email = re.email
        WHERE re.account_id = %(account)s
        UNION
        SELECT record_type, record_id FROM contact_link WHERE account_id = %(account)s),
    company AS (
        SELECT l.related_id AS record_id FROM holder h
        JOIN crm_relation l ON l.account_id = %(account)s AND l.record_type = 'person' AND l.record_id = h.record_id
             AND l.related_type = 'company'
        WHERE h.record_type = 'person'
        UNION
        SELECT record_id FROM holder WHERE record_type = 'company'),
    reached AS (
        SELECT record_type, record_id FROM holder
        UNION
        SELECT 'company', record_id FROM company
        UNION
        SELECT 'opportunity', l.record_id FROM crm_relation l
        WHERE l.account_id = %(account)s AND l.record_type = 'opportunity' AND (
              (l.related_type = 'company' AND l.related_id IN (SELECT record_id FROM company))
              OR (l.related_type = 'person' AND l.related_id IN (
                  SELECT record_id FROM holder WHERE record_type = 'person'))))
    SELECT c.record_type, c.record_id, c.name,
           EXISTS (SELECT FROM crm_record_email e WHERE e.account_id = %(account)s
                   AND e.record_type = c.record_type AND e.record_id = c.record_id) AS has_address
    FROM crm_record c
    WHERE c.account_id = %(account)s AND NOT c.gone
      AND (%(type)s::text IS NULL OR c.record_type = %(type)s)
      AND NOT EXISTS (SELECT FROM reached r WHERE r.record_type = c.record_type AND r.record_id = c.record_id)
    ORDER BY c.record_type, c.name, c.record_id
    LIMIT %(limit)s
"""


@dataclass(frozen=True)
class UnmatchedContact:
    """A contact with sales invoices in one currency that stand on no record."""

    organisation_id: int
    organisation_name: str
    short_code: str | None
    contact_id: UUID
    name: str
    emails: str | None
    currency: str
    invoices: int
    open: Decimal
    overdue: Decimal


@dataclass(frozen=True)
class UnmatchedRecord:
    """A record that no contact matches; `has_address` says whether it has an address of its own."""

    record_type: str
    record_id: int
    name: str
    has_address: bool


@dataclass(frozen=True)
class KnownRecord:
    """A record as the mirror has it; `gone` when Copper has it no longer."""

    name: str
    gone: bool
    updated_at: datetime


@dataclass(frozen=True)
class FoundRecord:
    """A record that a search found, with one of its addresses."""

    record_type: str
    record_id: int
    name: str
    email: str | None


@dataclass(frozen=True)
class Reason:
    """One way from a record to a Xero contact: whose address it is, through which company, or who linked it.

    `email` is None for a link by hand; `contact_id` is None for an address that no contact has. `as_typed` and
    `contact_as_typed` are what stands in Copper and in Xero, where that is not the address as it is compared.
    """

    record_type: str
    record_id: int
    record_name: str
    company_id: int | None
    company_name: str | None
    email: str | None
    organisation_id: int | None
    organisation_name: str | None
    short_code: str | None
    contact_id: UUID | None
    contact_name: str | None
    linked_by: str | None
    as_typed: str | None
    contact_as_typed: str | None


@dataclass(frozen=True)
class ContactInvoice:
    """An invoice that a contact brings."""

    organisation_id: int
    contact_id: UUID
    invoice_id: UUID
    type: str
    number: str | None
    status: str
    total: Decimal
    balance: Decimal
    currency: str | None


@dataclass(frozen=True)
class NearMiss:
    """A contact that does not match, though one of its addresses is nearly one of the record's."""

    organisation_id: int
    organisation_name: str
    short_code: str | None
    contact_id: UUID
    contact_name: str
    email: str
    as_typed: str | None
    one_off: bool
    invoices: int


def record(session: Session, account_id: int, kind: RecordType, record_id: int) -> KnownRecord | None:
    """What is known of a record; None when Copper never told of it."""
    row = session.execute(RECORD, {"account": account_id, "type": kind.value, "record": record_id}).one_or_none()
    return KnownRecord(row.name, row.gone, row.updated_at) if row else None


def reasons(
    session: Session, account_id: int, kind: RecordType, record_id: int, contact: tuple[int, UUID] | None = None
) -> list[Reason]:
    """Every way from a record to Xero contacts (or to one, given with its organisation); at most 1,000."""
    chosen = {
        "account": account_id,
        "type": kind.value,
        "record": record_id,
        "organisation": contact[0] if contact else None,
        "contact": contact[1] if contact else None,
        "limit": MOST_REASONS,
    }
    return [Reason(*row) for row in session.execute(REASONS, chosen)]


def why(
    session: Session, account_id: int, kind: RecordType, record_id: int, invoice_id: UUID
) -> tuple[str | None, list[Reason]] | None:
    """An invoice's number, and why it stands on a record; None when it does not."""
    chosen = {"account": account_id, "type": kind.value, "record": record_id, "invoice": invoice_id}
    row = session.execute(CONTACT_OF, chosen).first()
    if row is None:
        return None
    return row.number, reasons(session, account_id, kind, record_id, (row.organisation_id, row.contact_id))


def search(session: Session, account_id: int, wanted: str, limit: int, address: str | None = None) -> list[FoundRecord]:
    """Living records whose name or an address contains `wanted`, whose Copper ID it is, or who show that invoice.

    `address` is `wanted` as addresses are compared, where it is one.
    """
    chosen = {
        "account": account_id,
        "wanted": wanted.lower(),
        "number": whole_number(wanted),
        "address": address,
        "limit": limit,
    }
    return [FoundRecord(*row) for row in session.execute(SEARCH, chosen)]


def invoices_of(session: Session, account_id: int, contacts: Iterable[tuple[int, UUID]]) -> list[ContactInvoice]:
    """What some contacts (organisation, contact) bring, newest first in each; at most 500. Bills if they are shown."""
    chosen = {"account": account_id, **_contacts(contacts), "limit": MOST_INVOICES}
    return [ContactInvoice(*row) for row in session.execute(INVOICES, chosen)]


def _contacts(contacts: Iterable[tuple[int, UUID]]) -> dict[str, list[int] | list[UUID]]:
    known = sorted(set(contacts))
    return {"organisations": [one[0] for one in known], "contacts": [one[1] for one in known]}


def near_misses(
    session: Session, account_id: int, emails: Sequence[str], matched: Iterable[tuple[int, UUID]]
) -> list[NearMiss]:
    """Contacts one character away from one of `emails`, or at the same domain (not a public one); at most 20.

    Suggestions only: nothing is matched by them. The first 20 addresses are looked at.
    """
    few = sorted(set(emails))[:MOST_VARIED]
    domains = {email.rpartition("@")[2] for email in few} - PUBLIC
    variants = {variant for email in few if len(email) <= LONGEST_VARIED for variant in one_character_off(email)}
    chosen = {
        "account": account_id,
        "variants": sorted(variants),
        "domains": sorted(domains),
        **_contacts(matched),
        "limit": MOST_MISSES,
    }
    return [NearMiss(*row) for row in session.execute(NEAR, chosen)]


def unmatched_contacts(session: Session, account_id: int, currency: str | None, limit: int) -> list[UnmatchedContact]:
    """Contacts that no record matches, in one currency or in all, those who owe most first."""
    chosen = {"account": account_id, "currency": currency, "limit": limit}
    rows = session.connection().exec_driver_sql(UNMATCHED_CONTACTS, chosen)
    return [UnmatchedContact(*row) for row in rows]


def unmatched_records(session: Session, account_id: int, kind: RecordType | None, limit: int) -> list[UnmatchedRecord]:
    """Living records of a type, or of all, that no contact matches."""
    chosen = {"account": account_id, "type": kind.value if kind else None, "limit": limit}
    rows = session.connection().exec_driver_sql(UNMATCHED_RECORDS, chosen)
    return [UnmatchedRecord(*row) for row in rows]


def one_character_off(email: str) -> set[str]:
    """Every address that one character left out, added, replaced or swapped with the next makes of `email`."""
    places = [(email[:at], email[at:]) for at in range(len(email) + 1)]
    left_out = {head + tail[1:] for head, tail in places if tail}
    swapped = {head + tail[1] + tail[0] + tail[2:] for head, tail in places if len(tail) > 1}
    replaced = {head + one + tail[1:] for head, tail in places if tail for one in CHARACTERS}
    added = {head + one + tail for head, tail in places for one in CHARACTERS}
    return {one for one in left_out | swapped | replaced | added if one.count("@") == 1} - {email}
