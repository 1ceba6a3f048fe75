"""`patina sessions`: the browser sessions of an account."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from cli.errors import usage_error
from cli.formatting import json_default, to_the_minute
from cli.options import AccountOption, JsonOption, resolve_account
from runtime.numbers import MAX_ID, count_noun
from services import access
from store.accounts import browser_sessions
from store.accounts.audit import COMMAND_LINE
from store.accounts.browser_sessions import SessionSummary
from store.db.database import transaction
from store.db.enums import Surface

app = typer.Typer(name="sessions", help="List and end browser sessions.", no_args_is_help=True, add_completion=False)
MAX_LISTED = 1_000


@app.command("list")
def list_sessions(account: AccountOption = None, json_: JsonOption = False) -> None:
    """List the account's browser sessions, the last used first."""
    account_id = resolve_account(account)
    with transaction() as session:
        summaries = browser_sessions.list_open(session, account_id, limit=MAX_LISTED)
    if json_:
        typer.echo(json.dumps([vars(summary) for summary in summaries], default=json_default))
        return
    for line in _format_sessions(summaries):
        typer.echo(line)


@app.command("end")
def end_sessions(
    ids: Annotated[
        list[int] | None, typer.Argument(help="Session IDs; omit with --all.", min=0, max=MAX_ID, show_default=False)
    ] = None,
    end_all: Annotated[bool, typer.Option("--all", help="All sessions of the account.")] = False,
    account: AccountOption = None,
) -> None:
    """End sessions; they stop working with the next request."""
    if bool(ids) == end_all:
        usage_error("give session IDs (see `patina sessions list`), or --all.", "ID")
    account_id = resolve_account(account)
    count, missing_ids = _end(account_id, ids)
    typer.echo(f"ended: {count_noun(count, 'session')}")
    if missing_ids:
        raise LookupError(f"Account {account_id} has no session {', '.join(map(str, missing_ids))}.")


def _format_sessions(summaries: Sequence[SessionSummary]) -> Iterator[str]:
    """One line per session, then their number."""
    for summary in summaries:
        role = "panel" if summary.surface is Surface.PANEL else summary.role
        used = to_the_minute(summary.last_used_at)
        browser = summary.client or "unknown browser"
        yield f"{summary.id:>5}  {role:<6} last used {used:<20}  {summary.user_name}, {browser}"
    yield count_noun(len(summaries), "session")


def _end(account_id: int, ids: Sequence[int] | None) -> tuple[int, list[int]]:
    """End the given sessions (None: all); returns the number of ended ones and the unknown IDs."""
    if not ids:
        return access.end_sessions(account_id, actor=COMMAND_LINE), []
    requested_ids = dict.fromkeys(ids)
    missing_ids = [
        session_id
        for session_id in requested_ids
        if access.end_session(account_id, session_id, actor=COMMAND_LINE) is None
    ]
    return len(requested_ids) - len(missing_ids), missing_ids
