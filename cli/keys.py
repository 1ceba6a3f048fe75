"""`patina keys`: the API keys of an account."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.errors import usage_error
from cli.formatting import json_default, to_the_minute
from cli.options import AccountOption, JsonOption, resolve_account
from runtime.numbers import count_noun
from services import access
from store.accounts import api_keys
from store.accounts.api_keys import MAX_NAME_LENGTH, SCOPES
from store.accounts.audit import COMMAND_LINE
from store.db.database import transaction
from web.presentation import links

app = typer.Typer(name="keys", help="List, create and revoke API keys.", no_args_is_help=True, add_completion=False)


@app.command("list")
def list_keys(account: AccountOption = None, json_: JsonOption = False) -> None:
    """List the account's API keys that are not revoked."""
    account_id = resolve_account(account)
    with transaction() as session:
        keys = api_keys.list_active(session, account_id)
    if json_:
        typer.echo(json.dumps([vars(key) for key in keys], default=json_default))
        return
    for key in keys:
        used = to_the_minute(key.last_used_at)
        typer.echo(f"{key.id:>5}  {key.prefix}  {', '.join(key.scopes):<6} last used {used:<20}  {key.name}")
    typer.echo(count_noun(len(keys), "key"))


@app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Key name.", metavar="NAME")],
    scope: Annotated[str, typer.Option(help="read, admin or panel", metavar="SCOPE")] = "read",
    account: AccountOption = None,
) -> None:
    """Create a key and print it; it isn't shown again. With `--scope panel`: the URL to embed in Copper."""
    if scope not in SCOPES:
        usage_error(f'invalid scope "{scope}": choose {", ".join(SCOPES)}.', "--scope")
    name = name.strip()[:MAX_NAME_LENGTH]
    if not name:
        usage_error("enter a name so you can recognise this key later.", "NAME")
    key = access.create_key(resolve_account(account), name, [scope])
    typer.echo(links.panel(key) if scope == "panel" else key)


@app.command("revoke")
def revoke_key(
    key: Annotated[int, typer.Argument(help="Key ID (see `patina keys list`).", metavar="ID")],
    account: AccountOption = None,
) -> None:
    """Revoke a key; it stops working with the next request."""
    account_id = resolve_account(account)
    name = access.revoke_key(account_id, key, actor=COMMAND_LINE)
    if name is None:
        raise LookupError(f"Account {account_id} has no key {key}. Run `patina keys list` to list keys.")
    typer.echo(f"revoked: {name}")
