"""What `patina invite` does: set-up codes for new accounts, each shown once."""

from __future__ import annotations

import json
import re

from runtime.settings import settings
from store import audit, invitations
from store.database import transaction
from store.invitations import Invitation
from terminal import times
from terminal.words import counted
from worker.connect import COMMAND

CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def create(note: str, days: int, *, as_json: bool) -> list[str]:
    """Make a code that lasts for `days`; returns what to print."""
    with transaction() as session:
        code, made = invitations.create(session, CONTROL.sub(" ", note).strip(), days)
        audit.note(session, audit.INSTALLATION, COMMAND, "invitation.made", _name(made))
    if as_json:
        return [json.dumps({"id": made.id, "code": code, "expires_at": times.json_value(made.expires_at)})]
    return [
        code,
        f"Set-up code {made.id}: for one new account, until {times.to_the_minute(made.expires_at)}."
        " It isn't shown again.",
        f"Enter it with a Copper API key at {settings().public_url}/connect",
    ]


def _name(invitation: Invitation) -> str:
    return f"set-up code {invitation.id}" + (f" ({invitation.note})" if invitation.note else "")


def listed(*, as_json: bool) -> list[str]:
    """Every code that is kept, without the code itself."""
    with transaction() as session:
        known = invitations.newest(session)
    if as_json:
        return [json.dumps([{**vars(one), "state": one.state.value} for one in known], default=times.json_value)]
    return [*map(_line, known), counted(len(known), "set-up code")]


def _line(one: Invitation) -> str:
    ended = one.used_at or one.revoked_at or one.expires_at
    when = f"{'until' if one.state == 'open' else 'on'} {times.to_the_minute(ended)}"
    return f"{one.id:>5}  {one.state.value:<8} {when:<26}  {one.note}".rstrip()


def revoke(invitation_id: int) -> str:
    """Revoke a code; raises `LookupError` when no such one is open."""
    with transaction() as session:
        note = invitations.revoke(session, invitation_id)
        if note is None:
            raise LookupError(f"There is no unused set-up code {invitation_id}. Run `patina invite list` to list them.")
        audit.note(session, audit.INSTALLATION, COMMAND, "invitation.revoked", f"set-up code {invitation_id}")
    return f"revoked: set-up code {invitation_id}"
