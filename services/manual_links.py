"""Xero contacts linked to records by hand. Each change has its audit entry in the same transaction."""

from __future__ import annotations

from store.accounts import audit
from store.db.database import account_transaction
from store.read_model import contact_links
from store.read_model.contact_links import Link
from worker.jobs import actors
from worker.jobs.enqueue import enqueue_once


def create(account_id: int, link: Link, *, actor: str) -> bool:
    """Link a contact to a record and project the account; returns False if they were linked already.

    Raises `LinkError` if either end does not exist.
    """
    with account_transaction(account_id) as session:
        is_new = contact_links.add(session, account_id, link, actor)
        if is_new:
            audit.record(session, account_id, actor, "contact.linked", link.reference)
    enqueue_once(actors.project, account_id)
    return is_new


def remove(account_id: int, link: Link, *, actor: str) -> bool:
    """Remove a link and project the account; returns whether the link existed."""
    with account_transaction(account_id) as session:
        was_linked = contact_links.remove(session, account_id, link)
        if was_linked:
            audit.record(session, account_id, actor, "contact.unlinked", link.reference)
    enqueue_once(actors.project, account_id)
    return was_linked
