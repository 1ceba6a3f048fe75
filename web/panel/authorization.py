"""Panel authorisation: the panel key identifies the account; Copper confirms team membership where teams are selected.

What the App SDK claims about the user is never used: it comes from the browser.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from fastapi import Request

from store.accounts import admins, api_keys, browser_sessions
from store.accounts.api_keys import Panel
from store.accounts.browser_sessions import BrowserSession
from store.db.batching import RequestBatcher
from store.db.crypto import digest
from store.db.database import account_transaction
from store.db.read_replica import ReadPools
from web.auth import browser, rate_limits
from web.middleware.client_address import address_of, network_of
from web.middleware.concurrency import BusyError
from web.panel.long_polls import PollQuota
from web.state import web_state
from worker.vendors import http
from worker.vendors.copper.client import client_for_account
from worker.vendors.errors import NotFoundError, VendorError
from worker.vendors.rate_limit.budget import Priority

log = structlog.get_logger()
MAX_PANELS_PER_BATCH = 64
TEAMS_MAX_AGE = timedelta(minutes=10)
TEAM_CHECK_FAILED = "We can't check your Copper teams right now. Retrying automatically."
TEAM_CHECK_RETRY_SECONDS = 5


class PanelAccessDeniedError(Exception):
    """Access to the panel is denied; `sign_in` says whether signing in with Copper may help.

    The response is delayed if `is_delayed`.
    """

    def __init__(
        self,
        message: str,
        *,
        sign_in: bool = False,
        status: int = 403,
        retry_after: int | None = None,
        is_delayed: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sign_in = sign_in
        self.status = status
        self.retry_after = retry_after
        self.is_delayed = is_delayed


@dataclass(frozen=True)
class Viewer:
    """Somebody who is allowed to see an account's invoices, with the panel key that they use."""

    account_id: int
    key: str


def bearer_key(request: Request) -> str:
    """The panel key, from the page's URL or the Authorization header; '' if there is none."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else request.query_params.get("token", "")


def viewer_quota(request: Request) -> PollQuota:
    """The viewer's long-poll quota, without a look-up: by panel session if there is one, else by client address."""
    scope = "session" if browser.panel_token(request) else "address"
    return PollQuota.for_scope(scope, viewer_identifier(request))


def viewer_identifier(request: Request) -> str:
    """What tells viewers of one panel key apart: the panel session's token, else the client's network."""
    return browser.panel_token(request) or network_of(address_of(request))


def panel_batcher(pools: ReadPools) -> RequestBatcher[bytes, Panel | None]:
    """Looks up panels by the digests of their keys, in batches."""
    return RequestBatcher(partial(pools.read, api_keys.find_panels), max_batch_size=MAX_PANELS_PER_BATCH)


async def authenticate_panel(request: Request) -> Panel:
    """The panel whose key the request carries; raises `PanelAccessDeniedError` for an unknown or revoked key."""
    key = bearer_key(request)
    # Everybody at a customer uses the same key: each viewer is limited separately.
    rate_key = digest(f"{key} {viewer_identifier(request)}")
    rate_limits.limit_api_call(request, rate_key)
    panel = await web_state(request).panels.submit(digest(key)) if key else None
    if panel is None:
        raise PanelAccessDeniedError(
            "This panel URL is no longer valid. Ask an admin to create a new one in Patina under API keys.",
            status=401,
            is_delayed=bool(key) and rate_limits.count_unknown_key(request),
        )
    rate_limits.count_known_key(rate_key)
    return panel


async def authorize_viewer(request: Request) -> Viewer:
    """The viewer, if they may see the account's invoices.

    Raises `PanelAccessDeniedError` that says what is missing, `BusyError` if too many requests are running.
    """
    panel, key = await authenticate_panel(request), bearer_key(request)
    if panel.visible_to_teams is None:
        return Viewer(panel.account_id, key)
    capacity = web_state(request).capacity
    teams = set(panel.visible_to_teams)
    unverified = await capacity.panel.run(digest(key), _check_session, request, panel.account_id, teams)
    if unverified is not None:
        try:
            await capacity.vendors.run(panel.account_id, _check_with_copper, unverified, teams)
        except BusyError as error:
            raise PanelAccessDeniedError(TEAM_CHECK_FAILED, status=503, retry_after=error.retry_after) from None
    return Viewer(panel.account_id, key)


def _check_session(request: Request, account_id: int, teams: set[int]) -> BrowserSession | None:
    """Check the viewer's session; returns it if Copper must be asked for its teams, None if access is granted."""
    with account_transaction(account_id) as session:
        admin_names = admins.list_names(session, account_id)
    browser_session = browser.panel_session(request)
    if browser_session is None or browser_session.account_id != account_id:
        raise PanelAccessDeniedError(
            "Invoices are visible to certain teams only. Sign in with Copper to continue.", sign_in=True, status=401
        )
    if browser_session.user_id in admin_names:
        return None
    user_teams, fetched_at = browser_session.teams, browser_session.teams_fetched_at
    if user_teams is None or fetched_at is None or datetime.now(UTC) - fetched_at >= TEAMS_MAX_AGE:
        return browser_session
    _check_membership(browser_session, teams, user_teams)
    return None


def _check_membership(browser_session: BrowserSession, teams: set[int], user_teams: Iterable[int]) -> None:
    if not teams.intersection(user_teams):
        raise PanelAccessDeniedError(
            "Invoices are visible to certain teams only, and you "
            f"({browser_session.user_name}) aren't a member of any of them."
        )


def _check_with_copper(browser_session: BrowserSession, teams: set[int]) -> None:
    """Fetch the user's teams from Copper; raises `PanelAccessDeniedError` for a non-member or if Copper fails."""
    account_id = browser_session.account_id
    try:
        with http.interactive():
            user = client_for_account(account_id, Priority.INTERACTIVE).get_user(browser_session.user_id)
    except NotFoundError:
        raise PanelAccessDeniedError("Your Copper user no longer exists.") from None
    except VendorError as error:
        log.info("teams.fetch_failed", account=account_id, error=type(error).__name__)
        raise PanelAccessDeniedError(TEAM_CHECK_FAILED, status=503, retry_after=TEAM_CHECK_RETRY_SECONDS) from None
    user_teams = [team.id for team in user.teams]
    with account_transaction(account_id) as session:
        browser_sessions.save_teams(session, account_id, browser_session.id, user_teams)
    _check_membership(browser_session, teams, user_teams)
