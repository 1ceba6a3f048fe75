"""Sync watermarks: everything that a vendor changed before the watermark, by its own clock, is in the mirror.

A watermark never moves back: if two runs end out of order, the later time stays.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.enums import CreditResource

ADVANCE_RECORDS = text("""
    UPDATE copper_credential SET records_synced_through = GREATEST(records_synced_through, :synced_through)
    WHERE account_id = :account
""")
XERO_RESOURCES = ("contacts", "invoices", *CreditResource)
ADVANCE_XERO = {
    resource: text(f"""
        UPDATE xero_organisation
        SET {resource}_synced_through = GREATEST({resource}_synced_through, :synced_through)
        WHERE account_id = :account AND id = :organisation
    """)
    for resource in XERO_RESOURCES
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
    """Advance the watermark of one of an organisation's `XERO_RESOURCES`."""
    params = {"account": account_id, "organisation": organisation_id, "synced_through": synced_through}
    session.execute(ADVANCE_XERO[resource], params)
