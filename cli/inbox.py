"""`patina inbox`: failed events."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli import failed_events
from cli.errors import fail
from cli.failed_events import ChangeResult
from cli.options import AccountOption, JsonOption, resolve_account
from runtime.numbers import MAX_ID
from store.db.enums import INSTALLATION

app = typer.Typer(
    name="inbox", help="List, show, retry and dismiss failed events.", no_args_is_help=True, add_completion=False
)
EventsArgument = Annotated[
    list[int] | None, typer.Argument(help="Event IDs; omit with --all.", min=0, max=MAX_ID, show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="All failed events.")]
InstallationOption = Annotated[
    bool, typer.Option("--installation", help="Events of no account, such as unreadable bodies.")
]


@app.command("list")
def list_events(
    account: AccountOption = None, installation: InstallationOption = False, json_: JsonOption = False
) -> None:
    """List failed events, newest first; at most 200."""
    for line in failed_events.list_failed(_resolve_inbox(account, installation), as_json=json_):
        typer.echo(line)


@app.command("show")
def show_event(
    event: Annotated[int, typer.Argument(help="Event ID.", min=0, max=MAX_ID)],
    account: AccountOption = None,
    installation: InstallationOption = False,
    body: Annotated[bool, typer.Option("--body", help="Print only the body of an unreadable event.")] = False,
) -> None:
    """Show one event in any state."""
    account_id = _resolve_inbox(account, installation)
    if body:
        sys.stdout.buffer.write(failed_events.get_body(account_id, event))
        return
    for line in failed_events.describe_event(account_id, event):
        typer.echo(line)


@app.command("replay")
def replay_events(
    events: EventsArgument = None,
    replay_all: AllOption = False,
    account: AccountOption = None,
    installation: InstallationOption = False,
) -> None:
    """Retry failed events, from their first attempt."""
    event_ids = _resolve_events(events, is_all=replay_all)
    _print_and_exit(failed_events.retry(_resolve_inbox(account, installation), event_ids))


@app.command("dismiss")
def dismiss_events(
    events: EventsArgument = None,
    dismiss_all: AllOption = False,
    account: AccountOption = None,
    installation: InstallationOption = False,
) -> None:
    """Dismiss failed events."""
    event_ids = _resolve_events(events, is_all=dismiss_all)
    _print_and_exit(failed_events.dismiss(_resolve_inbox(account, installation), event_ids))


def _resolve_inbox(account: int | None, installation: bool) -> int:
    if installation and account:
        fail("Give --account or --installation, not both.")
    return INSTALLATION if installation or account == INSTALLATION else resolve_account(account)


def _resolve_events(events: list[int] | None, *, is_all: bool) -> list[int] | None:
    """The given events, or None for all."""
    if bool(events) == is_all:
        fail("Give event IDs (see `patina inbox list`), or --all.")
    return None if is_all else events


def _print_and_exit(result: ChangeResult) -> None:
    for line in result.lines:
        typer.echo(line)
    raise SystemExit(0 if result.is_ok else 1)
