"""Access to an account: API keys and browser sessions. Each change has its audit entry in the same transaction."""

from __future__ import annotations

from collections.abc import Collection

from runtime.numbers import count_noun
from store.accounts import api_keys, audit, browser_sessions
from store.accounts.audit import COMMAND_LINE
from store.db.database import Session, account_transaction


def create_key(account_id: int, name: str, scopes: Collection[str] = ("read",), *, actor: str = COMMAND_LINE) -> str:
    """Create an API key for the account and return its secret, which is not stored in clear text."""
    with account_transaction(account_id) as session:
        return add_key(session, account_id, name, scopes, actor=actor)


def add_key(session: Session, account_id: int, name: str, scopes: Collection[str], *, actor: str) -> str:
    """Create an API key in the caller's transaction; otherwise like `create_key`."""
    key = api_keys.create(session, account_id, name, list(scopes))
    audit.record(session, account_id, actor, "key.created", f"{name} ({', '.join(scopes)})")
    return key


def revoke_key(account_id: int, key_id: int, *, actor: str) -> str | None:
    """Revoke a key, whose next request is refused; returns its name, or None if the account has no such key."""
    with account_transaction(account_id) as session:
        name = api_keys.revoke(session, account_id, key_id)
        if name is not None:
            audit.record(session, account_id, actor, "key.revoked", name)
    return name


def end_session(account_id: int, session_id: int, *, actor: str, user_id: int | None = None) -> str | None:
    """End a browser session, whose next request is not signed in; returns its user's name, or None if there is none.

    With `user_id`, only a session of that user.
    """
    with account_transaction(account_id) as session:
        user_name = browser_sessions.end(session, account_id, session_id, user_id=user_id)
        if user_name is not None:
            audit.record(session, account_id, actor, "session.ended", user_name)
    return user_name


def end_sessions(account_id: int, *, actor: str, except_id: int | None = None, user_id: int | None = None) -> int:
    """End all browser sessions of the account, or of one user, but `except_id`; returns how many there were."""
    with account_transaction(account_id) as session:
        count = browser_sessions.end_all(session, account_id, except_id=except_id, user_id=user_id)
        if count:
            audit.record(session, account_id, actor, "sessions.ended", count_noun(count, "session"))
    return count
