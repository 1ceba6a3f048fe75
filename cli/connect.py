"""`patina connect`."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from cli.errors import fail
from cli.options import JsonOption, handle_interrupts
from runtime import logs
from services.access import create_key
from services.connect import connect_copper, connect_xero
from services.health import missing_scopes
from worker.vendors.xero import cli_oauth

app = typer.Typer(add_completion=False)


@app.command()
def connect(
    copper_email: Annotated[
        str,
        typer.Option(
            envvar="COPPER_EMAIL",
            prompt="Copper email address",
            help="The user who created the API key.",
            metavar="EMAIL",
        ),
    ],
    port: Annotated[int, typer.Option(help="Local port that Xero redirects the browser to.", metavar="PORT")] = 8702,
    auto: Annotated[
        bool,
        typer.Option("--auto", help="Skip the browser, for a Xero that grants access automatically.", metavar=""),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Connect a Copper account and its Xero organisations; prints a read API key.

    Prompts for the Copper API key; without a terminal it is read from COPPER_API_KEY or from standard input.
    """
    logs.configure("connect", for_command=True)
    handle_interrupts()
    account_id = connect_copper(_read_copper_key(), copper_email, by_operator=True)
    token = cli_oauth.authorise(port, auto=auto, echo=lambda message: typer.echo(message, err=True))
    organisations = connect_xero(account_id, token)
    key = create_key(account_id, "created by patina connect")
    names = [organisation.name for organisation in organisations]
    for scope in sorted({scope for organisation in organisations for scope in missing_scopes(organisation)}):
        typer.echo(f"Xero did not grant {scope}: run `patina connect` again and allow it", err=True)
    if json_:
        typer.echo(json.dumps({"account": account_id, "organisations": names, "api_key": key}))
        return
    typer.echo(f"Account {account_id} is connected to {', '.join(names)}.")
    typer.echo(f"API key (copy it now, it isn't shown again): {key}")
    typer.echo("Next: `patina backfill`")


def _read_copper_key() -> str:
    """The Copper API key. It is no option, because every user of a machine can read the command lines of processes."""
    key = os.environ.get("COPPER_API_KEY", "")
    if not key and sys.stdin.isatty():
        key = typer.prompt("Copper API key", hide_input=True)
    elif not key:
        key = sys.stdin.readline()
    if not key.strip():
        fail("No Copper API key: set COPPER_API_KEY, or give the key on standard input.")
    return key.strip()
