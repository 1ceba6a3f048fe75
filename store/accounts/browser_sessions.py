"""Browser sessions: created by a sign-in, ended by idleness, age or a person, and confirmed anew for some minutes.

Tokens are stored as hashes. A session ends when its row is deleted, so nothing has to be remembered about ended ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from runtime.settings import settings
from store.db.crypto import digest, generate_token
from store.db.database import execute_rowcount
from store.db.enums import SignInMethod, Surface

CONFIRMATION_SECONDS = 300
"""How long a sign-in or a confirmation counts as fresh."""
LAST_USED_PRECISION_SECONDS = 300
"""How exact the time of last use is: it is written at most this often."""
MAX_SESSIONS_PER_USER = 20
MAX_USER_NAME_LENGTH = 200
MAX_CLIENT_LENGTH = 60

INSERT = text("""
    INSERT INTO browser_session (account_id, token_hash, role, user_id, user_name, method, surface, client,
                                 confirmed_at, expires_at)
    VALUES (:account, :hash, :role, :user, :name, :method, :surface, :client, now(),
            now() + make_interval(secs => :seconds))
""")
DELETE_OLDEST = text("""
    DELETE FROM browser_session WHERE account_id = :account AND id IN (
        SELECT id FROM browser_session WHERE account_id = :account AND user_id = :user
        ORDER BY last_used_at DESC, id DESC OFFSET :max_sessions)
""")
IS_OPEN = "expires_at > now() AND last_used_at > now() - make_interval(secs => :idle)"
FIND = text(f"""
    SELECT s.account_id, a.name AS account_name, a.copper_account_id, s.id, s.role, s.user_id, s.user_name, s.method,
           coalesce(s.confirmed_at > now() - make_interval(secs => :confirmation_seconds), false) AS is_confirmed,
           s.last_used_at < now() - make_interval(secs => :precision_seconds) AS is_use_due, s.created_at,
           s.teams, s.teams_fetched_at
    FROM browser_session s JOIN account a ON a.id = s.account_id AND a.closed_at IS NULL
    WHERE s.token_hash = :hash AND {IS_OPEN}
""")
# Of two requests at once, one writes it: the second one finds it fresh.
RECORD_USE = text("""
    UPDATE browser_session SET last_used_at = now()
    WHERE account_id = :account AND id = :session AND last_used_at < now() - make_interval(secs => :precision_seconds)
""")
RENEW = text("""
    UPDATE browser_session
    SET token_hash = :new_hash, last_used_at = now(),
        confirmed_at = CASE WHEN :is_confirmed THEN now() ELSE confirmed_at END
    WHERE account_id = :account AND id = :session AND token_hash = :hash
""")
LIST_OPEN = text(f"""
    SELECT id, role, user_id, user_name, method, surface, client, created_at, last_used_at FROM browser_session
    WHERE account_id = :account AND (CAST(:user AS bigint) IS NULL OR user_id = :user) AND {IS_OPEN}
    ORDER BY last_used_at DESC, id DESC LIMIT :limit
""")
DELETE_BY_TOKEN = text("DELETE FROM browser_session WHERE token_hash = :hash")
DELETE = text("""
    DELETE FROM browser_session
    WHERE account_id = :account AND id = :session AND (CAST(:user AS bigint) IS NULL OR user_id = :user)
    RETURNING user_name, client
""")
DELETE_ALL = text("""
    DELETE FROM browser_session
    WHERE account_id = :account AND id IS DISTINCT FROM CAST(:except AS bigint)
      AND (CAST(:user AS bigint) IS NULL OR user_id = :user)
""")
SAVE_TEAMS = text("""
    UPDATE browser_session SET teams = :teams, teams_fetched_at = now() WHERE account_id = :account AND id = :session
""")
PURGE = text(f"DELETE FROM browser_session WHERE NOT ({IS_OPEN})")


@dataclass(frozen=True)
class BrowserSession:
    """A signed-in browser: its account and its user. An admin proved to be one with a Copper key.

    `is_confirmed`: the person proved their identity within the last five minutes. `teams` are the user's teams in
    Copper as of `teams_fetched_at`; None if they were not fetched yet.
    """

    account_id: int
    account_name: str
    copper_account_id: int
    id: int
    role: str
    user_id: int
    user_name: str
    method: SignInMethod
    created_at: datetime
    is_confirmed: bool
    teams: Sequence[int] | None = None
    teams_fetched_at: datetime | None = None

    @property
    def is_admin(self) -> bool:
        """Whether the user is an admin of the account."""
        return self.role == "admin"


@dataclass(frozen=True)
class SessionOrigin:
    """How and where a session is created. `client` names the type of browser, such as "Firefox on Linux"."""

    method: SignInMethod
    surface: Surface = Surface.PAGES
    client: str = ""


@dataclass(frozen=True)
class SessionSummary:
    """A session as it is listed; `last_used_at` is exact to five minutes."""

    id: int
    role: str
    user_id: int
    user_name: str
    method: SignInMethod
    surface: Surface
    client: str
    created_at: datetime
    last_used_at: datetime


def max_age_seconds() -> int:
    """The longest time that a session lasts, however much it is used."""
    return int(settings().session_max_age_days * 86_400)


def _idle_timeout_seconds() -> float:
    return settings().session_idle_timeout_hours * 3_600


def create(
    session: Session,
    account_id: int,
    role: str,
    user_id: int,
    user_name: str,
    origin: SessionOrigin,
    *,
    replaces: str | None = None,
) -> str:
    """Create a session and return its token for the browser's cookie; the session with the token `replaces` ends.

    A sign-in counts as a confirmation. A user has at most 20 sessions: the least recently used ones end.
    """
    if replaces is not None:
        end_by_token(session, replaces)
    token = generate_token()
    params = {
        "account": account_id,
        "hash": digest(token),
        "role": role,
        "user": user_id,
        "name": user_name[:MAX_USER_NAME_LENGTH],
        "method": origin.method.value,
        "surface": origin.surface.value,
        "client": origin.client[:MAX_CLIENT_LENGTH],
        "seconds": max_age_seconds(),
    }
    session.execute(INSERT, params)
    session.execute(DELETE_OLDEST, {"account": account_id, "user": user_id, "max_sessions": MAX_SESSIONS_PER_USER})
    return token


def find_by_token(session: Session, token: str, *, is_use: bool = True) -> BrowserSession | None:
    """The session of a cookie's token, or None if it ended; `is_use` restarts its idle time-out."""
    params = {
        "hash": digest(token),
        "idle": _idle_timeout_seconds(),
        "confirmation_seconds": CONFIRMATION_SECONDS,
        "precision_seconds": LAST_USED_PRECISION_SECONDS,
    }
    row = session.execute(FIND, params).one_or_none()
    if row is None:
        return None
    if is_use and row.is_use_due:
        session.execute(
            RECORD_USE,
            {"account": row.account_id, "session": row.id, "precision_seconds": LAST_USED_PRECISION_SECONDS},
        )
    return BrowserSession(
        account_id=row.account_id,
        account_name=row.account_name,
        copper_account_id=row.copper_account_id,
        id=row.id,
        role=row.role,
        user_id=row.user_id,
        user_name=row.user_name,
        method=SignInMethod(row.method),
        created_at=row.created_at,
        is_confirmed=row.is_confirmed,
        teams=row.teams,
        teams_fetched_at=row.teams_fetched_at,
    )


def renew(session: Session, account_id: int, session_id: int, token: str, *, is_confirmed: bool) -> str | None:
    """Replace the session's token, in case a thief has a copy of it; returns the new one.

    `is_confirmed` records that the person has just proved their identity. None if the session ended, or was renewed
    by another request, in the meantime.
    """
    new_token = generate_token()
    params = {
        "account": account_id,
        "session": session_id,
        "hash": digest(token),
        "new_hash": digest(new_token),
        "is_confirmed": is_confirmed,
    }
    return new_token if execute_rowcount(session, RENEW, params) else None


def list_open(session: Session, account_id: int, *, user_id: int | None = None, limit: int) -> list[SessionSummary]:
    """At most `limit` of the account's sessions (with `user_id`: of one user), the most recently used first."""
    params = {"account": account_id, "user": user_id, "idle": _idle_timeout_seconds(), "limit": limit}
    return [
        SessionSummary(**{**row, "method": SignInMethod(row["method"]), "surface": Surface(row["surface"])})
        for row in session.execute(LIST_OPEN, params).mappings()
    ]


def end_by_token(session: Session, token: str) -> None:
    """End the session of a cookie's token."""
    session.execute(DELETE_BY_TOKEN, {"hash": digest(token)})


def end(session: Session, account_id: int, session_id: int, *, user_id: int | None = None) -> str | None:
    """End a session of the account (with `user_id`: only one of that user); returns its user and client, or None."""
    row = session.execute(DELETE, {"account": account_id, "session": session_id, "user": user_id}).one_or_none()
    return None if row is None else ", ".join(filter(None, row))


def end_all(session: Session, account_id: int, *, except_id: int | None = None, user_id: int | None = None) -> int:
    """End the account's sessions (with `user_id`: those of one user) except `except_id`; returns how many ended."""
    return execute_rowcount(session, DELETE_ALL, {"account": account_id, "except": except_id, "user": user_id})


def save_teams(session: Session, account_id: int, session_id: int, teams: Sequence[int]) -> None:
    """Store the teams that Copper has just returned for a signed-in user."""
    session.execute(SAVE_TEAMS, {"account": account_id, "session": session_id, "teams": list(teams)})


def purge(session: Session) -> int:
    """Delete the expired and idle sessions of all accounts; returns how many."""
    return execute_rowcount(session, PURGE, {"idle": _idle_timeout_seconds()})
