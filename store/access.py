"""Who may come in: API keys, sign-ins on their way, named admins. Secrets are kept as hashes."""

from __future__ import annotations

import secrets as randomness
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from sqlalchemy import text
from sqlmodel import Session

from store import browser_sessions
from store.database import touched
from store.secrets import digest, fresh_token, seal, unseal
from store.tenancy import IS_WRITABLE

SCOPES = ("read", "admin", "panel")
MAX_KEY_NAME = 100
STATE_SECONDS = 600
# What waits for browsers to come back is bounded: beyond this the oldest go. Anybody may begin a sign-in.
MAX_STATES_OF_BROWSER, MAX_STATES_OF_ACCOUNT, MAX_STATES_OF_ANYBODY = 20, 500, 10_000
ANYBODY = 0

SAVE_KEY = text("""
    INSERT INTO api_key (account_id, key_hash, prefix, name, scopes)
    VALUES (:account, :hash, :prefix, :name, :scopes)
""")
KEYS = text("""
    SELECT id, prefix, name, scopes, created_at, last_used_at FROM api_key
    WHERE account_id = :account AND revoked_at IS NULL ORDER BY id
""")
REVOKE_KEY = text("""
    UPDATE api_key SET revoked_at = now() WHERE account_id = :account AND id = :key AND revoked_at IS NULL
    RETURNING name
""")
ACCOUNT_OF_KEY = text("""
    SELECT account_id FROM api_key WHERE key_hash = :hash AND revoked_at IS NULL AND scopes && CAST(:scopes AS text[])
""")
PANELS = """
    SELECT k.key_hash, k.account_id, a.visible_to_teams FROM api_key k JOIN account a ON a.id = k.account_id
    WHERE k.key_hash = ANY(%s) AND k.revoked_at IS NULL AND 'panel' = ANY(k.scopes)
"""
USE_KEYS = text("""
    UPDATE api_key SET last_used_at = now()
    WHERE key_hash = ANY(:hashes) AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
""")
SAVE_STATE = text(f"""
    INSERT INTO oauth_state (account_id, state_hash, purpose, browser_hash, sealed, expires_at)
    SELECT CAST(:account AS bigint), CAST(:state AS bytea), CAST(:purpose AS text), CAST(:browser AS bytea),
           CAST(:sealed AS bytea), now() + make_interval(secs => :seconds)
    WHERE {IS_WRITABLE}
""")
BOUND_STATES = text("""
    DELETE FROM oauth_state WHERE account_id = :account AND state_hash = ANY(ARRAY(
        (SELECT state_hash FROM oauth_state WHERE account_id = :account AND browser_hash = :browser
         ORDER BY expires_at DESC OFFSET :most_of_browser)
        UNION ALL
        (SELECT state_hash FROM oauth_state WHERE account_id = :account ORDER BY expires_at DESC OFFSET :most)))
""")
# The row stays the browser's: only under another name, and with what came back.
PASS_ON_STATE = text("""
    UPDATE oauth_state SET state_hash = :ticket, purpose = :purpose, sealed = :sealed
    WHERE account_id = :account AND state_hash = :state
""")
STATE_LOCKED = text("""
    SELECT purpose, sealed FROM oauth_state
    WHERE account_id = :account AND state_hash = :state AND expires_at > now() FOR UPDATE
""")
# Taken by deleting it: a state works once, whatever comes of it.
TAKE_STATE = text("""
    DELETE FROM oauth_state WHERE account_id = :account AND state_hash = :state
    RETURNING purpose, browser_hash, sealed, expires_at > now() AS fresh
""")
PURGE_STATES = text("DELETE FROM oauth_state WHERE expires_at < now()")
NAME_ADMIN = text("""
    INSERT INTO named_admin (account_id, user_id, name) VALUES (:account, :user, :name)
    ON CONFLICT (account_id, user_id) DO UPDATE SET name = EXCLUDED.name
""")
UNNAME_ADMIN = text("DELETE FROM named_admin WHERE account_id = :account AND user_id = :user RETURNING name")
NAMED = text("SELECT user_id, name FROM named_admin WHERE account_id = :account ORDER BY name")


@dataclass(frozen=True)
class KeySummary:
    """An API key as it is listed."""

    id: int
    prefix: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    last_used_at: datetime | None


@dataclass(frozen=True)
class TakenState:
    """What was kept for a browser that was sent to a vendor, and what is wrong with its return. Never logged."""

    problem: str | None
    purpose: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"TakenState({self.purpose!r})"

    def checked(self, purpose: str) -> dict[str, Any]:
        """The values, if they were kept for `purpose` and all is right; raises `StateError` otherwise."""
        if self.problem is None and self.purpose != purpose:
            raise StateError("this sign-in was begun for something else")
        if self.problem is not None:
            raise StateError(self.problem)
        return self.values


class StateError(Exception):
    """The state that came back is unknown, used, too old, or another browser's."""


def make_key(session: Session, account_id: int, name: str, scopes: Sequence[str] = ("read",)) -> str:
    """A new API key of the account, returned this once: only its hash is kept.

    `read` opens the records' invoices, `admin` all of the API, `panel` the panel in Copper and nothing else.
    """
    if not scopes or set(scopes) - set(SCOPES):
        raise ValueError(f"scopes are {', '.join(SCOPES)}")
    prefix = f"pat_{randomness.token_hex(4)}"
    key = f"{prefix}_{fresh_token()}"
    chosen = {"account": account_id, "hash": digest(key), "prefix": prefix, "name": name, "scopes": list(scopes)}
    session.execute(SAVE_KEY, chosen)
    return key


def keys(session: Session, account_id: int) -> list[KeySummary]:
    """The account's keys that are not revoked, oldest first."""
    rows = session.execute(KEYS, {"account": account_id})
    return [KeySummary(row[0], row[1], row[2], tuple(row[3]), row[4], row[5]) for row in rows]


def revoke_key(session: Session, account_id: int, key_id: int) -> str | None:
    """Revoke a key at once; returns its name, or None when the account has no such key."""
    name: str | None = session.execute(REVOKE_KEY, {"account": account_id, "key": key_id}).scalar_one_or_none()
    return name


def account_of_key(session: Session, key: str, scopes: Sequence[str]) -> int | None:
    """Whose key this is, if it has one of `scopes` and is not revoked."""
    found: int | None = session.execute(
        ACCOUNT_OF_KEY, {"hash": digest(key), "scopes": list(scopes)}
    ).scalar_one_or_none()
    return found


class Panel(NamedTuple):
    """Whose panel a key opens, and the Copper teams that may look; None where everybody may."""

    account_id: int
    visible_to_teams: list[int] | None


async def panels(connection: AsyncConnection[TupleRow], hashes: Sequence[bytes]) -> list[Panel | None]:
    """What each of the keys' digests opens, in that order; None for one that is unknown, revoked, or no panel's."""
    rows = await (await connection.execute(PANELS, (list(hashes),))).fetchall()
    by_hash = {bytes(key_hash): Panel(account_id, teams) for key_hash, account_id, teams in rows}
    return [by_hash.get(key_hash) for key_hash in hashes]


def used_keys(session: Session, hashes: Sequence[bytes]) -> None:
    """Note that keys were used, to the minute."""
    session.execute(USE_KEYS, {"hashes": list(hashes)})


def save_state(session: Session, account_id: int, state: str, purpose: str, browser: str, values: Any) -> None:
    """Keep what belongs to a browser that is sent to a vendor, for ten minutes; account 0 is a sign-in.

    Beyond so many of one browser, or of one account, the oldest are dropped.
    """
    chosen = {
        "account": account_id,
        "state": digest(state),
        "purpose": purpose,
        "browser": digest(browser),
        "sealed": seal(values),
        "seconds": STATE_SECONDS,
    }
    session.execute(SAVE_STATE, chosen)
    most = MAX_STATES_OF_ACCOUNT if account_id != ANYBODY else MAX_STATES_OF_ANYBODY
    bounds = {"most_of_browser": MAX_STATES_OF_BROWSER, "most": most}
    session.execute(BOUND_STATES, {"account": account_id, "browser": chosen["browser"], **bounds})


def pass_on_state(session: Session, state: str, ticket: str, purpose: str, came_back: dict[str, str]) -> bool:
    """Keep what came back for a state of a sign-in under a ticket instead, for the same browser and no longer.

    Returns False when there is no such state: then nothing is kept.
    """
    params = {"account": ANYBODY, "state": digest(state)}
    row = session.execute(STATE_LOCKED, params).one_or_none()
    if row is None:
        return False
    sealed = seal({**came_back, "purpose": row.purpose, "values": unseal(row.sealed)})
    session.execute(PASS_ON_STATE, {**params, "ticket": digest(ticket), "purpose": purpose, "sealed": sealed})
    return True


def take_state(session: Session, account_id: int, state: str, browser: str) -> TakenState:
    """What was kept under a state, once: whatever is wrong (see `checked`), it is used up with the commit."""
    row = session.execute(TAKE_STATE, {"account": account_id, "state": digest(state)}).one_or_none()
    if row is None:
        return TakenState("this sign-in was not begun here, or it was finished already")
    if not row.fresh:
        return TakenState("this sign-in took longer than ten minutes")
    if not randomness.compare_digest(bytes(row.browser_hash), digest(browser)):
        return TakenState("this sign-in was begun in another browser")
    return TakenState(None, row.purpose, unseal(row.sealed))


def purge_states(session: Session) -> int:
    """Delete states whose time is over; returns how many went."""
    return touched(session, PURGE_STATES, {})


def name_admin(session: Session, account_id: int, user_id: int, name: str) -> None:
    """Let a Copper user sign in as an admin of the account."""
    session.execute(NAME_ADMIN, {"account": account_id, "user": user_id, "name": name[:200]})


def unname_admin(session: Session, account_id: int, user_id: int) -> str | None:
    """Take that back, and end the user's sessions; returns their name, or None when they were not named."""
    chosen = {"account": account_id, "user": user_id}
    name: str | None = session.execute(UNNAME_ADMIN, chosen).scalar_one_or_none()
    if name is not None:
        browser_sessions.end_others(session, account_id, user_id=user_id)
    return name


def named_admins(session: Session, account_id: int) -> dict[int, str]:
    """The named admins' names by user id."""
    return {row.user_id: row.name for row in session.execute(NAMED, {"account": account_id})}
