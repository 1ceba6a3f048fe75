"""Options that several commands share, and how they are resolved."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from runtime.numbers import MAX_ID
from store.accounts import accounts
from store.db.database import transaction

AccountOption = Annotated[
    int | None, typer.Option("--account", help="Account ID; required if there are several.", metavar="ID")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.", metavar="")]
IdArgument = Annotated[int, typer.Argument(min=0, max=MAX_ID, metavar="ID")]


def resolve_account(requested_id: int | None) -> int:
    """The requested account, or the only one; raises `LookupError` if that is none."""
    with transaction() as session:
        if requested_id is None:
            candidates = accounts.list_accounts(session, limit=2)
        else:
            candidates = accounts.find_accounts(session, [requested_id])
    if len(candidates) == 1:
        return candidates[0].id
    if requested_id is not None:
        raise LookupError(f"There is no account {requested_id}. Run `patina status` to list accounts.")
    if not candidates:
        raise LookupError("No account is connected yet: run `patina connect`.")
    raise LookupError("There are several accounts. Choose one with --account (run `patina status` to list them).")


def handle_interrupts() -> None:
    """Let Ctrl-C end this command, even if a shell started it in the background, where SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
