"""`patina inbox`: failed events, and what to do about them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from store import audit, inbox
from store.database import Session, bound
from store.inbox import NOBODY, EventState, QuarantinedEvent, Source
from terminal.words import counted
from worker import jobs
from worker.connect import COMMAND

MAX_LISTED = 200
ERROR_WIDTH = 68


@dataclass(frozen=True)
class Outcome:
    """What became of the events that a person named: the lines to show, the last one the verdict."""

    lines: tuple[str, ...]
    ok: bool


def list_failed(account_id: int, *, as_json: bool = False) -> list[str]:
    """The account's failed events, newest first, then how many there are; 0 is the installation."""
    with bound(account_id) as session:
        listed = inbox.quarantined(session, account_id, MAX_LISTED)
        total = inbox.quarantined_count(session, account_id)
    if as_json:
        return [json.dumps([{**vars(event), "received_at": event.received_at.isoformat()} for event in listed])]
    lines = [line for event in listed for line in _list_event(event)]
    if account_id != NOBODY:
        with bound(NOBODY) as session:
            elsewhere = inbox.quarantined_count(session, NOBODY)
        if elsewhere:
            lines.append(f"{counted(elsewhere, 'failed event')} of no account: see `patina inbox list --installation`")
    return [*lines, counted(total, "failed event")]


def _list_event(event: QuarantinedEvent) -> list[str]:
    about = f"{event.kind.lower()} {event.resource_id}" if event.replayable else f"unreadable, {event.body_bytes} bytes"
    lines = [f"{event.id:>9}  {event.received_at:%Y-%m-%d %H:%M}  {event.source} {about}"[:80]]
    return [*lines, f"{'':>9}  {event.error[:ERROR_WIDTH]}"] if event.error else lines


def show_event(account_id: int, event_id: int) -> list[str]:
    """All that is known of one event in any state, apart from its body; raises `LookupError` when there is none."""
    with bound(account_id) as session:
        event = inbox.shown(session, account_id, event_id)
    if event is None:
        raise LookupError(f"{_owner(account_id)} has no event {event_id}. `patina inbox list` shows the failed ones.")
    return [f"{name:<15} {value}" if value not in (None, "") else name for name, value in event.items()]


def event_body(account_id: int, event_id: int) -> bytes:
    """The body of an event that could not be read; raises `LookupError` when none is kept.

    On a terminal, what could steer it is escaped.
    """
    show_event(account_id, event_id)
    with bound(account_id) as session:
        body = inbox.body(session, account_id, event_id)
    if body is None:
        raise LookupError(
            f"Event {event_id} has no body: one is kept of what could not be read, until it is dismissed."
        )
    return _printable(body) if sys.stdout.isatty() else body


def _printable(body: bytes) -> bytes:
    text = body.decode("utf-8", "backslashreplace")
    escaped = "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)
    return f"{escaped}\n".encode()


def retry(account_id: int, ids: Sequence[int] | None) -> Outcome:
    """Have failed events (None: all) applied again, from their first attempt."""
    sources: set[Source] = set()

    def change(session: Session, chosen: Sequence[int] | None) -> int:
        count, found = inbox.replay(session, account_id, chosen)
        sources.update(found)
        return count

    outcome = _change(account_id, ids, "events.replayed", change, lambda event: event.retryable)
    for source in sources:
        jobs.wake_source(source)
    verdicts = ("replay", "queued for retry", "nothing to retry")
    return _outcome(outcome, verdicts)


def dismiss(account_id: int, ids: Sequence[int] | None) -> Outcome:
    """Take failed events (None: all) off the list."""

    def change(session: Session, chosen: Sequence[int] | None) -> int:
        return inbox.dismiss(session, account_id, chosen)

    outcome = _change(account_id, ids, "events.dismissed", change, lambda event: event.failed)
    return _outcome(outcome, ("dismiss", "dismissed", "nothing to dismiss"))


def _change(
    account_id: int,
    ids: Sequence[int] | None,
    action: str,
    change: Callable[[Session, Sequence[int] | None], int],
    allows: Callable[[EventState], bool],
) -> tuple[int, list[str]]:
    """Change what may be changed, and say of each other event why not; what is said and done is one transaction."""
    with bound(account_id) as session:
        known = inbox.states(session, account_id, ids) if ids is not None else {}
        named = list(dict.fromkeys(ids)) if ids is not None else []
        chosen = [event_id for event_id in named if event_id in known and allows(known[event_id])]
        count = change(session, None if ids is None else chosen)
        if count:
            audit.note(session, account_id, COMMAND, action, _plural(count))
    refused = [
        f"{event_id}: {_reason(account_id, known.get(event_id))}" for event_id in named if event_id not in chosen
    ]
    return count, refused


def _outcome(outcome: tuple[int, list[str]], verdicts: tuple[str, str, str]) -> Outcome:
    (count, refused), (command, did, nothing) = outcome, verdicts
    said = f"{_plural(count)} {did}" if count or refused else nothing
    if not refused:
        return Outcome((f"{command} ok: {said}",), ok=True)
    return Outcome((*refused, f"{command} failed: {said}, {len(refused)} not"), ok=False)


def _reason(account_id: int, event: EventState | None) -> str:
    if event is None:
        return f"{_owner(account_id)[0].lower()}{_owner(account_id)[1:]} has no such event"
    if event.failed:
        return "could not be read, so there is nothing to retry; dismiss it once you have seen it"
    return f"is {event.state}, not failed"


def _plural(count: int) -> str:
    return f"{count} event{'' if count == 1 else 's'}"


def _owner(account_id: int) -> str:
    return f"Account {account_id}" if account_id != NOBODY else "The installation"
