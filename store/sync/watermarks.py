"""Sync watermarks: everything that a vendor changed before the watermark, by its own clock, is in the mirror.

A watermark never moves back: if two runs end out of order, the later time stays.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

ADVANCE_RECORDS = text("""
    UPDATE copper_credential SET records_synced_through = GREATEST(records_synced_through, :synced_through)
    WHERE account_id = :account
""")
ADVANCE_XERO = {
    "contacts": text("""
        UPDATE xero_organisation SET contacts_synced_through = GREATEST(contacts_synced_through, :synced_through)
        WHERE account_id = :account AND id = :organisation
    """),
    "invoices": text("""
        UPDATE xero_organisation SET invoices_synced_through = GREATEST(invoices_synced_through, :synced_through)
        WHERE account_id = :account AND id = :organisation
    """),
}


def advance_records(session: Session, account_id: int, synced_through: datetime) -> None:
    """Advance the watermark of an account's Copper records."""
    session.execute(ADVANCE_RECORDS, {"account": account_id, "synced_through": synced_through})


def advance_xero(
    session: Session,
    account_id: int,
    organisation_id: int,
    resource: str,
    synced_through: datetime,
) -> None:
    """Advance the watermark of an organisation's `contacts` or `invoices`."""
    params = {"account": account_id, "organisation": organisation_id, "synced_through": synced_through}
    session.execute(ADVANCE_XERO[resource], params)
