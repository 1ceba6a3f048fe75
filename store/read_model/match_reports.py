"""Match reports: why an invoice is or is not on a record (addresses, contacts, links, near matches); what is unmatched.

The projection does the matching; these queries follow its rules. `tests/integration/test_matching_property.py` holds
them equal to the stored rows for any mirror.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from runtime.numbers import whole_number
from store.db.enums import RecordType
from store.read_model.free_email_domains import FREE_EMAIL_DOMAINS, is_own_domain
from store.read_model.overdue_sql import AWAITS_PAYMENT, IS_OVERDUE
from store.read_model.projection import MATCHES_DOMAINS

MAX_REASONS = 1_000
MAX_INVOICES = 500
MAX_NEAR_MATCHES = 20
MAX_VARIED_ADDRESSES = 20
MAX_VARIED_LENGTH = 100
CHARACTERS = string.ascii_lowercase + string.digits + ".-_+@"

# Every path from a record to a Xero contact: by an address, by a company's email domain, or by a manual link. An
# address that no contact has comes without a contact, so that it can be shown too.
LIST_REASONS = text(f"""
    WITH linked_company AS (
        SELECT CAST(:record AS bigint) AS company_id WHERE :type = 'company'
        UNION
        SELECT l.related_id FROM copper_relation l
        WHERE l.account_id = :account AND l.record_type = :type AND l.record_id = :record
          AND l.related_type = 'company' AND :type = 'opportunity'),
    company AS (
        SELECT k.company_id, c.name, c.email_domain FROM linked_company k
        JOIN copper_record c ON c.account_id = :account AND c.record_type = 'company' AND c.record_id = k.company_id
             AND NOT c.is_deleted),
    holder AS (
        SELECT CAST(:type AS text) AS record_type, CAST(:record AS bigint) AS record_id,
               CAST(NULL AS bigint) AS company_id WHERE :type IN ('lead', 'person')
        UNION
        SELECT 'person', l.related_id, NULL FROM copper_relation l
        WHERE l.account_id = :account AND l.record_type = :type AND l.record_id = :record
          AND l.related_type = 'person' AND :type = 'opportunity'
        UNION
        SELECT 'person', l.record_id, company.company_id FROM company
        JOIN copper_relation l ON l.account_id = :account AND l.related_type = 'company'
             AND l.related_id = company.company_id AND l.record_type = 'person'),
    path AS (
        SELECT h.record_type, h.record_id, h.company_id, re.email, ce.organisation_id, ce.contact_id,
               CAST(NULL AS text) AS linked_by, re.as_typed, ce.as_typed AS contact_as_typed,
               CAST(NULL AS text) AS email_domain
        FROM holder h
        JOIN copper_record_email re ON re.account_id = :account AND re.record_type = h.record_type
             AND re.record_id = h.record_id
        LEFT JOIN (
            xero_contact_email ce
            JOIN xero_organisation o ON o.account_id = ce.account_id AND o.id = ce.organisation_id
                 AND o.status <> 'removed') ON ce.account_id = :account AND ce.email = re.email
        UNION ALL
        SELECT DISTINCT 'company', company.company_id, company.company_id, CAST(NULL AS text), ce.organisation_id,
               ce.contact_id, CAST(NULL AS text), CAST(NULL AS text), CAST(NULL AS text), company.email_domain
        FROM company
        JOIN xero_contact_email ce ON ce.account_id = :account AND ce.domain = company.email_domain
        JOIN xero_organisation o ON o.account_id = :account AND o.id = ce.organisation_id AND o.status <> 'removed'
        WHERE {MATCHES_DOMAINS} AND {is_own_domain("company.email_domain")}
        UNION ALL
        SELECT e.record_type, e.record_id, e.company_id, NULL, k.organisation_id, k.contact_id, k.linked_by, NULL, NULL,
               NULL
        FROM (SELECT * FROM holder
              UNION SELECT 'company', company_id, company_id FROM company
              UNION SELECT 'opportunity', CAST(:record AS bigint), NULL WHERE :type = 'opportunity') e
        JOIN contact_link k ON k.account_id = :account AND k.record_type = e.record_type
             AND k.record_id = e.record_id
        JOIN xero_organisation o ON o.account_id = :account AND o.id = k.organisation_id AND o.status <> 'removed')
    SELECT w.record_type, w.record_id, r.name AS record_name, w.company_id, company.name AS company_name, w.email,
           w.organisation_id, o.name AS organisation_name, o.short_code, w.contact_id, c.name AS contact_name,
           w.linked_by, w.as_typed, w.contact_as_typed, w.email_domain
    FROM path w
    JOIN copper_record r ON r.account_id = :account AND r.record_type = w.record_type AND r.record_id = w.record_id
         AND NOT r.is_deleted
    LEFT JOIN company USING (company_id)
    LEFT JOIN xero_organisation o ON o.account_id = :account AND o.id = w.organisation_id
    LEFT JOIN xero_contact c ON c.account_id = :account AND c.organisation_id = w.organisation_id
         AND c.contact_id = w.contact_id
    WHERE CAST(:contact AS uuid) IS NULL OR (w.organisation_id, w.contact_id) = (:organisation, :contact)
    ORDER BY w.company_id NULLS FIRST, w.record_id, w.email NULLS LAST, w.email_domain NULLS LAST, w.organisation_id,
             w.contact_id
    LIMIT :limit
""")
FIND_RECORD = text("""
    SELECT name, is_deleted, updated_at FROM copper_record
    WHERE account_id = :account AND record_type = :type AND record_id = :record
""")
# No index finds the middle of a name, so all of the account's records are scanned. That is fast enough for a person
# who searches.
SEARCH_RECORDS = text("""
    SELECT c.record_type, c.record_id, c.name, e.email
    FROM copper_record c
    LEFT JOIN LATERAL (
        SELECT email FROM copper_record_email m
        WHERE m.account_id = :account AND m.record_type = c.record_type AND m.record_id = c.record_id
        ORDER BY (position(:search IN email) > 0 OR position(:search IN lower(as_typed)) > 0
                  OR email = CAST(:address AS text)) IS TRUE DESC, email LIMIT 1) e ON true
    WHERE c.account_id = :account AND NOT c.is_deleted AND (
          position(:search IN lower(c.name)) > 0 OR c.record_id = CAST(:number AS bigint)
          OR (c.record_type, c.record_id) IN (
              SELECT record_type, record_id FROM copper_record_email
              WHERE account_id = :account AND (
                    position(:search IN email) > 0 OR position(:search IN lower(as_typed)) > 0
                    OR email = CAST(:address AS text)))
           OR (c.record_type, c.record_id) IN (
              SELECT x.record_type, x.record_id FROM xero_invoice i
              JOIN account a ON a.id = i.account_id AND is_shown(a, NULL, i.type, i.status)
              JOIN record_invoice x ON x.account_id = :account AND x.invoice_id = i.invoice_id
                   AND a.record_types @> ARRAY[x.record_type]
              WHERE i.account_id = :account AND lower(i.number) = :search))
    ORDER BY lower(c.name) <> :search, lower(c.name), c.record_type, c.record_id LIMIT :limit
""")
LIST_CONTACT_INVOICES = text("""
    SELECT i.organisation_id, i.contact_id, i.invoice_id, i.type, i.number, i.status, i.total, i.balance, i.currency
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:contacts AS uuid[])) AS k(organisation_id, contact_id)
    JOIN account a ON a.id = :account
    JOIN xero_invoice i ON i.account_id = :account AND i.organisation_id = k.organisation_id
         AND i.contact_id = k.contact_id AND i.status <> 'DELETED' AND NOT i.is_deleted
         AND is_shown(a, :type, i.type, i.status)
    ORDER BY i.organisation_id, i.contact_id, i.created_at DESC, i.invoice_id
    LIMIT :limit
""")
FIND_INVOICE_CONTACT = text("""
    SELECT i.organisation_id, i.contact_id, i.number, p.pinned_by, p.pinned_at,
           x.record_type = 'opportunity' AND a.opportunities_show_pinned_only AS shows_pinned_only
    FROM record_invoice x
    JOIN account a ON a.id = x.account_id AND is_shown(a, x.record_type, x.type, x.status)
    JOIN xero_invoice i ON i.account_id = x.account_id AND i.organisation_id = x.organisation_id
         AND i.invoice_id = x.invoice_id
    LEFT JOIN invoice_pin p ON p.account_id = x.account_id AND p.organisation_id = x.organisation_id
         AND p.invoice_id = x.invoice_id AND x.record_type = 'opportunity' AND p.opportunity_id = x.record_id
    WHERE x.account_id = :account AND x.invoice_id = :invoice AND x.record_type = :type AND x.record_id = :record
""")
FIND_NEAR_MATCHES = text("""
    SELECT DISTINCT ce.organisation_id, o.name AS organisation_name, o.short_code, ce.contact_id,
           c.name AS contact_name, ce.email, ce.as_typed, ce.email = ANY(:variants) AS is_one_edit_away,
           (SELECT count(*) FROM xero_invoice i
            JOIN account a ON a.id = i.account_id AND is_shown(a, NULL, i.type, i.status)
            WHERE i.account_id = :account AND i.organisation_id = ce.organisation_id
            AND i.contact_id = ce.contact_id AND i.status <> 'DELETED' AND NOT i.is_deleted
            AND credit_resource(i.type) IS NULL) AS invoices
    FROM (SELECT organisation_id, contact_id, email, as_typed FROM xero_contact_email
          WHERE account_id = :account AND email = ANY(:variants)
          UNION
          (SELECT organisation_id, contact_id, email, as_typed FROM xero_contact_email
           WHERE account_id = :account AND domain = ANY(:domains) LIMIT 1000)) ce
    JOIN xero_contact c ON c.account_id = :account AND c.organisation_id = ce.organisation_id
         AND c.contact_id = ce.contact_id AND NOT c.is_deleted
    JOIN xero_organisation o ON o.account_id = :account AND o.id = ce.organisation_id AND o.status <> 'removed'
    WHERE NOT EXISTS (
        SELECT
        FROM unnest(CAST(:organisations AS bigint[]), CAST(:contacts AS uuid[])) AS k(organisation_id, contact_id)
        WHERE k.organisation_id = ce.organisation_id AND k.contact_id = ce.contact_id)
    ORDER BY is_one_edit_away DESC, invoices DESC, contact_name, ce.email LIMIT :limit
""")
# Sales invoices only: a supplier is not expected to be a record in Copper.
UNMATCHED_SUMS = f"""
    WITH sums AS (
        SELECT r.organisation_id, r.contact_id, coalesce(r.currency, '') AS currency, count(*) AS invoices,
               coalesce(sum(r.balance) FILTER (WHERE {AWAITS_PAYMENT}), 0) AS open,
               coalesce(sum(r.balance) FILTER (WHERE {IS_OVERDUE}), 0) AS overdue
        FROM account a
        JOIN xero_invoice r ON r.account_id = a.id AND r.type = 'ACCREC' AND r.status <> 'DELETED'
             AND NOT r.is_deleted AND r.contact_id IS NOT NULL
        WHERE a.id = %(account)s
        GROUP BY r.organisation_id, r.contact_id, coalesce(r.currency, ''))
    SELECT s.organisation_id, o.name AS organisation_name, o.short_code, s.contact_id, coalesce(c.name, '') AS name,
           (SELECT string_agg(e.email, ' ' ORDER BY e.email) FROM xero_contact_email e
            WHERE e.account_id = %(account)s AND e.organisation_id = s.organisation_id
              AND e.contact_id = s.contact_id) AS emails,
           s.currency, s.invoices, s.open, s.overdue
    FROM sums s
    JOIN xero_organisation o ON o.account_id = %(account)s AND o.id = s.organisation_id AND o.status <> 'removed'
    LEFT JOIN xero_contact c ON c.account_id = %(account)s AND c.organisation_id = s.organisation_id
         AND c.contact_id = s.contact_id
    WHERE (%(currency)s::text IS NULL OR s.currency = %(currency)s)
      AND NOT EXISTS (
        SELECT FROM xero_contact_email ce
        JOIN copper_record_email re ON re.account_id = %(account)s AND re.email = ce.email
        WHERE ce.account_id = %(account)s AND ce.organisation_id = s.organisation_id AND ce.contact_id = s.contact_id)
      AND NOT EXISTS (
        SELECT FROM xero_contact_email ce
        JOIN copper_record r ON r.account_id = %(account)s AND r.record_type = 'company' AND r.email_domain = ce.domain
             AND NOT r.is_deleted
        WHERE ce.account_id = %(account)s AND ce.organisation_id = s.organisation_id AND ce.contact_id = s.contact_id
          AND (SELECT match_email_domain FROM account WHERE id = %(account)s) AND {is_own_domain("ce.domain")})
      AND NOT EXISTS (
        SELECT FROM contact_link k
        JOIN copper_record r ON r.account_id = %(account)s AND r.record_type = k.record_type
             AND r.record_id = k.record_id AND NOT r.is_deleted
        WHERE k.account_id = %(account)s AND k.organisation_id = s.organisation_id AND k.contact_id = s.contact_id)
"""
UNMATCHED_CONTACTS = f"{UNMATCHED_SUMS} ORDER BY s.currency, s.open DESC, c.name, s.contact_id LIMIT %(limit)s"
SELECT_UNMATCHED_RECORDS = f"""
    WITH holder AS (
        SELECT re.record_type, re.record_id FROM copper_record_email re
        JOIN xero_contact_email ce ON ce.account_id = %(account)s AND ce.email = re.email
        JOIN xero_organisation o ON o.account_id = %(account)s AND o.id = ce.organisation_id AND o.status <> 'removed'
        WHERE re.account_id = %(account)s
        UNION
        SELECT k.record_type, k.record_id FROM contact_link k
        JOIN xero_organisation o ON o.account_id = %(account)s AND o.id = k.organisation_id AND o.status <> 'removed'
        JOIN copper_record r ON r.account_id = %(account)s AND r.record_type = k.record_type
             AND r.record_id = k.record_id AND NOT r.is_deleted
        WHERE k.account_id = %(account)s),
    company AS (
        SELECT l.related_id AS record_id FROM holder h
        JOIN copper_relation l ON l.account_id = %(account)s AND l.record_type = 'person' AND l.record_id = h.record_id
             AND l.related_type = 'company'
        JOIN copper_record r ON r.account_id = %(account)s AND r.record_type = 'company' AND r.record_id = l.related_id
             AND NOT r.is_deleted
        WHERE h.record_type = 'person'
        UNION
        SELECT record_id FROM holder WHERE record_type = 'company'
        UNION
        SELECT r.record_id FROM copper_record r
        JOIN xero_contact_email ce ON ce.account_id = %(account)s AND ce.domain = r.email_domain
        JOIN xero_organisation o ON o.account_id = %(account)s AND o.id = ce.organisation_id AND o.status <> 'removed'
        WHERE r.account_id = %(account)s AND r.record_type = 'company' AND NOT r.is_deleted
          AND (SELECT match_email_domain FROM account WHERE id = %(account)s) AND {is_own_domain("r.email_domain")}),
    reached AS (
        SELECT record_type, record_id FROM holder
        UNION
        SELECT 'company', record_id FROM company
        UNION
        SELECT 'opportunity', p.opportunity_id FROM invoice_pin p
        JOIN xero_organisation o ON o.account_id = %(account)s AND o.id = p.organisation_id AND o.status <> 'removed'
        WHERE p.account_id = %(account)s
        UNION
        SELECT 'opportunity', l.record_id FROM copper_relation l
        WHERE l.account_id = %(account)s AND l.record_type = 'opportunity' AND (
              (l.related_type = 'company' AND l.related_id IN (SELECT record_id FROM company))
              OR (l.related_type = 'person' AND l.related_id IN (
                  SELECT record_id FROM holder WHERE record_type = 'person'))))
    SELECT c.record_type, c.record_id, c.name,
           EXISTS (SELECT FROM copper_record_email e WHERE e.account_id = %(account)s
                   AND e.record_type = c.record_type AND e.record_id = c.record_id) AS has_address
    FROM copper_record c
    WHERE c.account_id = %(account)s AND NOT c.is_deleted
      AND (%(type)s::text IS NULL OR c.record_type = %(type)s)
      AND NOT EXISTS (SELECT FROM reached r WHERE r.record_type = c.record_type AND r.record_id = c.record_id)
"""
UNMATCHED_RECORDS_ORDER = "ORDER BY c.record_type, c.name, c.record_id LIMIT %(limit)s"
UNMATCHED_RECORDS = f"{SELECT_UNMATCHED_RECORDS} {UNMATCHED_RECORDS_ORDER}"
# The record says where the next page starts, so that no name is in a URL.
UNMATCHED_RECORDS_AFTER = f"""
    {SELECT_UNMATCHED_RECORDS}
      AND (c.record_type, c.name, c.record_id) > (
          SELECT p.record_type, p.name, p.record_id FROM copper_record p
          WHERE p.account_id = %(account)s AND p.record_type = %(after_type)s AND p.record_id = %(after_id)s)
    {UNMATCHED_RECORDS_ORDER}
"""


@dataclass(frozen=True)
class UnmatchedRecord:
    """A record that no contact matches; `has_address` tells whether it has an address of its own."""

    record_type: str
    record_id: int
    name: str
    has_address: bool


@dataclass(frozen=True)
class MirrorRecord:
    """A record as it is in the mirror; `is_deleted`: Copper no longer has it."""

    name: str
    is_deleted: bool
    updated_at: datetime


@dataclass(frozen=True)
class RecordSearchResult:
    """A record that a search found, with one of its addresses."""

    record_type: str
    record_id: int
    name: str
    email: str | None


@dataclass(frozen=True)
class Reason:
    """One path from a record to a Xero contact: whose address or email domain it is, or who linked it.

    `email` is None for a manual link and for the `email_domain` of a company; `contact_id` is None for an address that
    no contact has. `as_typed` and `contact_as_typed` are what was typed in Copper and in Xero, if that differs from the
    normalised address.
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
    email_domain: str | None


@dataclass(frozen=True)
class PinNote:
    """That an invoice is pinned to an opportunity: who pinned it ('' if the name was erased), and when."""

    pinned_by: str
    pinned_at: datetime


class InvoiceExplanation(NamedTuple):
    """Why an invoice is on a record: the reasons why its contact matches, and its pin."""

    number: str | None
    reasons: list[Reason]
    pin: PinNote | None


@dataclass(frozen=True)
class ContactInvoice:
    """An invoice or a credit of a matched contact."""

    organisation_id: int
    contact_id: UUID
    invoice_id: UUID
    type: str
    number: str | None
    status: str
    total: Decimal | None
    balance: Decimal | None
    currency: str | None


@dataclass(frozen=True)
class NearMatch:
    """A contact that does not match, although one of its addresses is similar to one of the record's."""

    organisation_id: int
    organisation_name: str
    short_code: str | None
    contact_id: UUID
    contact_name: str
    email: str
    as_typed: str | None
    is_one_edit_away: bool
    invoices: int


def find_record(session: Session, account_id: int, record_type: RecordType, record_id: int) -> MirrorRecord | None:
    """A record of the mirror, or None if it was never synced."""
    params = {"account": account_id, "type": record_type.value, "record": record_id}
    row = session.execute(FIND_RECORD, params).mappings().one_or_none()
    return MirrorRecord(**row) if row else None


def list_reasons(
    session: Session,
    account_id: int,
    record_type: RecordType,
    record_id: int,
    contact: tuple[int, UUID] | None = None,
) -> list[Reason]:
    """Every path from a record to Xero contacts, or to one (organisation, contact); at most 1,000."""
    params = {
        "account": account_id,
        "type": record_type.value,
        "record": record_id,
        "organisation": contact[0] if contact else None,
        "contact": contact[1] if contact else None,
        "limit": MAX_REASONS,
    }
    return [Reason(**row) for row in session.execute(LIST_REASONS, params).mappings()]


def explain_invoice(
    session: Session, account_id: int, record_type: RecordType, record_id: int, invoice_id: UUID
) -> InvoiceExplanation | None:
    """Why an invoice is on a record; None if it is not on it.

    An opportunity that shows pinned invoices only has no other reason.
    """
    params = {"account": account_id, "type": record_type.value, "record": record_id, "invoice": invoice_id}
    row = session.execute(FIND_INVOICE_CONTACT, params).first()
    if row is None:
        return None
    pin = PinNote(row.pinned_by, row.pinned_at) if row.pinned_at is not None else None
    if row.shows_pinned_only or row.contact_id is None:
        return InvoiceExplanation(row.number, [], pin)
    contact = (row.organisation_id, row.contact_id)
    return InvoiceExplanation(row.number, list_reasons(session, account_id, record_type, record_id, contact), pin)


def search_records(
    session: Session, account_id: int, search: str, limit: int, address: str | None = None
) -> list[RecordSearchResult]:
    """Records whose name or address contains the search text, or that have this Copper ID or this invoice number.

    `address` is the search text as a normalised address, if it is one. Deleted records are not found.
    """
    params = {
        "account": account_id,
        "search": search.lower(),
        "number": whole_number(search),
        "address": address,
        "limit": limit,
    }
    return [RecordSearchResult(**row) for row in session.execute(SEARCH_RECORDS, params).mappings()]


def list_contact_invoices(
    session: Session, account_id: int, record_type: RecordType, contacts: Iterable[tuple[int, UUID]]
) -> list[ContactInvoice]:
    """The invoices of some (organisation, contact) that records of a type show, newest first in each; at most 500."""
    params = {"account": account_id, "type": record_type.value, **_contact_params(contacts), "limit": MAX_INVOICES}
    return [ContactInvoice(**row) for row in session.execute(LIST_CONTACT_INVOICES, params).mappings()]


def find_near_matches(
    session: Session, account_id: int, emails: Sequence[str], matched: Iterable[tuple[int, UUID]]
) -> list[NearMatch]:
    """Contacts with an address one edit away from one of `emails`, or at the same (not free) domain; at most 20.

    These are suggestions only: nothing is matched by them. Only the first 20 addresses are varied.
    """
    addresses = sorted(set(emails))[:MAX_VARIED_ADDRESSES]
    domains = {address.rpartition("@")[2] for address in addresses} - FREE_EMAIL_DOMAINS
    variants = {variant for address in addresses if len(address) <= MAX_VARIED_LENGTH for variant in edits1(address)}
    params = {
        "account": account_id,
        "variants": sorted(variants),
        "domains": sorted(domains),
        **_contact_params(matched),
        "limit": MAX_NEAR_MATCHES,
    }
    return [NearMatch(**row) for row in session.execute(FIND_NEAR_MATCHES, params).mappings()]


def list_unmatched_records(
    session: Session,
    account_id: int,
    record_type: RecordType | None,
    limit: int,
    after: tuple[RecordType, int] | None = None,
) -> list[UnmatchedRecord]:
    """Records of a type, or of all types, that no contact matches, by name; those after a record, if one is given.

    Deleted records are left out.
    """
    params: dict[str, object] = {
        "account": account_id,
        "type": record_type.value if record_type else None,
        "limit": limit,
    }
    if after:
        params |= {"after_type": after[0].value, "after_id": after[1]}
    statement = UNMATCHED_RECORDS_AFTER if after else UNMATCHED_RECORDS
    rows = session.connection().exec_driver_sql(statement, params).mappings()
    return [UnmatchedRecord(**row) for row in rows]


def edits1(email: str) -> set[str]:
    """Every address at one edit (a deletion, transposition, replacement or insertion of a character) from `email`.

    The name is Peter Norvig's ("How to Write a Spelling Corrector").
    """
    splits = [(email[:index], email[index:]) for index in range(len(email) + 1)]
    deletes = {left + right[1:] for left, right in splits if right}
    transposes = {left + right[1] + right[0] + right[2:] for left, right in splits if len(right) > 1}
    replaces = {left + character + right[1:] for left, right in splits if right for character in CHARACTERS}
    inserts = {left + character + right for left, right in splits for character in CHARACTERS}
    edits = deletes | transposes | replaces | inserts
    return {edit for edit in edits if edit.count("@") == 1} - {email}


def _contact_params(contacts: Iterable[tuple[int, UUID]]) -> dict[str, list[int] | list[UUID]]:
    ordered = sorted(set(contacts))
    return {
        "organisations": [organisation_id for organisation_id, _ in ordered],
        "contacts": [contact_id for _, contact_id in ordered],
    }
