"""`patina pins`: invoices that are pinned to opportunities."""

from __future__ import annotations

import json
from typing import Annotated
from uuid import UUID

import typer

from cli.errors import usage_error
from cli.formatting import json_default, to_the_minute
from cli.options import AccountOption, IdArgument, JsonOption, resolve_account
from runtime.numbers import count_noun
from services import invoice_pins as pin_service
from store.accounts.audit import COMMAND_LINE
from store.db.database import Role, account_transaction
from store.read_model import invoice_pins
from store.read_model.invoice_pins import PinError
from web.presentation import labels
from worker.vendors.addresses import escape_invisible

app = typer.Typer(
    name="pins",
    help="List, add and remove invoices pinned to opportunities.",
    no_args_is_help=True,
    add_completion=False,
)
MAX_LISTED = 1_000
InvoiceArgument = Annotated[str, typer.Argument(help="ID of the invoice in Xero.", metavar="INVOICE")]


@app.command("list")
def list_pins(account: AccountOption = None, json_: JsonOption = False) -> None:
    """List the account's pinned invoices by opportunity, at most 1,000."""
    account_id = resolve_account(account)
    with account_transaction(account_id, Role.READS) as session:
        pins = invoice_pins.list_all(session, account_id, MAX_LISTED)
    if json_:
        typer.echo(json.dumps([vars(pin) for pin in pins], default=json_default))
        return
    for pin in pins:
        name = escape_invisible(pin.name) or "unnamed"
        typer.echo(f"opportunity {pin.opportunity_id} {name}: {labels.row_name(pin.type, pin.number)} {pin.invoice_id}")
        typer.echo(f"  pinned by {escape_invisible(pin.pinned_by) or 'an admin'}, {to_the_minute(pin.pinned_at)}")
    typer.echo(count_noun(len(pins), "pinned invoice"))


@app.command("add")
def add_pin(invoice: InvoiceArgument, opportunity: IdArgument, account: AccountOption = None) -> None:
    """Pin an invoice to an opportunity (its Copper ID)."""
    account_id, invoice_id = resolve_account(account), _parse_invoice(invoice)
    try:
        is_new = pin_service.create(account_id, invoice_id, opportunity, actor=COMMAND_LINE)
    except PinError as error:
        raise LookupError(str(error)) from None
    typer.echo("pinned" if is_new else "was pinned already")


@app.command("remove")
def remove_pin(invoice: InvoiceArgument, opportunity: IdArgument, account: AccountOption = None) -> None:
    """Unpin an invoice from an opportunity (its Copper ID)."""
    account_id, invoice_id = resolve_account(account), _parse_invoice(invoice)
    if not pin_service.remove(account_id, invoice_id, opportunity, actor=COMMAND_LINE):
        raise LookupError(f"This invoice isn't pinned to opportunity {opportunity}. Run `patina pins list`.")
    typer.echo("unpinned")


def _parse_invoice(text: str) -> UUID:
    try:
        return UUID(text.strip())
    except ValueError:
        usage_error("not the ID of an invoice in Xero.", "INVOICE")
