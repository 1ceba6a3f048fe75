"""Match reports: a record's addresses, the contacts they match, those contacts' invoices, and near matches."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from store.accounts import account_settings
from store.db.database import Role, account_transaction
from store.db.enums import RecordType
from store.read_model import invoice_pins, match_reports
from store.read_model.invoice_pins import Pin
from store.read_model.match_reports import ContactInvoice, MirrorRecord, NearMatch, Reason


@dataclass(frozen=True)
class RecordAddress:
    """An email address of the record, or of a related one: the record that has it, and the company that relates both.

    `email` is the normalised address; `as_typed` is the one in Copper if it differs. `is_matched`: a Xero contact has
    it.
    """

    email: str
    as_typed: str | None
    record_type: str
    record_id: int
    record_name: str
    company_id: int | None
    company_name: str | None
    is_matched: bool


@dataclass(frozen=True)
class MatchedContact:
    """A Xero contact that matches the record, with all reasons for the match, and the contact's invoices."""

    organisation_id: int
    organisation_name: str
    short_code: str | None
    contact_id: UUID
    name: str
    reasons: tuple[Reason, ...]
    invoices: tuple[ContactInvoice, ...]


@dataclass(frozen=True)
class MatchReport:
    """The match report of a record; `record` is None if it has not been synced.

    `is_complete` is False if the report was truncated: at 1,000 reasons, or 500 invoices. `pins` are an opportunity's;
    if it `shows_pinned_only`, it has the contacts' invoices only where they are pinned.
    """

    record_type: RecordType
    record_id: int
    record: MirrorRecord | None
    addresses: tuple[RecordAddress, ...]
    contacts: tuple[MatchedContact, ...]
    near_matches: tuple[NearMatch, ...]
    is_complete: bool
    pins: tuple[Pin, ...] = ()
    shows_pinned_only: bool = False


def build_match_report(account_id: int, record_type: RecordType, record_id: int) -> MatchReport:
    """Build the match report of one record of an account."""
    with account_transaction(account_id, Role.READS) as session:
        record = match_reports.find_record(session, account_id, record_type, record_id)
        reasons = match_reports.list_reasons(session, account_id, record_type, record_id)
        contact_ids = [
            (reason.organisation_id, reason.contact_id)
            for reason in reasons
            if reason.organisation_id is not None and reason.contact_id is not None
        ]
        invoices = match_reports.list_contact_invoices(session, account_id, record_type, contact_ids)
        emails = [reason.email for reason in reasons if reason.email]
        near_matches = match_reports.find_near_matches(session, account_id, emails, contact_ids) if emails else []
        is_opportunity = record_type is RecordType.OPPORTUNITY
        pins = invoice_pins.list_of_opportunity(session, account_id, record_id) if is_opportunity else []
        config = account_settings.get(session, account_id)
    return MatchReport(
        record_type=record_type,
        record_id=record_id,
        record=record,
        addresses=tuple(_addresses(reasons)),
        contacts=tuple(_contacts(reasons, invoices)),
        near_matches=tuple(near_matches),
        is_complete=len(reasons) < match_reports.MAX_REASONS and len(invoices) < match_reports.MAX_INVOICES,
        pins=tuple(pins),
        shows_pinned_only=is_opportunity and config.opportunities_show_pinned_only,
    )


def _addresses(reasons: list[Reason]) -> list[RecordAddress]:
    """Return each address of the record once; it is matched if any of its reasons has a contact."""
    addresses: dict[tuple[str, int, str, int | None], RecordAddress] = {}
    for reason in reasons:
        if reason.email:
            key = (reason.email, reason.record_id, reason.record_type, reason.company_id)
            known = addresses.get(key)
            addresses[key] = RecordAddress(
                email=reason.email,
                as_typed=reason.as_typed,
                record_type=reason.record_type,
                record_id=reason.record_id,
                record_name=reason.record_name,
                company_id=reason.company_id,
                company_name=reason.company_name,
                is_matched=reason.contact_id is not None or (known is not None and known.is_matched),
            )
    return list(addresses.values())


def _contacts(reasons: list[Reason], invoices: list[ContactInvoice]) -> list[MatchedContact]:
    reasons_by_contact: dict[tuple[int, UUID], list[Reason]] = {}
    for reason in reasons:
        if reason.organisation_id is not None and reason.contact_id is not None:
            reasons_by_contact.setdefault((reason.organisation_id, reason.contact_id), []).append(reason)
    invoices_by_contact: dict[tuple[int, UUID], list[ContactInvoice]] = {}
    for invoice in invoices:
        invoices_by_contact.setdefault((invoice.organisation_id, invoice.contact_id), []).append(invoice)
    return [
        MatchedContact(
            organisation_id=key[0],
            organisation_name=contact_reasons[0].organisation_name or "",
            short_code=contact_reasons[0].short_code,
            contact_id=key[1],
            name=contact_reasons[0].contact_name or "",
            reasons=tuple(contact_reasons),
            invoices=tuple(invoices_by_contact.get(key, ())),
        )
        for key, contact_reasons in reasons_by_contact.items()
    ]
