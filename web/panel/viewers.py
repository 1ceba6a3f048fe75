"""Who may look: the panel's token says whose account it is; where teams are chosen, Copper says who is on one.

What the App SDK claims about the user is never asked: it comes from the browser.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from fastapi import Request

from store import access, browser_sessions
from store.access import Panel
from store.browser_sessions import BrowserSession
from store.database import Pool, bound
from store.secrets import digest
from store.sharing import Shared
from web import browser, throttle
from web.client_address import address_of, network_of
from web.concurrency import BusyError, Capacity
from web.panel.held_requests import Holder
from worker import vendor
from worker.budget import Purpose
from worker.copper.client import connected
from worker.errors import NotThereError, VendorError

log = structlog.get_logger()
PANELS_AT_ONCE = 64
TEAMS_FRESH = timedelta(minutes=10)
UNCHECKED = "We can't check your Copper teams right now. Retrying automatically."
UNCHECKED_RETRY_SECONDS = 5


class NoViewerError(Exception):
    """Nobody may look yet; `sign_in` says whether signing in with Copper may help."""

    def __init__(self, said: str, *, sign_in: bool = False, status: int = 403, retry_after: int | None = None) -> None:
        super().__init__(said)
        self.said = said
        self.sign_in = sign_in
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Viewer:
    """Somebody who may look at an account's invoices."""

    account_id: int
    token: str


def token_of(request: Request) -> str:
    """The panel's token, from the page's address or a header; '' when there is none."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else request.query_params.get("token", "")


def viewer_holder(request: Request) -> Holder:
    """Who asks, as far as it can be told without a look-up: the browser by its panel session, else the address."""
    session = browser.panel_token(request)
    return Holder.of("session" if session else "address", viewer_name(request))


def viewer_name(request: Request) -> str:
    """The same as a text: a token of ours, or an address."""
    return browser.panel_token(request) or network_of(address_of(request))


def shared_panels(pool: Pool) -> Shared[bytes, Panel | None]:
    """What looks up the panels of one web process, by their tokens' digests."""
    return Shared(pool, access.panels, most=PANELS_AT_ONCE)


async def panel_of(request: Request) -> Panel:
    """Whose panel this is; raises `NoViewerError` for a token that is unknown or revoked."""
    token = token_of(request)
    # Everybody at a customer has the same token: its holders are counted each by themselves.
    key = digest(f"{token} {viewer_name(request)}")
    throttle.api(request, key)
    panel: Panel | None = await request.app.state.panels.ask(digest(token)) if token else None
    if panel is None:
        raise NoViewerError(
            "This panel URL is no longer valid. Ask an admin to create a new one in Patina under API keys.",
            status=401,
        )
    throttle.known_key(key)
    return panel


async def viewer(request: Request) -> Viewer:
    """Who looks, if they may; raises `NoViewerError` that says what is missing, `BusyError` without a place."""
    panel, token = await panel_of(request), token_of(request)
    if panel.visible_to_teams is None:
        return Viewer(panel.account_id, token)
    capacity: Capacity = request.app.state.capacity
    teams = set(panel.visible_to_teams)
    unchecked = await capacity.panel.run(digest(token), _unchecked, request, panel.account_id, teams)
    if unchecked is not None:
        try:
            await capacity.vendors.run(panel.account_id, _check_with_copper, unchecked, teams)
        except BusyError as error:
            raise NoViewerError(UNCHECKED, status=503, retry_after=error.retry_after) from None
    return Viewer(panel.account_id, token)


def _unchecked(request: Request, account_id: int, teams: set[int]) -> BrowserSession | None:
    """Who looks, where Copper has to be asked first whether they are on one of the teams; None for who is known to."""
    with bound(account_id) as session:
        named = access.named_admins(session, account_id)
    who = browser.panel_session(request)
    if who is None or who.account_id != account_id:
        raise NoViewerError(
            "Invoices are visible to certain teams only. Sign in with Copper to continue.", sign_in=True, status=401
        )
    if who.user_id in named:
        return None
    if who.teams is None or who.teams_at is None or datetime.now(UTC) - who.teams_at >= TEAMS_FRESH:
        return who
    _check_membership(who, teams, who.teams)
    return None


def _check_membership(who: BrowserSession, teams: set[int], own: Iterable[int]) -> None:
    if not teams.intersection(own):
        raise NoViewerError(
            f"Invoices are visible to certain teams only, and you ({who.user_name}) aren't a member of any of them."
        )


def _check_with_copper(who: BrowserSession, teams: set[int]) -> None:
    """Ask Copper for the user's teams; raises `NoViewerError` when they may not look, or when it cannot be asked."""
    try:
        with vendor.interactive():
            user = connected(who.account_id, Purpose.PERSON).user(who.user_id)
    except NotThereError:
        raise NoViewerError("Your Copper user no longer exists.") from None
    except VendorError as error:
        log.info("teams.unread", account=who.account_id, error=type(error).__name__)
        raise NoViewerError(UNCHECKED, status=503, retry_after=UNCHECKED_RETRY_SECONDS) from None
    own = [team.id for team in user.groups]
    with bound(who.account_id) as session:
        browser_sessions.save_teams(session, who.account_id, who.id, own)
    _check_membership(who, teams, own)
