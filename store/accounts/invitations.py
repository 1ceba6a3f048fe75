"""Set-up codes: the operator creates one, and whoever has it may connect one new Copper account with it."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.crypto import digest
from store.db.database import execute_rowcount

# Crockford's Base32, which has no I, L, O and U, so that a code can be read aloud: 28 characters are 140 bits.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LOOKALIKES = str.maketrans("ILO", "110")
CODE_LENGTH, GROUP_LENGTH = 28, 4
MAX_INPUT_LENGTH = 100
MAX_NOTE_LENGTH = 200
MAX_LISTED = 200

INSERT = text("""
    INSERT INTO invitation (code_hash, note, expires_at) VALUES (:hash, :note, now() + make_interval(days => :days))
    RETURNING id, note, created_at, expires_at, used_at, revoked_at, false AS is_expired
""")
COLUMNS = "id, note, created_at, expires_at, used_at, revoked_at, expires_at <= now() AS is_expired"
FIND_BY_CODE = text(f"SELECT {COLUMNS} FROM invitation WHERE code_hash = :hash")
LIST_NEWEST = text(f"SELECT {COLUMNS} FROM invitation ORDER BY id DESC LIMIT :limit")
LOCK_COPPER_ACCOUNT = text("SELECT pg_advisory_xact_lock(hashtextextended('admission', :copper_account_id))")
# If two requests redeem one code at once, the second waits here for the first and then finds the code used.
REDEEM = text("""
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
    """The state of a set-up code; `UNKNOWN` is a code that never existed or was deleted."""

    OPEN = "open"
    USED = "used"
    REVOKED = "revoked"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Invitation:
    """A set-up code as it is listed. The code itself is shown once, when it is created, and stored as a hash."""

    id: int
    note: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None
    is_expired: bool

    @property
    def state(self) -> InvitationState:
        """Whether it can still be redeemed, and otherwise why not."""
        if self.used_at is not None:
            return InvitationState.USED
        if self.revoked_at is not None:
            return InvitationState.REVOKED
        return InvitationState.EXPIRED if self.is_expired else InvitationState.OPEN


def _hash(code: str) -> bytes:
    """A code's hash, however it was typed: in any case, with any separators, with letters that look like digits."""
    normalised = re.sub(r"[^0-9A-Z]", "", code[:MAX_INPUT_LENGTH].upper()).translate(LOOKALIKES)
    return digest(f"invitation {normalised}")


def create(session: Session, note: str, days: int) -> tuple[str, Invitation]:
    """Create a code for one account, valid for `days`. The code cannot be read again."""
    characters = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
    code = "-".join(characters[start : start + GROUP_LENGTH] for start in range(0, CODE_LENGTH, GROUP_LENGTH))
    params = {"hash": _hash(code), "note": note[:MAX_NOTE_LENGTH], "days": days}
    return code, Invitation(**session.execute(INSERT, params).mappings().one())


def get_state(session: Session, code: str) -> InvitationState:
    """The current state of a code. Only `redeem` decides whether it can be used."""
    row = session.execute(FIND_BY_CODE, {"hash": _hash(code)}).mappings().one_or_none()
    return Invitation(**row).state if row else InvitationState.UNKNOWN


def lock_copper_account(session: Session, copper_account_id: int) -> None:
    """Serialise the admissions of one Copper account until the transaction ends."""
    session.execute(LOCK_COPPER_ACCOUNT, {"copper_account_id": copper_account_id})


def redeem(session: Session, code: str) -> str | None:
    """Use a code, in the transaction that creates the account; returns its name, or None if it cannot be used."""
    row = session.execute(REDEEM, {"hash": _hash(code)}).one_or_none()
    if row is None:
        return None
    return f"set-up code {row.id}" + (f" ({row.note})" if row.note else "")


def list_newest(session: Session) -> list[Invitation]:
    """The newest codes in any state; at most 200."""
    return [Invitation(**row) for row in session.execute(LIST_NEWEST, {"limit": MAX_LISTED}).mappings()]


def revoke(session: Session, invitation_id: int) -> str | None:
    """Revoke an unused code; returns its note, or None if there is no such code."""
    note: str | None = session.execute(REVOKE, {"id": invitation_id}).scalar_one_or_none()
    return note


def purge(session: Session, days: int) -> int:
    """Delete codes that were used, revoked or expired more than `days` ago; returns how many."""
    return execute_rowcount(session, PURGE, {"days": days})
