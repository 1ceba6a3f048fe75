"""Audit entries of the command line."""

from __future__ import annotations

from store.accounts import audit
from store.db.database import Session


def record_command(session: Session, account_id: int, action: str, subject: str) -> None:
    """Record in the audit log that an operator ran a command."""
    audit.record(session, account_id, audit.COMMAND_LINE, action, subject)
