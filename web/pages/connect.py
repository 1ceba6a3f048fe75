"""Signing in and connecting: Copper by key, Xero by OAuth, then the organisations to show."""

from __future__ import annotations

import base64
import secrets as randomness
from typing import Annotated
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import FormData

from runtime.settings import settings
from store import access, accounts
from store.access import BrowserSession, StateError
from store.database import bound, transaction
from store.secrets import fresh_token
from web import browser, throttle
from web.browser import open_session
from web.pages.render import go, page
from web.problems import ProblemError
from worker import connect
from worker.copper import oauth as copper_oauth
from worker.copper.identity import CopperIdentity
from worker.errors import ReconnectNeededError, VendorError
from worker.xero import oauth as xero_oauth

log = structlog.get_logger()
router = APIRouter()
XERO, SIGN_IN, TICKET, PANEL = "xero", "sign-in", "ticket", "panel"
ANYBODY = 0
CODE_BYTES = 10


def _xero_callback() -> str:
    return f"{settings().public_url}/callback/xero"


def _copper_callback() -> str:
    return f"{settings().public_url}/callback/copper"


@router.get("/")
def start(request: Request) -> Response:
    """The first page: for an admin who is signed in, how the account does."""
    session = request.state.browser.session
    if session is None:
        return go(request, "/connect")
    return go(request, "/status" if session.is_admin else "/viewer")


@router.get("/connect")
def ask_key(request: Request) -> Response:
    """Ask for a Copper key: to sign in, or to connect an account that is not yet."""
    return page(request, "connect.html", error=None, with_copper=bool(settings().copper_client_id))


@router.post("/connect")
def take_key(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Check the key at Copper; sign in its owner, and connect the account if that is not done yet."""
    throttle.sign_in(request)
    key, email = str(form.get("key", "")).strip(), str(form.get("email", "")).strip()
    try:
        admin = connect.identify(key, email)
        with transaction() as database:
            account_id = accounts.account_of_copper(database, admin.copper_account_id)
            state = accounts.copper_state(database, account_id) if account_id is not None else None
        if account_id is None or state is None or state.lost:
            account_id = connect.connect_copper(key, email, who=admin.user_name, admin=admin)
    except VendorError as error:
        log.info("sign_in.refused", reason=type(error).__name__)
        said = key_problem(error)
        return page(request, "connect.html", status=422, error=said, with_copper=bool(settings().copper_client_id))
    with transaction() as database:
        connected = accounts.organisations(database, account_id)
    answer = go(request, "/settings" if connected else "/connect/xero")
    open_session(answer, account_id, "admin", admin.user_id, admin.user_name, how="with a Copper key")
    return answer


def key_problem(error: VendorError) -> str:
    """What to say of a Copper key that could not be used."""
    if isinstance(error, ReconnectNeededError):
        return "Copper rejected this API key and email address. Enter the email address of the key's owner."
    return f"Copper is unavailable: {error}. Try again in a moment."


@router.post("/signout")
def sign_out(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """End the session."""
    answer = go(request, "/connect")
    browser.close_session(request.state.browser, answer)
    return answer


@router.get("/viewer")
def viewer(request: Request) -> Response:
    """What somebody sees who signed in with Copper and is no admin here."""
    if request.state.browser.session is None:
        return go(request, "/connect")
    return page(request, "viewer.html")


# Xero


@router.get("/connect/xero")
def explain_xero(request: Request) -> Response:
    """What Patina will read, and the way to Xero."""
    browser.admin(request.state.browser)
    return page(request, "xero.html", scopes=settings().xero_scopes.split(), error=None)


@router.post("/connect/xero")
def go_to_xero(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Send the admin to Xero; state and verifier wait here for ten minutes."""
    session = browser.admin(request.state.browser)
    throttle.sign_in(request)
    held = xero_oauth.begin(_xero_callback())
    values = {"verifier": held.verifier}
    with bound(session.account_id) as database:
        access.save_state(database, session.account_id, held.state, XERO, request.state.browser.name, values)
    return RedirectResponse(held.url, 303)


@router.get("/callback/xero")
def back_from_xero(request: Request, state: str = "", code: str = "", error: str = "") -> Response:
    """Take the code, if it is the answer to what this browser was sent with."""
    session = browser.admin(request.state.browser)
    try:
        with bound(session.account_id) as database:
            taken = access.take_state(database, session.account_id, state, request.state.browser.name)
        values = taken.checked(XERO)
        if error or not code:
            raise StateError("Xero gave no consent, so nothing was connected")
        held = xero_oauth.Authorisation("", state, values["verifier"], _xero_callback())
        token = xero_oauth.exchange(held, code)
        connect.keep_grant(session.account_id, token, who=session.user_name)
    except (StateError, VendorError) as problem:
        return _xero_failed(request, str(problem))
    return go(request, "/connect/organisations")


def _xero_failed(request: Request, why: str) -> Response:
    said = f"That did not work: {why}. Start again below."
    return page(request, "xero.html", status=400, scopes=settings().xero_scopes.split(), error=said)


@router.get("/connect/organisations")
def ask_organisations(request: Request) -> Response:
    """Let the admin choose which of the authorised organisations to show."""
    session = browser.admin(request.state.browser)
    grant_id = _open_grant(session)
    if grant_id is None:
        return go(request, "/connect/xero")
    try:
        return _organisations_page(request, session, grant_id, connect.offered(session.account_id, grant_id))
    except VendorError as error:
        return _xero_failed(request, str(error))


def _organisations_page(
    request: Request,
    session: BrowserSession,
    grant_id: int,
    offered: list[connect.OfferedOrganisation],
    *,
    error: str | None = None,
) -> Response:
    missing = connect.missing_permissions(session.account_id, grant_id)
    status = 422 if error else 200
    return page(request, "organisations.html", status=status, offered=offered, missing=missing, error=error)


def _open_grant(session: BrowserSession) -> int | None:
    with bound(session.account_id) as database:
        return accounts.open_grant(database, session.account_id)


@router.post("/connect/organisations")
def take_organisations(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Connect the chosen ones."""
    session = browser.admin(request.state.browser)
    grant_id = _open_grant(session)
    if grant_id is None:
        return go(request, "/connect/xero")
    try:
        tenants = {UUID(str(one)) for one in form.getlist("tenant")}
    except ValueError:
        raise ProblemError(400, "tenant: this is not an organisation that Xero offered.") from None
    with bound(session.account_id) as database:
        is_first = not accounts.organisations(database, session.account_id)
    try:
        offered = connect.offered(session.account_id, grant_id)
        if not tenants & {one.tenant_id for one in offered}:
            said = "Choose at least one organisation."
            return _organisations_page(request, session, grant_id, offered, error=said)
        connect.choose_organisations(session.account_id, grant_id, tenants, who=session.user_name)
    except VendorError as error:
        return _xero_failed(request, str(error))
    if is_first:
        return go(request, "/settings?first=1")
    connect.backfill(session.account_id)
    return go(request, "/progress")


# Signing in with Copper


@router.post("/signin/copper")
def go_to_copper(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Send somebody to Copper to say who they are."""
    throttle.sign_in(request)
    url, state = copper_oauth.begin(_copper_callback())
    with transaction() as database:
        access.save_state(database, ANYBODY, state, SIGN_IN, request.state.browser.name, {})
    return RedirectResponse(url, 303)


@router.post("/callback/copper")
def back_from_copper(code: Annotated[str, Form()] = "", state: Annotated[str, Form()] = "") -> Response:
    """Copper's cross-site POST, which no cookie comes with: go on by a GET, with which ours do.

    Code and state wait here under a ticket, so that neither stands in an address.
    """
    ticket = fresh_token()
    with transaction() as database:
        access.save_state(database, ANYBODY, ticket, TICKET, ticket, {"code": code[:2_000], "state": state[:2_000]})
    return RedirectResponse(f"/signin/copper/finish?ticket={ticket}", 303)


@router.get("/signin/copper/finish")
def finish_copper(request: Request, ticket: str = "") -> Response:
    """See who came back, and sign them in: as an admin if an admin named them one, as a viewer otherwise."""
    try:
        with transaction() as database:
            carried = access.take_state(database, ANYBODY, ticket, ticket)
        back = carried.checked(TICKET)
        with transaction() as database:
            taken = access.take_state(database, ANYBODY, back["state"], request.state.browser.name)
        values = taken.checked(PANEL if taken.purpose == PANEL else SIGN_IN)
        who = copper_oauth.finish(_copper_callback(), back["code"])
    except (StateError, VendorError) as problem:
        throttle.sign_in(request)
        said = f"That did not work: {problem}. Start again below."
        return page(request, "connect.html", status=400, error=said, with_copper=True)
    if taken.purpose == PANEL:
        return _hand_over(request, who, values["challenge"])
    role = "viewer"
    with transaction() as database:
        account_id = accounts.account_of_copper(database, who.account.id)
        if account_id is not None and who.user.id in access.named_admins(database, account_id):
            role = "admin"
    if account_id is None:
        return _not_connected(request)
    answer = go(request, "/settings" if role == "admin" else "/viewer")
    open_session(answer, account_id, role, who.user.id, who.user.name, how="with Copper")
    return answer


def _not_connected(request: Request) -> Response:
    said = "This Copper account is not connected. An admin connects it with an API key, below."
    return page(request, "connect.html", status=403, error=said, with_copper=True)


def _hand_over(request: Request, who: CopperIdentity, challenge: str) -> Response:
    """Give the panel's window a code for the panel that opened it; it stands in the address's fragment alone."""
    code = base64.b32encode(randomness.token_bytes(CODE_BYTES)).decode()
    with transaction() as database:
        account_id = accounts.account_of_copper(database, who.account.id)
        if account_id is not None:
            values = {"user": who.user.id, "name": who.user.name}
            access.save_state(database, account_id, code, PANEL, challenge, values)
    if account_id is None:
        return _not_connected(request)
    return go(request, f"/panel/signed-in#{code}")
