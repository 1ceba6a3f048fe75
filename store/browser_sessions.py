"""Browser sessions: opened by a sign-in, ended by idleness, age or a person; for some minutes confirmed anew.

Tokens are kept as hashes. A session ends by its row's deletion, so nothing of an ended one has to be remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlmodel import Session

from runtime.settings import settings
from store.database import touched
from store.models import SignInMethod, Surface
from store.secrets import digest, fresh_token

CONFIRMED_SECONDS = 300
"""How long a sign-in or a confirmation counts as fresh."""
USE_SECONDS = 300
"""How exactly the last use is known: so often it is written at most."""
MAX_SESSIONS_OF_USER = 20
MAX_CLIENT = 60

OPEN = text("""
    INSERT INTO web_session (account_id, token_hash, role, user_id, user_name, method, surface, client, confirmed_at,
                             expires_at)
    VALUES (:account, :hash, :role, :user, :name, :method, :surface, :client, now(),
            now() + make_interval(secs => :seconds))
""")
END_OLDEST = text("""
    DELETE FROM web_session WHERE account_id = :account AND id IN (
        SELECT id FROM web_session WHERE account_id = :account AND user_id = :user
        ORDER BY used_at DESC, id DESC OFFSET :most)
""")
IS_OPEN = "expires_at > now() AND used_at > now() - make_interval(secs => :idle)"
FIND = text(f"""
    SELECT s.account_id, a.name, a.copper_account_id, s.id, s.role, s.user_id, s.user_name, s.method,
           coalesce(s.confirmed_at > now() - make_interval(secs => :fresh), false) AS is_confirmed,
           s.used_at < now() - make_interval(secs => :use_seconds) AS is_use_due, s.created_at, s.teams, s.teams_at
    FROM web_session s JOIN account a ON a.id = s.account_id AND a.closed_at IS NULL
    WHERE s.token_hash = :hash AND {IS_OPEN}
""")
# Two requests at once write it once: the second one finds it fresh.
USE = text("""
    UPDATE web_session SET used_at = now()
    WHERE account_id = :account AND id = :session AND used_at < now() - make_interval(secs => :use_seconds)
""")
RENEW = text("""
    UPDATE web_session
    SET token_hash = :fresh, used_at = now(), confirmed_at = CASE WHEN :is_confirmed THEN now() ELSE confirmed_at END
    WHERE account_id = :account AND id = :session AND token_hash = :hash
""")
LIST = text(f"""
    SELECT id, role, user_id, user_name, method, surface, client, created_at, used_at FROM web_session
    WHERE account_id = :account AND (CAST(:user AS bigint) IS NULL OR user_id = :user) AND {IS_OPEN}
    ORDER BY used_at DESC, id DESC LIMIT :limit
""")
END_OF_TOKEN = text("DELETE FROM web_session WHERE token_hash = :hash")
END = text("""
    DELETE FROM web_session
    WHERE account_id = :account AND id = :session AND (CAST(:user AS bigint) IS NULL OR user_id = :user)
    RETURNING user_name, client
""")
END_OTHERS = text("""
    DELETE FROM web_session
    WHERE account_id = :account AND id IS DISTINCT FROM CAST(:kept AS bigint)
      AND (CAST(:user AS bigint) IS NULL OR user_id = :user)
""")
SAVE_TEAMS = text("""
    UPDATE web_session SET teams = :teams, teams_at = now() WHERE account_id = :account AND id = :session
""")
PURGE = text(f"DELETE FROM web_session WHERE NOT ({IS_OPEN})")


@dataclass(frozen=True)
class BrowserSession:
    """A signed-in browser: whose account, and who sits in front of it. An admin proved it with a Copper key.

    `is_confirmed` says that the person proved who they are within the last five minutes. `teams` are the user's in
    Copper as of `teams_at`; None when nobody asked yet.
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
    teams_at: datetime | None = None

    @property
    def is_admin(self) -> bool:
        """Whether this is an admin of the account."""
        return self.role == "admin"


@dataclass(frozen=True)
class SessionOrigin:
    """How and where a session begins. `client` names the kind of browser, such as "Firefox on Linux"."""

    method: SignInMethod
    surface: Surface = Surface.PAGES
    client: str = ""


@dataclass(frozen=True)
class SessionSummary:
    """A session as it is listed; `used_at` is exact to five minutes."""

    id: int
    role: str
    user_id: int
    user_name: str
    method: SignInMethod
    surface: Surface
    client: str
    created_at: datetime
    used_at: datetime


def max_seconds() -> int:
    """Seconds that a session lasts at most, however much it is used."""
    return int(settings().session_days * 86_400)


def _idle_seconds() -> float:
    return settings().session_idle_hours * 3_600


def open_session(
    session: Session,
    account_id: int,
    role: str,
    user_id: int,
    user_name: str,
    origin: SessionOrigin,
    *,
    replaces: str | None = None,
) -> str:
    """Open a session and return its token, for the browser's cookie; the one with the token `replaces` ends.

    Signing in is a confirmation. A user has 20 sessions at most: beyond that those unused for longest end.
    """
    if replaces is not None:
        end_of_token(session, replaces)
    token = fresh_token()
    params = {
        "account": account_id,
        "hash": digest(token),
        "role": role,
        "user": user_id,
        "name": user_name[:200],
        "method": origin.method.value,
        "surface": origin.surface.value,
        "client": origin.client[:MAX_CLIENT],
        "seconds": max_seconds(),
    }
    session.execute(OPEN, params)
    session.execute(END_OLDEST, {"account": account_id, "user": user_id, "most": MAX_SESSIONS_OF_USER})
    return token


def of_token(session: Session, token: str, *, is_use: bool = True) -> BrowserSession | None:
    """The session of a cookie's token, or None when it ended; `is_use` postpones its idle time-out."""
    params = {"hash": digest(token), "idle": _idle_seconds(), "fresh": CONFIRMED_SECONDS, "use_seconds": USE_SECONDS}
    row = session.execute(FIND, params).mappings().one_or_none()
    if row is None:
        return None
    if is_use and row["is_use_due"]:
        session.execute(USE, {"account": row["account_id"], "session": row["id"], "use_seconds": USE_SECONDS})
    return BrowserSession(
        account_id=row["account_id"],
        account_name=row["name"],
        copper_account_id=row["copper_account_id"],
        id=row["id"],
        role=row["role"],
        user_id=row["user_id"],
        user_name=row["user_name"],
        method=SignInMethod(row["method"]),
        created_at=row["created_at"],
        is_confirmed=row["is_confirmed"],
        teams=row["teams"],
        teams_at=row["teams_at"],
    )


def renew(session: Session, account_id: int, session_id: int, token: str, *, is_confirmed: bool) -> str | None:
    """Replace the session's token, of which a thief may have a copy; returns the new one.

    `is_confirmed` notes that the person has just proved who they are. None when the session ended, or was renewed by
    another request, in the meantime.
    """
    fresh = fresh_token()
    params = {
        "account": account_id,
        "session": session_id,
        "hash": digest(token),
        "fresh": digest(fresh),
        "is_confirmed": is_confirmed,
    }
    return fresh if touched(session, RENEW, params) else None


def open_sessions(session: Session, account_id: int, *, user_id: int | None = None, limit: int) -> list[SessionSummary]:
    """The account's sessions (with `user_id`: those of one user), the last used first, `limit` at most."""
    params = {"account": account_id, "user": user_id, "idle": _idle_seconds(), "limit": limit}
    return [
        SessionSummary(**{**row, "method": SignInMethod(row["method"]), "surface": Surface(row["surface"])})
        for row in session.execute(LIST, params).mappings()
    ]


def end_of_token(session: Session, token: str) -> None:
    """End the session of a cookie's token."""
    session.execute(END_OF_TOKEN, {"hash": digest(token)})


def end(session: Session, account_id: int, session_id: int, *, user_id: int | None = None) -> str | None:
    """End a session of the account (with `user_id`: of that user alone); returns whose it was, None without one."""
    row = session.execute(END, {"account": account_id, "session": session_id, "user": user_id}).one_or_none()
    return None if row is None else ", ".join(filter(None, row))


def end_others(session: Session, account_id: int, *, kept_id: int | None = None, user_id: int | None = None) -> int:
    """End all sessions of the account but `kept_id` (with `user_id`: of that user alone); returns how many ended."""
    return touched(session, END_OTHERS, {"account": account_id, "kept": kept_id, "user": user_id})


def save_teams(session: Session, account_id: int, session_id: int, teams: Sequence[int]) -> None:
    """Keep the teams that Copper just told of a signed-in user."""
    session.execute(SAVE_TEAMS, {"account": account_id, "session": session_id, "teams": list(teams)})


def purge(session: Session) -> int:
    """Delete the sessions of all accounts that are idle or over; returns how many went."""
    return touched(session, PURGE, {"idle": _idle_seconds()})
