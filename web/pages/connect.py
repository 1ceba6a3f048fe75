"""Signing in and connecting: Copper by key, Xero by OAuth, then the organisations to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel
from starlette.datastructures import FormData

from runtime.settings import settings
from store import access, accounts, audit, browser_sessions
from store.access import ANYBODY, StateError
from store.browser_sessions import BrowserSession, SessionOrigin
from store.database import Session, bound, transaction
from store.invitations import InvitationState
from store.models import SetupStep, SignInMethod
from store.secrets import fresh_token
from web import browser, forms, refusals, throttle
from web.clients import client_of
from web.forms import FormState
from web.pages import confirm, panel_confirmation
from web.pages.panel_confirmation import PANEL
from web.pages.render import go, page
from web.problems import ProblemError
from web.refusals import Reason
from web.vendor_calls import calls_vendor, sign_in_place
from worker import connect, failed_sign_ins
from worker.connect import NotAdmittedError
from worker.copper import oauth as copper_oauth
from worker.errors import PassingError, ReconnectNeededError, VendorError
from worker.xero import oauth as xero_oauth

router = APIRouter()
XERO, SIGN_IN, TICKET, CONFIRM = "xero", "sign-in", "ticket", "confirm"
MAX_CAME_BACK = 256
"""Characters of a code or state: Copper's and ours are far shorter."""
VENDOR_RETRY_SECONDS = 60
KEY_REJECTED = (
    "Copper didn't accept this API key and email address. Check that the email address belongs to the user who created "
    "the key."
)


CODE_NEEDED = (
    "This Copper account isn't connected yet. Enter a set-up code, which whoever runs this Patina can give you."
)
CODE_REFUSED = {
    InvitationState.USED: "This set-up code was already used. Ask for a new one.",
    InvitationState.REVOKED: "This set-up code was revoked. Ask for a new one.",
    InvitationState.EXPIRED: "This set-up code has expired. Ask for a new one.",
}
CODE_UNKNOWN = "This set-up code isn't valid. Check that you copied all of it."
CODE_UNNEEDED = " If your account is already connected, leave this field empty."


class OrganisationsForm(BaseModel):
    """Which of the offered organisations are to be connected."""

    tenant: list[UUID]


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
    return _sign_in_page(request)


def _sign_in_page(request: Request, form: FormState = forms.EMPTY, *, status: int = 422) -> Response:
    shown = bool(settings().copper_client_id)
    return page(request, "connect.html", status=status if form.is_refused else 200, form=form, with_copper=shown)


def _not_signed_in(request: Request, said: str, status: int) -> Response:
    return _sign_in_page(request, FormState(errors={"": said}), status=status)


def _next_page(database: Session, account_id: int) -> str:
    """Where an admin who has just signed in goes on: the step of set-up that is missing, or the settings."""
    if not accounts.organisations(database, account_id):
        return "/connect/xero"
    step = accounts.setup_step(database, account_id)
    if step is SetupStep.SETTINGS:
        return "/settings?first=1"
    return "/setup/panel" if step is SetupStep.PANEL else "/settings"


@router.post("/connect")
@calls_vendor
def take_key(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Check the key at Copper; sign in its owner, and connect the account if that is not done yet.

    Copper alone can say whose key it is, so a key without a code must be asked about; a code that is no good is
    refused before, and costs whoever guesses one a look into an index.
    """
    key, email, code = (str(form.get(name, "")).strip() for name in ("key", "email", "code"))
    try:
        with throttle.key_try(request, key, email):
            if code:
                connect.check_invitation(code)
            with sign_in_place():
                admin, account_id = _connected_admin(key, email, code)
    except VendorError as error:
        if isinstance(error, ReconnectNeededError):
            refusals.mark(request.scope, Reason.SIGN_IN)
            failed_sign_ins.note(email)
        answer = _sign_in_page(request, forms.refused(form, {"key": key_problem(error)}), status=key_status(error))
        return later(answer, error)
    except NotAdmittedError as error:
        refusals.mark(request.scope, Reason.SIGN_IN)
        return _sign_in_page(request, forms.refused(form, {"code": _code_problem(error)}))
    with transaction() as database:
        user = SignedInUser(account_id, "admin", admin.user_id, admin.user_name)
        token = _open_session(request, database, user, SignInMethod.KEY)
        path = _next_page(database, account_id)
    return _signed_in(request, user, token, path)


def _connected_admin(key: str, email: str, code: str) -> tuple[connect.CopperAdmin, int]:
    """Whose key it is, and their account, which is connected if it is not yet.

    Raises `VendorError`, or `NotAdmittedError` for a new account without a code.
    """
    admin = connect.identify(key, email)
    with transaction() as database:
        account_id = accounts.account_of_copper(database, admin.copper_account_id)
        state = accounts.copper_state(database, account_id) if account_id is not None else None
    if account_id is None or state is None or state.lost:
        account_id = connect.connect_copper(key, email, who=admin.user_name, admin=admin, code=code)
    return admin, account_id


@dataclass(frozen=True)
class SignedInUser:
    """A user of Copper who has just proved who they are, and what they may do here."""

    account_id: int
    role: str
    user_id: int
    name: str


HOW = {SignInMethod.KEY: "with a Copper key", SignInMethod.COPPER: "with Copper"}


def _open_session(request: Request, database: Session, user: SignedInUser, method: SignInMethod) -> str:
    """Open the session in the place of the browser's older one, and note from what browser; returns its token."""
    client = client_of(request)
    is_known = browser.is_known(request, user.account_id, user.user_id)
    how = f"{HOW[method]}, {client}" if is_known else f"{HOW[method]}, from a new browser ({client})"
    audit.note(database, user.account_id, user.name, f"{user.role}.signed_in", how)
    return browser_sessions.open_session(
        database,
        user.account_id,
        user.role,
        user.user_id,
        user.name,
        SessionOrigin(method, client=client),
        replaces=request.state.browser.token,
    )


def _signed_in(request: Request, user: SignedInUser, token: str, path: str) -> Response:
    """Send somebody on who has just signed in; for an admin, what set-up left unread before is imported now."""
    if user.role == "admin" and path != "/connect/xero":
        connect.backfill(user.account_id)
    answer = go(request, path)
    browser.keep_session(answer, token)
    browser.make_known(answer, user.account_id, user.user_id)
    return answer


def _code_problem(error: NotAdmittedError) -> str:
    """What to say of a set-up code that does not admit an account."""
    if error.state is None:
        return CODE_NEEDED
    return CODE_REFUSED.get(error.state, CODE_UNKNOWN) + CODE_UNNEEDED


def key_problem(error: VendorError) -> str:
    """What to say of a Copper key that could not be used."""
    if isinstance(error, ReconnectNeededError):
        return KEY_REJECTED
    if isinstance(error, PassingError):
        return _unanswered("Copper", error)
    return f"We couldn't reach Copper ({error}). Try again in a moment."


def key_status(error: VendorError) -> int:
    """The status of a page that says it: 503 where the key may be right and Copper is the one to wait for."""
    return 503 if isinstance(error, PassingError) else 422


def later(answer: Response, error: Exception) -> Response:
    """The answer, with a time to come back where waiting helps."""
    if isinstance(error, PassingError):
        answer.headers["Retry-After"] = str(VENDOR_RETRY_SECONDS)
    return answer


def _unanswered(vendor: str, error: PassingError) -> str:
    return f"{vendor} does not answer at the moment: {error}. Nothing was changed. Wait a minute, then try again."


@router.post("/signout")
def sign_out(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """End the session."""
    answer = go(request, "/connect")
    browser.close_session(request.state.browser, answer)
    return answer


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
@calls_vendor
def back_from_xero(request: Request, state: str = "", code: str = "", error: str = "") -> Response:
    """Take the code, if it is the answer to what this browser was sent with."""
    session = browser.admin(request.state.browser)
    try:
        with bound(session.account_id) as database:
            taken = access.take_state(database, session.account_id, state, request.state.browser.name)
        values = taken.checked(XERO)
        if error or not code:
            return _xero_failed(request, "You didn't grant access in Xero, so nothing was connected.")
        held = xero_oauth.Authorisation("", state, values["verifier"], _xero_callback())
        token = xero_oauth.exchange(held, code)
        connect.keep_grant(session.account_id, token, who=session.user_name)
    except (StateError, VendorError) as problem:
        return _xero_went_wrong(request, problem)
    return go(request, "/connect/organisations")


def _went_wrong(vendor: str, problem: Exception) -> str:
    if isinstance(problem, PassingError):
        return _unanswered(vendor, problem)
    return f"Something went wrong: {problem}. Try again."


def _xero_went_wrong(request: Request, problem: Exception) -> Response:
    status = 503 if isinstance(problem, PassingError) else 400
    return later(_xero_failed(request, _went_wrong("Xero", problem), status), problem)


def _xero_failed(request: Request, said: str, status: int = 400) -> Response:
    return page(request, "xero.html", status=status, scopes=settings().xero_scopes.split(), error=said)


@router.get("/connect/organisations")
@calls_vendor
def ask_organisations(request: Request) -> Response:
    """Let the admin choose which of the authorised organisations to show."""
    session = browser.admin(request.state.browser)
    grant_id = _open_grant(session)
    if grant_id is None:
        return go(request, "/connect/xero")
    try:
        return _organisations_page(request, session, grant_id, connect.offered(session.account_id, grant_id))
    except VendorError as error:
        return _xero_went_wrong(request, error)


def _organisations_page(
    request: Request,
    session: BrowserSession,
    grant_id: int,
    offered: list[connect.OfferedOrganisation],
    form: FormState = forms.EMPTY,
) -> Response:
    missing = connect.missing_permissions(session.account_id, grant_id)
    status = 422 if form.is_refused else 200
    return page(request, "organisations.html", status=status, offered=offered, missing=missing, form=form)


def _open_grant(session: BrowserSession) -> int | None:
    with bound(session.account_id) as database:
        return accounts.open_grant(database, session.account_id)


@router.post("/connect/organisations")
@calls_vendor
def take_organisations(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Connect the chosen ones."""
    session = browser.admin(request.state.browser)
    grant_id = _open_grant(session)
    if grant_id is None:
        return go(request, "/connect/xero")
    wanted = forms.read(OrganisationsForm, form, {"tenant": "Select at least one organisation."})
    tenants = set() if isinstance(wanted, dict) else set(wanted.tenant)
    try:
        offered = connect.offered(session.account_id, grant_id)
        if not tenants & {one.tenant_id for one in offered}:
            state = forms.refused(form, {"tenant": "Select at least one organisation."})
            return _organisations_page(request, session, grant_id, offered, state)
        connect.choose_organisations(session.account_id, grant_id, tenants, who=session.user_name, with_import=True)
    except VendorError as error:
        return _xero_went_wrong(request, error)
    with bound(session.account_id) as database:
        step = accounts.setup_step(database, session.account_id)
    return go(request, "/settings?first=1" if step is SetupStep.SETTINGS else "/progress")


# Signing in with Copper


def need_copper_app() -> None:
    """Raise `ProblemError` 404 where nobody can sign in with Copper."""
    if not settings().copper_client_id:
        raise ProblemError(404, "Signing in with Copper isn't set up here.")


@router.post("/signin/copper")
def go_to_copper(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Send somebody to Copper to say who they are."""
    need_copper_app()
    throttle.sign_in(request)
    url, state = copper_oauth.begin(_copper_callback())
    with transaction() as database:
        access.save_state(database, ANYBODY, state, SIGN_IN, request.state.browser.name, {})
    return RedirectResponse(url, 303)


@router.post("/confirm/copper")
def confirm_at_copper(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Send somebody who is signed in to Copper once more; the form that waits for it is kept here."""
    need_copper_app()
    held = confirm.held_by(request, form)
    throttle.sign_in(request)
    url, state = copper_oauth.begin(_copper_callback())
    with transaction() as database:
        access.save_state(database, ANYBODY, state, CONFIRM, request.state.browser.name, held)
    return RedirectResponse(url, 303)


@router.post("/callback/copper")
def back_from_copper(
    request: Request, code: Annotated[str, Form()] = "", state: Annotated[str, Form()] = ""
) -> Response:
    """Copper's cross-site POST, which no cookie comes with: go on by a GET, with which ours do.

    What came back for a state of ours waits under a ticket in its place, so that neither stands in an address. Anybody
    can post here: without such a state nothing is kept, and the next page says what is wrong.
    """
    need_copper_app()
    throttle.viewer_sign_in(request)
    ticket, is_plausible = fresh_token(), max(len(code), len(state)) <= MAX_CAME_BACK
    with transaction() as database:
        is_ours = is_plausible and access.pass_on_state(database, state, ticket, TICKET, {"code": code})
    return RedirectResponse(f"/signin/copper/finish?ticket={ticket if is_ours else ''}", 303)


@router.get("/signin/copper/finish")
@calls_vendor
def finish_copper(request: Request, ticket: str = "") -> Response:
    """See who came back, and sign them in: as an admin if an admin named them one, as a viewer otherwise."""
    need_copper_app()
    try:
        with transaction() as database:
            taken = access.take_state(database, ANYBODY, ticket, request.state.browser.name)
        back = taken.checked(TICKET)
        with sign_in_place():
            who = copper_oauth.finish(_copper_callback(), back["code"])
    except PassingError as problem:
        return later(_not_signed_in(request, _unanswered("Copper", problem), 503), problem)
    except (StateError, VendorError) as problem:
        throttle.sign_in(request)
        return _not_signed_in(request, _went_wrong("Copper", problem), 400)
    if back["purpose"] == PANEL:
        return panel_confirmation.ask(request, who, back["values"]["challenge"]) or _not_connected(request)
    if back["purpose"] == CONFIRM:
        return confirm.come_back(request, who, back["values"])
    with transaction() as database:
        account_id = accounts.account_of_copper(database, who.account.id)
        if account_id is not None:
            role = "admin" if who.user.id in access.named_admins(database, account_id) else "viewer"
            user = SignedInUser(account_id, role, who.user.id, who.user.name)
            token = _open_session(request, database, user, SignInMethod.COPPER)
            path = _next_page(database, account_id) if role == "admin" else "/viewer"
    if account_id is None:
        return _not_connected(request)
    return _signed_in(request, user, token, path)


def _not_connected(request: Request) -> Response:
    said = "This Copper account isn't connected yet. An admin can connect it below, with an API key and a set-up code."
    return _not_signed_in(request, said, 403)
