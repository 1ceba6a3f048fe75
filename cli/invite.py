"""`patina invite`: set-up codes, each of which lets one new Copper account connect."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated

import typer

from cli.audit_log import record_command
from cli.formatting import json_default, to_the_minute
from cli.options import JsonOption
from runtime.numbers import MAX_ID, count_noun
from runtime.settings import settings
from store.accounts import invitations
from store.accounts.invitations import Invitation
from store.db.database import transaction
from store.db.enums import INSTALLATION

app = typer.Typer(
    name="invite",
    help="Create a set-up code, which lets one new Copper account connect.",
    invoke_without_command=True,
    add_completion=False,
)
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")


@app.callback()
def invite(
    context: typer.Context,
    days: Annotated[int, typer.Option(help="Days until the code expires.", min=1, max=90, metavar="NUMBER")] = 7,
    note: Annotated[str, typer.Option(help="Whom the code is for; shown by `list`.", metavar="TEXT")] = "",
    json_: JsonOption = False,
) -> None:
    """Create a set-up code and print it; it isn't shown again (without a subcommand)."""
    if context.invoked_subcommand:
        return
    with transaction() as session:
        code, invitation = invitations.create(session, CONTROL_CHARACTERS.sub(" ", note).strip(), days)
        name = f"set-up code {invitation.id}" + (f" ({invitation.note})" if invitation.note else "")
        record_command(session, INSTALLATION, "invitation.made", name)
    if json_:
        payload = {"id": invitation.id, "code": code, "expires_at": json_default(invitation.expires_at)}
        typer.echo(json.dumps(payload))
        return
    typer.echo(code)
    expiry = to_the_minute(invitation.expires_at)
    typer.echo(f"Set-up code {invitation.id}: for one new account, until {expiry}. It isn't shown again.")
    typer.echo(f"Enter it with a Copper API key at {settings().public_url}/connect")


@app.command("list")
def list_invitations(json_: JsonOption = False) -> None:
    """List set-up codes and their states, newest first; at most 200."""
    with transaction() as session:
        newest = invitations.list_newest(session)
    if json_:
        rows = [{**vars(invitation), "state": invitation.state.value} for invitation in newest]
        typer.echo(json.dumps(rows, default=json_default))
        return
    for line in _format_invitations(newest):
        typer.echo(line)


@app.command("revoke")
def revoke_invitation(
    invitation: Annotated[int, typer.Argument(help="ID (see `patina invite list`).", min=0, max=MAX_ID, metavar="ID")],
) -> None:
    """Revoke an unused set-up code."""
    with transaction() as session:
        note = invitations.revoke(session, invitation)
        if note is None:
            raise LookupError(f"There is no unused set-up code {invitation}. Run `patina invite list` to list them.")
        record_command(session, INSTALLATION, "invitation.revoked", f"set-up code {invitation}")
    typer.echo(f"revoked: set-up code {invitation}")


def _format_invitations(newest: list[Invitation]) -> Iterator[str]:
    for invitation in newest:
        ended_at = invitation.used_at or invitation.revoked_at or invitation.expires_at
        when = f"{'until' if invitation.state == 'open' else 'on'} {to_the_minute(ended_at)}"
        yield f"{invitation.id:>5}  {invitation.state.value:<8} {when:<26}  {invitation.note}".rstrip()
    yield count_noun(len(newest), "set-up code")
