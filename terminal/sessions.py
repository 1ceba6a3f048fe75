"""Browser sessions as `patina sessions` lists and ends them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from store import audit, browser_sessions
from store.browser_sessions import SessionSummary
from store.database import transaction
from store.models import Surface
from terminal import times
from terminal.words import counted
from worker.connect import COMMAND

MAX_LISTED = 1_000


def lines(sessions: Sequence[SessionSummary]) -> Iterator[str]:
    """A line for each session, and how many there are; as many as are listed at most."""
    for one in sessions:
        where = "panel" if one.surface is Surface.PANEL else one.role
        used = times.to_the_minute(one.used_at)
        yield f"{one.id:>5}  {where:<6} last used {used:<20}  {one.user_name}, {one.client or 'unknown browser'}"
    yield counted(len(sessions), "session")


def end(account_id: int, ids: Sequence[int] | None) -> tuple[int, list[int]]:
    """End those sessions of the account (None: all), with an audit row each; returns how many, and which it has not."""
    if not ids:
        with transaction() as session:
            count = browser_sessions.end_others(session, account_id)
            if count:
                audit.note(session, account_id, COMMAND, "sessions.ended", counted(count, "session"))
        return count, []
    missing = []
    for session_id in dict.fromkeys(ids):
        with transaction() as session:
            whose = browser_sessions.end(session, account_id, session_id)
            if whose is None:
                missing.append(session_id)
            else:
                audit.note(session, account_id, COMMAND, "session.ended", whose)
    return len(set(ids)) - len(missing), missing
