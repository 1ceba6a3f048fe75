"""Who may look: the panel's token says whose account it is; where teams are chosen, Copper says who is on one.

What the App SDK claims about the user is never asked: it comes from the browser.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from fastapi import Request

from store import access, accounts, browser_sessions
from store.browser_sessions import BrowserSession
from store.database import bound, transaction
from store.secrets import digest
from web import browser, throttle
from worker.budget import Purpose
from worker.copper.client import connected
from worker.errors import NotThereError, VendorError

log = structlog.get_logger()
TEAMS_FRESH = timedelta(minutes=10)


class NoViewerError(Exception):
    """Nobody may look yet; `sign_in` says whether signing in with Copper may help."""

    def __init__(self, said: str, *, sign_in: bool = False, status: int = 403) -> None:
        super().__init__(said)
        self.said = said
        self.sign_in = sign_in
        self.status = status


@dataclass(frozen=True)
class Viewer:
    """Somebody who may look at an account's invoices."""

    account_id: int
    token: str


def token_of(request: Request) -> str:
    """The panel's token, from the page's address or a header; '' when there is none."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else request.query_params.get("token", "")


def account_of(request: Request) -> int:
    """Whose panel this is; raises `NoViewerError` for a token that is unknown or revoked."""
    token = token_of(request)
    throttle.api(request, digest(token))
    with transaction() as session:
        account_id = access.account_of_key(session, token, ["panel"]) if token else None
    if account_id is None:
        raise NoViewerError(
            "This panel URL is no longer valid. Ask an admin to create a new one in Patina under API keys.",
            status=401,
        )
    return account_id


def viewer(request: Request) -> Viewer:
    """Who looks, if they may; raises `NoViewerError` that says what is missing."""
    account_id = account_of(request)
    with bound(account_id) as session:
        teams = accounts.choices(session, account_id).visible_to_teams
    if teams is not None:
        _check_teams(request, account_id, set(teams))
    return Viewer(account_id, token_of(request))


def _check_teams(request: Request, account_id: int, teams: set[int]) -> None:
    who = browser.panel_session(request)
    if who is None or who.account_id != account_id:
        raise NoViewerError(
            "Invoices are visible to certain teams only. Sign in with Copper to continue.", sign_in=True, status=401
        )
    with bound(account_id) as session:
        named = access.named_admins(session, account_id)
    if who.user_id in named or teams & _teams(who):
        return
    raise NoViewerError(
        f"Invoices are visible to certain teams only, and you ({who.user_name}) aren't a member of any of them."
    )


def _teams(who: BrowserSession) -> set[int]:
    """The user's teams as Copper told them, ten minutes ago at most; raises `NoViewerError` when it cannot be asked."""
    if who.teams is not None and who.teams_at and datetime.now(UTC) - who.teams_at < TEAMS_FRESH:
        return set(who.teams)
    try:
        user = connected(who.account_id, Purpose.PERSON).user(who.user_id)
    except NotThereError:
        raise NoViewerError("Your Copper user no longer exists.") from None
    except VendorError as error:
        log.info("teams.unread", account=who.account_id, error=type(error).__name__)
        said = "We can't check your Copper teams right now. Retrying automatically."
        raise NoViewerError(said, status=503) from None
    teams = [team.id for team in user.groups]
    with bound(who.account_id) as session:
        browser_sessions.save_teams(session, who.account_id, who.id, teams)
    return set(teams)
