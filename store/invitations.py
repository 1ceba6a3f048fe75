"""Set-up codes: the operator makes one, and whoever holds it may connect one new Copper account with it."""

from __future__ import annotations

import re
import secrets as randomness
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import text
from sqlmodel import Session

from store.database import touched
from store.secrets import digest

# Without I, L, O and U, so that a code can be read out (Crockford's Base32): 28 characters are 140 bits.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LOOKALIKES = str.maketrans("ILO", "110")
CHARACTERS, GROUP = 28, 4
MAX_CODE = 100
MAX_NOTE = 200
MAX_LISTED = 200

CREATE = text("""
    INSERT INTO invitation (code_hash, note, expires_at) VALUES (:hash, :note, now() + make_interval(days => :days))
    RETURNING id, note, created_at, expires_at, used_at, revoked_at, false AS is_expired
""")
COLUMNS = "id, note, created_at, expires_at, used_at, revoked_at, expires_at <= now() AS is_expired"
BY_CODE = text(f"SELECT {COLUMNS} FROM invitation WHERE code_hash = :hash")
NEWEST = text(f"SELECT {COLUMNS} FROM invitation ORDER BY id DESC LIMIT :limit")
TAKE_TURN = text("SELECT pg_advisory_xact_lock(hashtextextended('admission', :copper_account_id))")
# Of two that use one code at once, the second waits here for the first, and then finds it used.
USE = text("""
    UPDATE invitation SET used_at = now()
    WHERE code_hash = :hash AND used_at IS NULL AND revoked_at IS NULL AND expires_at > now()
    RETURNING id, note
""")
REVOKE = text("""
    UPDATE invitation SET revoked_at = now()
    WHERE id = :id AND used_at IS NULL AND revoked_at IS NULL
    RETURNING note
""")
PURGE = text("""
    DELETE FROM invitation
    WHERE LEAST(used_at, revoked_at, expires_at) < now() - make_interval(days => :days)
""")


class InvitationState(StrEnum):
    """What became of a set-up code; `UNKNOWN` is one that was never made, or was deleted since."""

    OPEN = "open"
    USED = "used"
    REVOKED = "revoked"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Invitation:
    """A set-up code as it is listed, without the code itself: that is shown when it is made, and kept as a hash."""

    id: int
    note: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None
    is_expired: bool

    @property
    def state(self) -> InvitationState:
        """Whether it can still be used, and otherwise why not."""
        if self.used_at is not None:
            return InvitationState.USED
        if self.revoked_at is not None:
            return InvitationState.REVOKED
        return InvitationState.EXPIRED if self.is_expired else InvitationState.OPEN


def _hash(code: str) -> bytes:
    """A code's hash, however it was typed: in any case, with any separators, with letters that look like digits."""
    plain = re.sub(r"[^0-9A-Z]", "", code[:MAX_CODE].upper()).translate(LOOKALIKES)
    return digest(f"invitation {plain}")


def create(session: Session, note: str, days: int) -> tuple[str, Invitation]:
    """A new code for one account, for `days`; the code is returned this once."""
    plain = "".join(randomness.choice(ALPHABET) for _ in range(CHARACTERS))
    code = "-".join(plain[start : start + GROUP] for start in range(0, CHARACTERS, GROUP))
    row = session.execute(CREATE, {"hash": _hash(code), "note": note[:MAX_NOTE], "days": days}).one()
    return code, Invitation(**row._mapping)


def state_of(session: Session, code: str) -> InvitationState:
    """What could be done with a code now; only `use` settles it."""
    row = session.execute(BY_CODE, {"hash": _hash(code)}).one_or_none()
    return Invitation(**row._mapping).state if row else InvitationState.UNKNOWN


def take_turn(session: Session, copper_account_id: int) -> None:
    """Have those who admit one Copper account at once take turns, until the transaction ends."""
    session.execute(TAKE_TURN, {"copper_account_id": copper_account_id})


def use(session: Session, code: str) -> str | None:
    """Use a code up, in the transaction that makes the account; returns its name, None when it cannot be used."""
    row = session.execute(USE, {"hash": _hash(code)}).one_or_none()
    if row is None:
        return None
    return f"set-up code {row.id}" + (f" ({row.note})" if row.note else "")


def newest(session: Session) -> list[Invitation]:
    """The newest codes, whatever became of them; 200 at most."""
    return [Invitation(**row._mapping) for row in session.execute(NEWEST, {"limit": MAX_LISTED})]


def revoke(session: Session, invitation_id: int) -> str | None:
    """Revoke a code that was not used; returns its note, or None when there is no such one."""
    note: str | None = session.execute(REVOKE, {"id": invitation_id}).scalar_one_or_none()
    return note


def purge(session: Session, days: int) -> int:
    """Delete codes that ended more than `days` ago; returns how many went."""
    return touched(session, PURGE, {"days": days})
