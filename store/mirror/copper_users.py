"""The names of an account's Copper users, for the owners of records."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

REFRESH_SECONDS = 3_600.0

# A name that Copper leaves out stays as it was.
REPLACE = text("""
    WITH incoming AS (
        SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:names AS text[])) AS u(user_id, name)),
    removed AS (
        DELETE FROM copper_user u WHERE u.account_id = :account AND u.fetched_at <= :fetched_at
          AND NOT EXISTS (SELECT FROM incoming i WHERE i.user_id = u.user_id))
    INSERT INTO copper_user AS old (account_id, user_id, name, fetched_at)
    SELECT :account, user_id, name, :fetched_at FROM incoming ORDER BY user_id
    ON CONFLICT (account_id, user_id) DO UPDATE SET
        name = coalesce(nullif(EXCLUDED.name, ''), old.name), fetched_at = EXCLUDED.fetched_at
    WHERE old.fetched_at <= EXCLUDED.fetched_at
""")
FIND_NAME = text("SELECT name FROM copper_user WHERE account_id = :account AND user_id = :user")
ARE_DUE = text("""
    SELECT coalesce(max(fetched_at) <= now() - make_interval(secs => :seconds), true)
    FROM copper_user WHERE account_id = :account
""")


def replace_users(session: Session, account_id: int, names: Mapping[int, str], fetched_at: datetime) -> None:
    """Store the names of all users by id, as a fetch begun at `fetched_at` returned them, and delete other users.

    An empty response changes nothing: every account has a user, so it is an error of Copper's.
    """
    if names:
        params = {"account": account_id, "ids": list(names), "names": list(names.values()), "fetched_at": fetched_at}
        session.execute(REPLACE, params)


def are_due(session: Session, account_id: int) -> bool:
    """Whether the users were not fetched within an hour."""
    params = {"account": account_id, "seconds": REFRESH_SECONDS}
    return bool(session.execute(ARE_DUE, params).scalar_one())


def find_name(session: Session, account_id: int, user_id: int) -> str | None:
    """The name of a user; None if it is unknown."""
    name: str | None = session.execute(FIND_NAME, {"account": account_id, "user": user_id}).scalar_one_or_none()
    return name
