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
        account_ids = [account.id for account in accounts.list_accounts(session)]
    if requested_id is not None and requested_id in account_ids:
        return requested_id
    if requested_id is not None:
        raise LookupError(f"There is no account {requested_id}. Run `patina status` to list accounts.")
    if len(account_ids) == 1:
        return account_ids[0]
    if not account_ids:
        raise LookupError("No account is connected yet: run `patina connect`.")
    raise LookupError("There are several accounts. Choose one with --account (run `patina status` to list them).")


def handle_interrupts() -> None:
    """Let Ctrl-C end this command, even if a shell started it in the background, where SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
