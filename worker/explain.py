"""Why a record shows what it shows: its addresses, the contacts they match, what those bring, and near misses."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from store import matching
from store.database import Role, bound
from store.matching import ContactInvoice, KnownRecord, NearMiss, Reason
from store.models import RecordType


@dataclass(frozen=True)
class Address:
    """An address that counts for the record: whose it is, through which company; and whether a contact has it.

    `email` is how it is compared, `as_typed` what stands in Copper where that differs.
    """

    email: str
    as_typed: str | None
    record_type: str
    record_id: int
    record_name: str
    company_id: int | None
    company_name: str | None
    matched: bool


@dataclass(frozen=True)
class MatchedContact:
    """A Xero contact that the record reaches: every way to it, and the invoices that it brings."""

    organisation_id: int
    organisation_name: str
    short_code: str | None
    contact_id: UUID
    name: str
    ways: tuple[Reason, ...]
    invoices: tuple[ContactInvoice, ...]


@dataclass(frozen=True)
class Explanation:
    """What was found of a record; `record` is None when Copper never told of it.

    `complete` is False when there was more than is listed: 1,000 ways, or 500 invoices.
    """

    kind: RecordType
    record_id: int
    record: KnownRecord | None
    addresses: tuple[Address, ...]
    contacts: tuple[MatchedContact, ...]
    near_misses: tuple[NearMiss, ...]
    complete: bool


def explain(account_id: int, kind: RecordType, record_id: int) -> Explanation:
    """Look into one record of an account."""
    with bound(account_id, Role.READS) as session:
        record = matching.record(session, account_id, kind, record_id)
        ways = matching.reasons(session, account_id, kind, record_id)
        known = [
            (one.organisation_id, one.contact_id)
            for one in ways
            if one.organisation_id is not None and one.contact_id is not None
        ]
        invoices = matching.invoices_of(session, account_id, known)
        emails = [one.email for one in ways if one.email]
        near = matching.near_misses(session, account_id, emails, known) if emails else []
    return Explanation(
        kind=kind,
        record_id=record_id,
        record=record,
        addresses=tuple(_addresses(ways)),
        contacts=tuple(_contacts(ways, invoices)),
        near_misses=tuple(near),
        complete=len(ways) < matching.MOST_REASONS and len(invoices) < matching.MOST_INVOICES,
    )


def _addresses(ways: list[Reason]) -> list[Address]:
    found: dict[tuple[str, int, str, int | None], Address] = {}
    for one in ways:
        if one.email:
            key = (one.email, one.record_id, one.record_type, one.company_id)
            known = found.get(key)
            matched = one.contact_id is not None or (known is not None and known.matched)
            found[key] = Address(
                email=one.email,
                as_typed=one.as_typed,
                record_type=one.record_type,
                record_id=one.record_id,
                record_name=one.record_name,
                company_id=one.company_id,
                company_name=one.company_name,
                matched=matched,
            )
    return list(found.values())


def _contacts(ways: list[Reason], invoices: list[ContactInvoice]) -> list[MatchedContact]:
    by_contact: dict[tuple[int, UUID], list[Reason]] = {}
    for one in ways:
        if one.organisation_id is not None and one.contact_id is not None:
            by_contact.setdefault((one.organisation_id, one.contact_id), []).append(one)
    brought: dict[tuple[int, UUID], list[ContactInvoice]] = {}
    for invoice in invoices:
        brought.setdefault((invoice.organisation_id, invoice.contact_id), []).append(invoice)
    return [
        MatchedContact(
            organisation_id=key[0],
            organisation_name=found[0].organisation_name or "",
            short_code=found[0].short_code,
            contact_id=key[1],
            name=found[0].contact_name or "",
            ways=tuple(found),
            invoices=tuple(brought.get(key, ())),
        )
        for key, found in by_contact.items()
    ]
