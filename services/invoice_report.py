"""Invoice reports: one invoice with the records that have it, and why each of them has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from store.accounts import account_settings
from store.db.database import Role, Session, account_transaction
from store.db.enums import RecordType
from store.read_model import invoice_details, invoice_pins, match_reports
from store.read_model.invoice_details import InvoiceDetails, InvoiceRecord
from store.read_model.invoice_pins import Pin
from store.read_model.match_reports import Reason

MAX_RECORDS = 50
"""How many records a report explains; each costs a query."""
MAX_PINS = 1_000


@dataclass(frozen=True)
class ExplainedRecord:
    """A record that has the invoice, with the reasons and the pin; neither if it is about to lose it."""

    record: InvoiceRecord
    reasons: tuple[Reason, ...]
    pin: Pin | None = None


@dataclass(frozen=True)
class InvoiceReport:
    """An invoice with its contact's addresses, its records, and the opportunities that it is pinned to.

    `record_count` may be more than are explained. A pin has effect with the next projection, unless its opportunity
    was deleted.
    """

    invoice: InvoiceDetails
    contact_emails: tuple[str, ...]
    records: tuple[ExplainedRecord, ...]
    record_count: int
    pins: tuple[Pin, ...]


def build_invoice_report(account_id: int, invoice_id: UUID) -> InvoiceReport | None:
    """The report of an invoice of the account; None if there is no such invoice."""
    with account_transaction(account_id, Role.READS) as session:
        invoice = invoice_details.find(session, account_id, invoice_id)
        if invoice is None:
            return None
        records, record_count = invoice_details.list_records(session, account_id, invoice_id, MAX_RECORDS)
        pins = invoice_pins.list_of_invoice(session, account_id, invoice_id, MAX_PINS)
        pins_by_opportunity = {pin.opportunity_id: pin for pin in pins}
        pinned_only = account_settings.get(session, account_id).opportunities_show_pinned_only
        return InvoiceReport(
            invoice=invoice,
            contact_emails=tuple(_contact_emails(session, account_id, invoice)),
            records=tuple(
                _explain(session, account_id, invoice, record, pins_by_opportunity, shows_pinned_only=pinned_only)
                for record in records
            ),
            record_count=record_count,
            pins=tuple(pins),
        )


def _contact_emails(session: Session, account_id: int, invoice: InvoiceDetails) -> list[str]:
    if invoice.contact_id is None:
        return []
    return invoice_details.list_contact_emails(session, account_id, invoice.item.organisation_id, invoice.contact_id)


def _explain(
    session: Session,
    account_id: int,
    invoice: InvoiceDetails,
    record: InvoiceRecord,
    pins: Mapping[int, Pin],
    *,
    shows_pinned_only: bool,
) -> ExplainedRecord:
    is_opportunity = record.record_type is RecordType.OPPORTUNITY
    pin = pins.get(record.record_id) if is_opportunity else None
    if invoice.contact_id is None or (is_opportunity and shows_pinned_only):
        return ExplainedRecord(record, (), pin)
    contact = (invoice.item.organisation_id, invoice.contact_id)
    reasons = match_reports.list_reasons(session, account_id, record.record_type, record.record_id, contact)
    return ExplainedRecord(record, tuple(reasons), pin)
