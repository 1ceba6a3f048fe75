"""Named admins: Copper users who may sign in as admins of an account without its API key."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.accounts import browser_sessions

MAX_NAME_LENGTH = 200

UPSERT = text("""
    INSERT INTO named_admin (account_id, user_id, name) VALUES (:account, :user, :name)
    ON CONFLICT (account_id, user_id) DO UPDATE SET name = EXCLUDED.name
""")
DELETE = text("DELETE FROM named_admin WHERE account_id = :account AND user_id = :user RETURNING name")
LIST_NAMES = text("SELECT user_id, name FROM named_admin WHERE account_id = :account ORDER BY name")


def add(session: Session, account_id: int, user_id: int, name: str) -> None:
    """Let a Copper user sign in as an admin of the account."""
    session.execute(UPSERT, {"account": account_id, "user": user_id, "name": name[:MAX_NAME_LENGTH]})


def remove(session: Session, account_id: int, user_id: int) -> str | None:
    """Remove a named admin and end their sessions; returns their name, or None if the user was not one."""
    params = {"account": account_id, "user": user_id}
    name: str | None = session.execute(DELETE, params).scalar_one_or_none()
    if name is not None:
        browser_sessions.end_all(session, account_id, user_id=user_id)
    return name


def list_names(session: Session, account_id: int) -> dict[int, str]:
    """The named admins' names by Copper user id."""
    return {row.user_id: row.name for row in session.execute(LIST_NAMES, {"account": account_id})}
