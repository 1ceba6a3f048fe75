"""Invoices pinned to opportunities by hand. Each change has its audit entry in the same transaction."""

from __future__ import annotations

from uuid import UUID

from store.accounts import audit
from store.db.database import account_transaction
from store.read_model import invoice_pins
from store.read_model.invoice_pins import PinReference
from worker.jobs import actors
from worker.jobs.enqueue import enqueue_once


def create(account_id: int, invoice_id: UUID, opportunity_id: int, *, actor: str) -> bool:
    """Pin an invoice to an opportunity and project the account; returns False if it was pinned already.

    Raises `PinError` if either does not exist, or if the opportunity has too many pins.
    """
    with account_transaction(account_id) as session:
        is_new = invoice_pins.add(session, account_id, invoice_id, opportunity_id, actor)
        if is_new:
            audit.record(session, account_id, actor, "invoice.pinned", str(PinReference(invoice_id, opportunity_id)))
    enqueue_once(actors.project, account_id)
    return is_new


def remove(account_id: int, invoice_id: UUID, opportunity_id: int, *, actor: str) -> bool:
    """Unpin an invoice and project the account; returns whether it was pinned."""
    with account_transaction(account_id) as session:
        was_pinned = invoice_pins.remove(session, account_id, invoice_id, opportunity_id)
        if was_pinned:
            audit.record(session, account_id, actor, "invoice.unpinned", str(PinReference(invoice_id, opportunity_id)))
    enqueue_once(actors.project, account_id)
    return was_pinned
