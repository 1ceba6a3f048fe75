"""Failed events: listing, showing, retrying and dismissing them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runtime.numbers import count_noun
from services import failed_events
from services.failed_events import EventChange
from store.accounts.audit import COMMAND_LINE
from store.db.database import account_transaction
from store.db.enums import INSTALLATION
from store.ingest import inbox
from store.ingest.inbox import EventSummary, QuarantinedEvent

MAX_LISTED = 200
ERROR_WIDTH = 68
LINE_WIDTH = 80


@dataclass(frozen=True)
class ChangeResult:
    """The lines to print after events were changed, the verdict last; `is_ok` unless an event could not be changed."""

    lines: tuple[str, ...]
    is_ok: bool


class _Wording(NamedTuple):
    command: str
    done: str
    nothing_to_do: str


RETRY = _Wording("replay", "queued for retry", "nothing to retry")
DISMISS = _Wording("dismiss", "dismissed", "nothing to dismiss")


def list_failed(account_id: int, *, as_json: bool = False) -> list[str]:
    """The account's failed events, newest first, then their number; 0 is the installation."""
    with account_transaction(account_id) as session:
        events = inbox.list_quarantined(session, account_id, MAX_LISTED)
        total = inbox.quarantined_count(session, account_id)
    if as_json:
        return [json.dumps([{**vars(event), "received_at": event.received_at.isoformat()} for event in events])]
    lines = [line for event in events for line in _format_event(event)]
    if account_id != INSTALLATION:
        with account_transaction(INSTALLATION) as session:
            unassigned = inbox.quarantined_count(session, INSTALLATION)
        if unassigned:
            events_text = count_noun(unassigned, "failed event")
            lines.append(f"{events_text} of no account: see `patina inbox list --installation`")
    return [*lines, count_noun(total, "failed event")]


def _format_event(event: QuarantinedEvent) -> list[str]:
    if event.is_replayable:
        subject = f"{event.category.lower()} {event.resource_id}"
    else:
        subject = f"unreadable, {event.body_bytes} bytes"
    lines = [f"{event.id:>9}  {event.received_at:%Y-%m-%d %H:%M}  {event.vendor} {subject}"[:LINE_WIDTH]]
    return [*lines, f"{'':>9}  {event.error[:ERROR_WIDTH]}"] if event.error else lines


def describe_event(account_id: int, event_id: int) -> list[str]:
    """All fields of one event in any state, except its body; raises `LookupError` if there is no such event."""
    with account_transaction(account_id) as session:
        fields = inbox.get_event(session, account_id, event_id)
    if fields is None:
        raise LookupError(f"{_owner(account_id)} has no event {event_id}. `patina inbox list` shows the failed ones.")
    return [f"{name:<15} {value}" if value not in (None, "") else name for name, value in fields.items()]


def get_body(account_id: int, event_id: int) -> bytes:
    """The body of an unreadable event; raises `LookupError` if none is stored.

    For a terminal, control characters are escaped.
    """
    describe_event(account_id, event_id)
    with account_transaction(account_id) as session:
        body = inbox.get_body(session, account_id, event_id)
    if body is None:
        raise LookupError(
            f"Event {event_id} has no body: only those of unreadable events are stored, until they are dismissed."
        )
    return escape_for_terminal(body) if sys.stdout.isatty() else body


def escape_for_terminal(body: bytes) -> bytes:
    """A body whose control characters are escaped, so that it cannot control the terminal."""
    text = body.decode("utf-8", "backslashreplace")
    escaped = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
    return f"{escaped}\n".encode()


def retry(account_id: int, ids: Sequence[int] | None) -> ChangeResult:
    """Requeue failed events (None: all), starting from their first attempt."""
    return _describe_change(account_id, failed_events.retry(account_id, ids, actor=COMMAND_LINE), RETRY)


def dismiss(account_id: int, ids: Sequence[int] | None) -> ChangeResult:
    """Dismiss failed events (None: all)."""
    return _describe_change(account_id, failed_events.dismiss(account_id, ids, actor=COMMAND_LINE), DISMISS)


def _describe_change(account_id: int, change: EventChange, wording: _Wording) -> ChangeResult:
    refusals = [f"{event_id}: {_refusal_reason(account_id, event)}" for event_id, event in change.refused.items()]
    has_results = change.count or refusals
    summary = f"{count_noun(change.count, 'event')} {wording.done}" if has_results else wording.nothing_to_do
    if not refusals:
        return ChangeResult((f"{wording.command} ok: {summary}",), is_ok=True)
    return ChangeResult((*refusals, f"{wording.command} failed: {summary}, {len(refusals)} not"), is_ok=False)


def _refusal_reason(account_id: int, event: EventSummary | None) -> str:
    if event is None:
        owner = _owner(account_id)
        return f"{owner[0].lower()}{owner[1:]} has no such event"
    if event.is_failed:
        return "is unreadable, so it cannot be retried; dismiss it once you have seen it"
    return f"is {event.state}, not failed"


def _owner(account_id: int) -> str:
    return f"Account {account_id}" if account_id != INSTALLATION else "The installation"
