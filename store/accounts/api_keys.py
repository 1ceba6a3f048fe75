"""API keys. Only their hashes are stored."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.crypto import digest, generate_token

SCOPES = ("read", "admin", "panel")
MAX_NAME_LENGTH = 100

INSERT = text("""
    INSERT INTO api_key (account_id, key_hash, prefix, name, scopes)
    VALUES (:account, :hash, :prefix, :name, :scopes)
""")
LIST_ACTIVE = text("""
    SELECT id, prefix, name, scopes, created_at, last_used_at FROM api_key
    WHERE account_id = :account AND revoked_at IS NULL ORDER BY id
""")
REVOKE = text("""
    UPDATE api_key SET revoked_at = now() WHERE account_id = :account AND id = :key AND revoked_at IS NULL
    RETURNING name
""")
FIND_OWNER = text("SELECT account_id, scopes FROM api_key WHERE key_hash = :hash AND revoked_at IS NULL")
FIND_PANELS = """
    SELECT k.key_hash, k.account_id, a.visible_to_teams FROM api_key k JOIN account a ON a.id = k.account_id
    WHERE k.key_hash = ANY(%s) AND k.revoked_at IS NULL AND 'panel' = ANY(k.scopes)
"""
RECORD_USE = text("""
    UPDATE api_key SET last_used_at = now()
    WHERE key_hash = ANY(:hashes) AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
""")


@dataclass(frozen=True)
class KeyOwner:
    """The account of a key, and what the key may do."""

    account_id: int
    scopes: frozenset[str]


@dataclass(frozen=True)
class ApiKeySummary:
    """An API key as it is listed."""

    id: int
    prefix: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    last_used_at: datetime | None


class Panel(NamedTuple):
    """The account whose panel a key opens, and the Copper teams that may see it; None means everybody."""

    account_id: int
    visible_to_teams: list[int] | None


def create(session: Session, account_id: int, name: str, scopes: Sequence[str] = ("read",)) -> str:
    """Create an API key of the account and return it. It cannot be read again: only its hash is stored.

    `read` allows reading the records' invoices, `admin` the whole API, `panel` the panel in Copper and nothing else.
    """
    if not scopes or set(scopes) - set(SCOPES):
        raise ValueError(f"scopes are {', '.join(SCOPES)}")
    prefix = f"pat_{secrets.token_hex(4)}"
    key = f"{prefix}_{generate_token()}"
    params = {"account": account_id, "hash": digest(key), "prefix": prefix, "name": name, "scopes": list(scopes)}
    session.execute(INSERT, params)
    return key


def list_active(session: Session, account_id: int) -> list[ApiKeySummary]:
    """The account's keys that are not revoked, oldest first."""
    rows = session.execute(LIST_ACTIVE, {"account": account_id}).mappings()
    return [ApiKeySummary(**{**row, "scopes": tuple(row["scopes"])}) for row in rows]


def revoke(session: Session, account_id: int, key_id: int) -> str | None:
    """Revoke a key with immediate effect; returns its name, or None if the account has no such key."""
    name: str | None = session.execute(REVOKE, {"account": account_id, "key": key_id}).scalar_one_or_none()
    return name


def find_owner(session: Session, key: str) -> KeyOwner | None:
    """Whose a key is, if it exists and is not revoked."""
    row = session.execute(FIND_OWNER, {"hash": digest(key)}).one_or_none()
    return KeyOwner(row.account_id, frozenset(row.scopes)) if row else None


async def find_panels(connection: AsyncConnection[TupleRow], hashes: Sequence[bytes]) -> list[Panel | None]:
    """The panel that each key opens, in the order of `hashes`; None if a key is unknown, revoked or has no `panel`."""
    rows = await (await connection.execute(FIND_PANELS, (list(hashes),))).fetchall()
    panels = {bytes(key_hash): Panel(account_id, teams) for key_hash, account_id, teams in rows}
    return [panels.get(key_hash) for key_hash in hashes]


def record_use(session: Session, hashes: Sequence[bytes]) -> None:
    """Set the keys' time of last use, to the minute."""
    session.execute(RECORD_USE, {"hashes": list(hashes)})
