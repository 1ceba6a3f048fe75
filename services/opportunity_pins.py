"""What is pinned to an opportunity, and what else could be."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from store.accounts import account_settings
from store.db.database import Role, Session, account_transaction
from store.db.enums import RecordType
from store.read_model import invoice_pins, match_reports
from store.read_model.match_reports import ContactInvoice


@dataclass(frozen=True)
class OpportunityPins:
    """The invoices that are pinned to an opportunity.

    If it shows pinned invoices only, `other_invoices` are those of its people and companies that are not pinned: at
    most 500, by contact, newest first.
    """

    pinned_ids: frozenset[UUID]
    shows_pinned_only: bool
    other_invoices: tuple[ContactInvoice, ...]


def build_opportunity_pins(account_id: int, opportunity_id: int) -> OpportunityPins:
    """The pins of an opportunity."""
    with account_transaction(account_id, Role.READS) as session:
        shows_pinned_only = account_settings.get(session, account_id).opportunities_show_pinned_only
        pins = invoice_pins.list_of_opportunity(session, account_id, opportunity_id)
        pinned_ids = frozenset(pin.invoice_id for pin in pins)
        others = _matched_invoices(session, account_id, opportunity_id) if shows_pinned_only else []
    return OpportunityPins(
        pinned_ids, shows_pinned_only, tuple(invoice for invoice in others if invoice.invoice_id not in pinned_ids)
    )


def _matched_invoices(session: Session, account_id: int, opportunity_id: int) -> list[ContactInvoice]:
    reasons = match_reports.list_reasons(session, account_id, RecordType.OPPORTUNITY, opportunity_id)
    contacts = [
        (reason.organisation_id, reason.contact_id)
        for reason in reasons
        if reason.organisation_id is not None and reason.contact_id is not None
    ]
    return match_reports.list_contact_invoices(session, account_id, RecordType.OPPORTUNITY, contacts)
