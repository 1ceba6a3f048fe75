"""Matching by a company's email domain: a setting of the account, which the projection follows."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.read_model import projection
from store.read_model.free_email_domains import is_own_domain

UPDATE_SETTING = text("UPDATE account SET match_email_domain = :is_enabled WHERE id = :account")
QUEUE_COMPANIES = text(f"""
    INSERT INTO projection_queue (account_id, entity_type, record_id)
    SELECT :account, 'company', c.record_id FROM copper_record c
    WHERE c.account_id = :account AND c.record_type = 'company' AND NOT c.is_deleted
      AND {is_own_domain("c.email_domain")}
      AND EXISTS (SELECT FROM xero_contact_email e WHERE e.account_id = :account AND e.domain = c.email_domain)
""")


def set_matching(session: Session, account_id: int, *, is_enabled: bool) -> None:
    """Turn matching by email domain on or off, and queue the companies that it affects.

    The projection, which takes a bounded batch of them at a time, waits until the caller commits: a contact that it
    projects by the old setting is then one that this statement sees.
    """
    projection.lock_account(session, account_id)
    session.execute(UPDATE_SETTING, {"account": account_id, "is_enabled": is_enabled})
    session.execute(QUEUE_COMPANIES, {"account": account_id})
