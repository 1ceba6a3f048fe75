"""OAuth state: what is stored for a browser while it is away at a vendor. A state works once, for ten minutes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.crypto import decrypt, digest, encrypt
from store.db.database import execute_rowcount
from store.db.tenancy import IS_WRITABLE

MAX_AGE_SECONDS = 600
# Anybody may start a sign-in, so the stored states are bounded: beyond these numbers the oldest are deleted.
MAX_PER_BROWSER, MAX_PER_ACCOUNT, MAX_WITHOUT_ACCOUNT = 20, 500, 10_000
NO_ACCOUNT = 0
"""The account id of a sign-in: the account is known only after it."""

INSERT = text(f"""
    INSERT INTO oauth_state (account_id, state_hash, purpose, browser_hash, encrypted_payload, expires_at)
    SELECT CAST(:account AS bigint), CAST(:state AS bytea), CAST(:purpose AS text), CAST(:browser AS bytea),
           CAST(:encrypted_payload AS bytea), now() + make_interval(secs => :seconds)
    WHERE {IS_WRITABLE}
""")
DELETE_OLDEST = text("""
    DELETE FROM oauth_state WHERE account_id = :account AND state_hash = ANY(ARRAY(
        (SELECT state_hash FROM oauth_state WHERE account_id = :account AND browser_hash = :browser
         ORDER BY expires_at DESC OFFSET :max_of_browser)
        UNION ALL
        (SELECT state_hash FROM oauth_state WHERE account_id = :account ORDER BY expires_at DESC OFFSET :max_states)))
""")
# The row keeps its browser and its expiry; only the name that finds it and the stored values change.
ISSUE_TICKET = text("""
    UPDATE oauth_state SET state_hash = :ticket, purpose = :purpose, encrypted_payload = :encrypted_payload
    WHERE account_id = :account AND state_hash = :state
""")
SELECT_FOR_UPDATE = text("""
    SELECT purpose, encrypted_payload FROM oauth_state
    WHERE account_id = :account AND state_hash = :state AND expires_at > now() FOR UPDATE
""")
# Consuming deletes the row, so a state works once, whatever the outcome.
CONSUME = text("""
    DELETE FROM oauth_state WHERE account_id = :account AND state_hash = :state
    RETURNING purpose, browser_hash, encrypted_payload, expires_at > now() AS is_valid
""")
PURGE = text("DELETE FROM oauth_state WHERE expires_at < now()")


class OAuthStateError(Exception):
    """The returned state is unknown, used, expired, or belongs to another browser."""


@dataclass(frozen=True)
class OAuthState:
    """What was stored for a browser that was sent to a vendor, and what is wrong with its return. Never logged."""

    problem: str | None
    purpose: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"OAuthState({self.purpose!r})"

    def verify(self, purpose: str) -> dict[str, Any]:
        """Return the stored values; raises `OAuthStateError` if there is a problem or they have another purpose."""
        if self.problem is None and self.purpose != purpose:
            raise OAuthStateError("this sign-in was started for another purpose")
        if self.problem is not None:
            raise OAuthStateError(self.problem)
        return self.values


def save(session: Session, account_id: int, state: str, purpose: str, browser: str, values: Any) -> None:
    """Store `values` for a browser that is sent to a vendor, for ten minutes; a sign-in has the account `NO_ACCOUNT`.

    Beyond the maximum number of one browser or of one account, the oldest states are deleted.
    """
    browser_hash = digest(browser)
    params = {
        "account": account_id,
        "state": digest(state),
        "purpose": purpose,
        "browser": browser_hash,
        "encrypted_payload": encrypt(values),
        "seconds": MAX_AGE_SECONDS,
    }
    session.execute(INSERT, params)
    max_states = MAX_PER_ACCOUNT if account_id != NO_ACCOUNT else MAX_WITHOUT_ACCOUNT
    bounds = {"max_of_browser": MAX_PER_BROWSER, "max_states": max_states}
    session.execute(DELETE_OLDEST, {"account": account_id, "browser": browser_hash, **bounds})


def issue_ticket(session: Session, state: str, ticket: str, purpose: str, callback_params: dict[str, str]) -> bool:
    """Replace a sign-in's state by a ticket of the same browser and expiry that also holds `callback_params`.

    Returns False, and stores nothing, if there is no such state.
    """
    params = {"account": NO_ACCOUNT, "state": digest(state)}
    row = session.execute(SELECT_FOR_UPDATE, params).one_or_none()
    if row is None:
        return False
    encrypted = encrypt({**callback_params, "purpose": row.purpose, "values": decrypt(row.encrypted_payload)})
    session.execute(
        ISSUE_TICKET, {**params, "ticket": digest(ticket), "purpose": purpose, "encrypted_payload": encrypted}
    )
    return True


def consume(session: Session, account_id: int, state: str, browser: str) -> OAuthState:
    """Return what was stored under a state and delete it. The commit uses it up even if it has a problem."""
    row = session.execute(CONSUME, {"account": account_id, "state": digest(state)}).one_or_none()
    if row is None:
        return OAuthState("this sign-in was not started here, or is already finished")
    if not row.is_valid:
        return OAuthState("this sign-in took longer than ten minutes")
    if not secrets.compare_digest(bytes(row.browser_hash), digest(browser)):
        return OAuthState("this sign-in was started in another browser")
    return OAuthState(None, row.purpose, decrypt(row.encrypted_payload))


def purge(session: Session) -> int:
    """Delete expired states; returns how many."""
    return execute_rowcount(session, PURGE, {})
