"""Retrying and dismissing failed events, each with its audit entry in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runtime.numbers import count_noun
from store.accounts import audit
from store.db.database import Session, account_transaction
from store.ingest import inbox
from store.ingest.inbox import EventSummary, SyncSource
from worker.jobs import actors


@dataclass(frozen=True)
class EventChange:
    """How many events were changed, and the requested ones whose state did not allow it (None: there is none)."""

    count: int
    refused: Mapping[int, EventSummary | None]


def retry(account_id: int, ids: Sequence[int] | None, *, actor: str) -> EventChange:
    """Requeue failed events (None: all), starting from their first attempt, and wake the workers."""
    sources: set[SyncSource] = set()

    def replay(session: Session, event_ids: Sequence[int] | None) -> int:
        count, replayed_sources = inbox.replay(session, account_id, event_ids)
        sources.update(replayed_sources)
        return count

    change = _change(account_id, ids, actor, "events.replayed", replay, lambda event: event.is_replayable)
    for source in sources:
        actors.enqueue_drain(source)
    return change


def dismiss(account_id: int, ids: Sequence[int] | None, *, actor: str) -> EventChange:
    """Dismiss failed events (None: all)."""

    def dismiss_events(session: Session, event_ids: Sequence[int] | None) -> int:
        return inbox.dismiss(session, account_id, event_ids)

    return _change(account_id, ids, actor, "events.dismissed", dismiss_events, lambda event: event.is_failed)


def _change(
    account_id: int,
    ids: Sequence[int] | None,
    actor: str,
    audit_action: str,
    change: Callable[[Session, Sequence[int] | None], int],
    is_allowed: Callable[[EventSummary], bool],
) -> EventChange:
    """Change the events whose state allows it."""
    with account_transaction(account_id) as session:
        events = inbox.get_summaries(session, account_id, ids) if ids is not None else {}
        requested_ids = list(dict.fromkeys(ids)) if ids is not None else []
        allowed_ids = [event_id for event_id in requested_ids if event_id in events and is_allowed(events[event_id])]
        count = change(session, None if ids is None else allowed_ids)
        if count:
            audit.record(session, account_id, actor, audit_action, count_noun(count, "event"))
    return EventChange(
        count, {event_id: events.get(event_id) for event_id in requested_ids if event_id not in allowed_ids}
    )
