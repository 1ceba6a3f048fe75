"""Xero contacts linked to records by hand. Each change has its audit entry in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from store.accounts import audit
from store.db.database import account_transaction
from store.read_model import contact_links
from store.read_model.contact_links import Link, LinkStatus
from worker.jobs import actors
from worker.jobs.enqueue import enqueue_once

MAX_BATCH = 50
"""Links that a person or an API client makes at once."""


@dataclass(frozen=True)
class LinkOutcome:
    """What became of one link of a batch."""

    link: Link
    status: LinkStatus


@dataclass(frozen=True)
class LinkBatch:
    """Links that were made together, and can be undone together."""

    id: UUID
    outcomes: tuple[LinkOutcome, ...]

    @property
    def linked(self) -> list[Link]:
        """The new links."""
        return [outcome.link for outcome in self.outcomes if outcome.status is LinkStatus.LINKED]


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


def create_batch(account_id: int, links: Sequence[Link], *, actor: str, batch_id: UUID | None = None) -> LinkBatch:
    """Link contacts to records and project the account; a link whose end does not exist is left out.

    `undo` removes exactly the links that this made, not those that existed before. Several calls may share a
    `batch_id`.
    """
    batch_id = batch_id or uuid4()
    with account_transaction(account_id) as session:
        statuses = contact_links.add_batch(session, account_id, links, actor, batch_id)
        outcomes = tuple(LinkOutcome(link, status) for link, status in zip(links, statuses, strict=True))
        batch = LinkBatch(batch_id, outcomes)
        audit.record_each(session, account_id, actor, "contact.linked", [link.reference for link in batch.linked])
    if batch.linked:
        enqueue_once(actors.project, account_id)
    return batch


def undo_batch(account_id: int, batch_id: UUID, *, actor: str) -> int:
    """Remove the links that were made together and project the account; returns how many there still were."""
    with account_transaction(account_id) as session:
        removed = contact_links.remove_batch(session, account_id, batch_id)
        audit.record_each(session, account_id, actor, "contact.unlinked", [link.reference for link in removed])
    if removed:
        enqueue_once(actors.project, account_id)
    return len(removed)
