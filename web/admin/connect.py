"""Signing in, and connecting an account: Copper with an API key, Xero by OAuth, then its organisations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel
from starlette.datastructures import FormData

from runtime.settings import settings
from services import connect, failed_sign_ins
from services.connect import AccountNotAllowedError
from store.accounts import (
    accounts,
    admins,
    audit,
    browser_sessions,
    copper_credentials,
    oauth_state,
    xero_grants,
    xero_organisations,
)
from store.accounts.browser_sessions import BrowserSession, SessionOrigin
from store.accounts.invitations import InvitationState
from store.accounts.oauth_state import NO_ACCOUNT, OAuthStateError
from store.db.crypto import generate_token
from store.db.database import Session, account_transaction, transaction
from store.db.enums import SetupStep, SignInMethod
from web.admin import confirmation, forms, panel_confirmation
from web.admin.forms import FormState
from web.admin.panel_confirmation import PANEL
from web.admin.render import redirect, render_page
from web.admin.vendor_calls import calls_vendor, sign_in_slot
from web.auth import browser, rate_limits
from web.auth.user_agents import browser_label
from web.middleware import refusals
from web.middleware.refusals import RefusalReason
from web.presentation.problems import ProblemError
from worker.vendors.copper import oauth as copper_oauth
from worker.vendors.errors import AuthorizationLostError, TransientError, VendorError
from worker.vendors.xero import oauth as xero_oauth

router = APIRouter()
XERO, SIGN_IN, TICKET, CONFIRM = "xero", "sign-in", "ticket", "confirm"
MAX_CALLBACK_PARAMETER = 256
"""Characters; Copper's codes and our states are far shorter."""
VENDOR_RETRY_SECONDS = 60
KEY_REJECTED = (
    "Copper didn't accept this API key and email address. Check that the email address belongs to the user who created "
    "the key."
)
CODE_NEEDED = "This Copper account isn't connected yet. Enter a set-up code. Ask whoever runs Patina for one."
CODE_REFUSED = {
    InvitationState.USED: "This set-up code was already used. Ask for a new one.",
    InvitationState.REVOKED: "This set-up code was revoked. Ask for a new one.",
    InvitationState.EXPIRED: "This set-up code has expired. Ask for a new one.",
}
CODE_UNKNOWN = "This set-up code isn't valid. Check that you copied all of it."
CODE_OPTIONAL = " If your account is already connected, leave this field empty."


class OrganisationsForm(BaseModel):
    """The organisations to connect, by Xero's tenant ids."""

    tenant: list[UUID]


def _xero_callback() -> str:
    return f"{settings().public_url}/callback/xero"


def _copper_callback() -> str:
    return f"{settings().public_url}/callback/copper"


@router.get("/")
def start(request: Request) -> Response:
    """Redirect to the first page: the status page for an admin."""
    browser_session = request.state.browser.session
    if browser_session is None:
        return redirect(request, "/connect")
    return redirect(request, "/status" if browser_session.is_admin else "/viewer")


@router.get("/connect")
def show_sign_in(request: Request) -> Response:
    """Ask for a Copper key: to sign in, or to connect a new account."""
    return _sign_in_page(request)


def _sign_in_page(request: Request, form: FormState = forms.EMPTY_FORM, *, status: int = 422) -> Response:
    return render_page(
        request,
        "connect.html",
        status=status if form.has_errors else 200,
        form=form,
        with_copper=bool(settings().copper_client_id),
    )


def _sign_in_error(request: Request, message: str, status: int) -> Response:
    return _sign_in_page(request, FormState(errors={"": message}), status=status)


def _next_page(session: Session, account_id: int) -> str:
    """The page for an admin who has just signed in: the next step of set-up, or the settings."""
    if not xero_organisations.list_connected(session, account_id):
        return "/connect/xero"
    step = accounts.get_setup_step(session, account_id)
    if step is SetupStep.SETTINGS:
        return "/settings?setup=1"
    return "/setup/panel" if step is SetupStep.PANEL else "/settings"


@router.post("/connect")
@calls_vendor
def sign_in_with_key(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Check the key at Copper, sign in its owner, and connect the account if it is not connected.

    An invalid set-up code is rejected first, by one index look-up. A key without a code always costs a call to Copper,
    because only Copper knows whose key it is.
    """
    key, email, code = (str(form.get(name, "")).strip() for name in ("key", "email", "code"))
    try:
        with rate_limits.limit_key_attempt(request, key, email):
            if code:
                connect.check_invitation(code)
            with sign_in_slot():
                admin, account_id = _identify_and_connect(key, email, code)
    except VendorError as error:
        if isinstance(error, AuthorizationLostError):
            refusals.set_reason(request.scope, RefusalReason.SIGN_IN)
            failed_sign_ins.record_for_email(email)
        rejected = forms.rejected_form(form, {"key": key_error_message(error)})
        return with_retry_after(_sign_in_page(request, rejected, status=key_error_status(error)), error)
    except AccountNotAllowedError as error:
        refusals.set_reason(request.scope, RefusalReason.SIGN_IN)
        return _sign_in_page(request, forms.rejected_form(form, {"code": _code_error_message(error)}))
    with transaction() as session:
        user = SignedInUser(account_id, "admin", admin.user_id, admin.user_name)
        token = _create_session(request, session, user, SignInMethod.KEY)
        path = _next_page(session, account_id)
    return _finish_sign_in(request, user, token, path)


def _identify_and_connect(key: str, email: str, code: str) -> tuple[connect.CopperAdmin, int]:
    """The key's owner and the id of their account, which this connects if it is not connected.

    Raises `VendorError`, or `AccountNotAllowedError` for a new account without a code.
    """
    admin = connect.identify(key, email)
    with transaction() as session:
        account_id = accounts.find_by_copper_account_id(session, admin.copper_account_id)
        connection = copper_credentials.find_connection(session, account_id) if account_id is not None else None
    if account_id is None or connection is None or connection.needs_reauth:
        account_id = connect.connect_copper(key, email, actor=admin.user_name, admin=admin, code=code)
    return admin, account_id


@dataclass(frozen=True)
class SignedInUser:
    """A Copper user who has just signed in, with their role here."""

    account_id: int
    role: str
    user_id: int
    name: str


METHOD_LABELS = {SignInMethod.KEY: "with a Copper key", SignInMethod.COPPER: "with Copper"}


def _create_session(request: Request, session: Session, user: SignedInUser, method: SignInMethod) -> str:
    """Create a session that replaces the browser's older one, with its audit entry; returns the session's token."""
    client = browser_label(request)
    is_known = browser.is_remembered_user(request, user.account_id, user.user_id)
    browser_detail = client if is_known else f"from a new browser ({client})"
    detail = f"{METHOD_LABELS[method]}, {browser_detail}"
    audit.record(session, user.account_id, user.name, f"{user.role}.signed_in", detail)
    return browser_sessions.create(
        session,
        user.account_id,
        user.role,
        user.user_id,
        user.name,
        SessionOrigin(method, client=client),
        replaces=request.state.browser.token,
    )


def _finish_sign_in(request: Request, user: SignedInUser, token: str, path: str) -> Response:
    """Set the session cookie and redirect; for an admin, also start imports that set-up has not started yet."""
    if user.role == "admin" and path != "/connect/xero":
        connect.start_backfills(user.account_id)
    response = redirect(request, path)
    browser.set_session_cookie(response, token)
    browser.remember_user(response, user.account_id, user.user_id)
    return response


def _code_error_message(error: AccountNotAllowedError) -> str:
    """The message for a missing or invalid set-up code."""
    if error.state is None:
        return CODE_NEEDED
    return CODE_REFUSED.get(error.state, CODE_UNKNOWN) + CODE_OPTIONAL


def key_error_message(error: VendorError) -> str:
    """The message for a Copper key that could not be used."""
    if isinstance(error, AuthorizationLostError):
        return KEY_REJECTED
    if isinstance(error, TransientError):
        return _unavailable_message("Copper", error)
    return f"We couldn't reach Copper ({error}). Try again in a moment."


def key_error_status(error: VendorError) -> int:
    """The status of that page: 503 if Copper is unavailable, so that the key may be right."""
    return 503 if isinstance(error, TransientError) else 422


def with_retry_after(response: Response, error: Exception) -> Response:
    """The response, with a `Retry-After` header if the error is transient."""
    if isinstance(error, TransientError):
        response.headers["Retry-After"] = str(VENDOR_RETRY_SECONDS)
    return response


def _unavailable_message(vendor: str, error: TransientError) -> str:
    return f"{vendor} is unavailable right now: {error}. Nothing was changed. Wait a minute, then try again."


@router.post("/signout")
def sign_out(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """End the session."""
    response = redirect(request, "/connect")
    browser.end_session(request.state.browser, response)
    return response


# Xero


@router.get("/connect/xero")
def show_connect_xero(request: Request) -> Response:
    """Say what Patina will read, with the button that leads to Xero."""
    browser.require_admin(request.state.browser)
    return render_page(request, "xero.html", scopes=settings().xero_scopes.split(), error=None)


@router.post("/connect/xero")
def redirect_to_xero(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Redirect the admin to Xero; state and code verifier are stored for ten minutes."""
    browser_session = browser.require_admin(request.state.browser)
    rate_limits.limit_sign_in(request)
    authorization = xero_oauth.begin(_xero_callback())
    account_id, browser_name = browser_session.account_id, request.state.browser.name
    values = {"verifier": authorization.code_verifier}
    with account_transaction(account_id) as session:
        oauth_state.save(session, account_id, authorization.state, XERO, browser_name, values)
    return RedirectResponse(authorization.url, 303)


@router.get("/callback/xero")
@calls_vendor
def xero_callback(request: Request, state: str = "", code: str = "", error: str = "") -> Response:
    """Exchange the code for a grant, if the state is the one that this browser was sent to Xero with."""
    browser_session = browser.require_admin(request.state.browser)
    try:
        with account_transaction(browser_session.account_id) as session:
            stored = oauth_state.consume(session, browser_session.account_id, state, request.state.browser.name)
        values = stored.verify(XERO)
        if error or not code:
            return _xero_error(request, "You didn't grant access in Xero, so nothing was connected.")
        authorization = xero_oauth.AuthorizationRequest("", state, values["verifier"], _xero_callback())
        token = xero_oauth.exchange_code(authorization, code)
        connect.save_grant(browser_session.account_id, token, actor=browser_session.user_name)
    except (OAuthStateError, VendorError) as exception:
        return _xero_exception(request, exception)
    return redirect(request, "/connect/organisations")


def _exception_message(vendor: str, exception: Exception) -> str:
    if isinstance(exception, TransientError):
        return _unavailable_message(vendor, exception)
    return f"Something went wrong: {exception}. Try again."


def _xero_exception(request: Request, exception: Exception) -> Response:
    status = 503 if isinstance(exception, TransientError) else 400
    return with_retry_after(_xero_error(request, _exception_message("Xero", exception), status), exception)


def _xero_error(request: Request, message: str, status: int = 400) -> Response:
    return render_page(request, "xero.html", status=status, scopes=settings().xero_scopes.split(), error=message)


@router.get("/connect/organisations")
@calls_vendor
def show_organisations(request: Request) -> Response:
    """Let the admin select which of the authorised organisations to connect."""
    browser_session = browser.require_admin(request.state.browser)
    grant_id = _pending_grant(browser_session)
    if grant_id is None:
        return redirect(request, "/connect/xero")
    try:
        organisations = connect.list_authorised_organisations(browser_session.account_id, grant_id)
    except VendorError as error:
        return _xero_exception(request, error)
    return _organisations_page(request, browser_session, grant_id, organisations)


def _organisations_page(
    request: Request,
    browser_session: BrowserSession,
    grant_id: int,
    organisations: list[connect.AuthorisedOrganisation],
    form: FormState = forms.EMPTY_FORM,
) -> Response:
    return render_page(
        request,
        "organisations.html",
        status=422 if form.has_errors else 200,
        organisations=organisations,
        missing_scopes=connect.missing_scopes(browser_session.account_id, grant_id),
        form=form,
    )


def _pending_grant(browser_session: BrowserSession) -> int | None:
    with account_transaction(browser_session.account_id) as session:
        return xero_grants.find_pending(session, browser_session.account_id)


@router.post("/connect/organisations")
@calls_vendor
def connect_organisations(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Connect the selected organisations."""
    browser_session = browser.require_admin(request.state.browser)
    grant_id = _pending_grant(browser_session)
    if grant_id is None:
        return redirect(request, "/connect/xero")
    errors = {"tenant": "Select at least one organisation."}
    selection = forms.parse_form(OrganisationsForm, form, errors)
    tenant_ids = set() if isinstance(selection, dict) else set(selection.tenant)
    try:
        organisations = connect.list_authorised_organisations(browser_session.account_id, grant_id)
        if not tenant_ids & {organisation.tenant_id for organisation in organisations}:
            rejected = forms.rejected_form(form, errors)
            return _organisations_page(request, browser_session, grant_id, organisations, rejected)
        connect.connect_organisations(
            browser_session.account_id, grant_id, tenant_ids, actor=browser_session.user_name, with_backfill=True
        )
    except VendorError as error:
        return _xero_exception(request, error)
    with account_transaction(browser_session.account_id) as session:
        step = accounts.get_setup_step(session, browser_session.account_id)
    return redirect(request, "/settings?setup=1" if step is SetupStep.SETTINGS else "/progress")


# Signing in with Copper


def require_copper_app() -> None:
    """Raise `ProblemError` 404 if signing in with Copper is not configured."""
    if not settings().copper_client_id:
        raise ProblemError(404, "Signing in with Copper isn't set up here.")


@router.post("/signin/copper")
def sign_in_with_copper(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Redirect to Copper's sign-in."""
    require_copper_app()
    rate_limits.limit_sign_in(request)
    url, state = copper_oauth.begin(_copper_callback())
    with transaction() as session:
        oauth_state.save(session, NO_ACCOUNT, state, SIGN_IN, request.state.browser.name, {})
    return RedirectResponse(url, 303)


@router.post("/confirm/copper")
def confirm_with_copper(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Redirect a signed-in user to Copper again; the form that waits for confirmation is stored meanwhile."""
    require_copper_app()
    payload = confirmation.pending_payload(request, form)
    rate_limits.limit_sign_in(request)
    url, state = copper_oauth.begin(_copper_callback())
    with transaction() as session:
        oauth_state.save(session, NO_ACCOUNT, state, CONFIRM, request.state.browser.name, payload)
    return RedirectResponse(url, 303)


@router.post("/callback/copper")
def copper_callback(
    request: Request, code: Annotated[str, Form()] = "", state: Annotated[str, Form()] = ""
) -> Response:
    """Copper's cross-site POST, which carries no cookies of ours: redirect to a GET, which does.

    The code is stored under a ticket that replaces the state, so that neither code nor state is in a URL. Anybody can
    post here: without a state of ours nothing is stored, and the next page shows the error.
    """
    require_copper_app()
    rate_limits.limit_viewer_sign_in(request)
    ticket, is_plausible = generate_token(), max(len(code), len(state)) <= MAX_CALLBACK_PARAMETER
    with transaction() as session:
        is_issued = is_plausible and oauth_state.issue_ticket(session, state, ticket, TICKET, {"code": code})
    return RedirectResponse(f"/signin/copper/finish?ticket={ticket if is_issued else ''}", 303)


@router.get("/signin/copper/finish")
@calls_vendor
def finish_copper_sign_in(request: Request, ticket: str = "") -> Response:
    """Identify the user and sign them in: as an admin if an admin added them, as a viewer otherwise."""
    require_copper_app()
    try:
        with transaction() as session:
            stored = oauth_state.consume(session, NO_ACCOUNT, ticket, request.state.browser.name)
        callback = stored.verify(TICKET)
        with sign_in_slot():
            identity = copper_oauth.exchange_code(_copper_callback(), callback["code"])
    except TransientError as error:
        return with_retry_after(_sign_in_error(request, _unavailable_message("Copper", error), 503), error)
    except (OAuthStateError, VendorError) as error:
        rate_limits.limit_sign_in(request)
        return _sign_in_error(request, _exception_message("Copper", error), 400)
    if callback["purpose"] == PANEL:
        page = panel_confirmation.confirmation_page(request, identity, callback["values"]["challenge"])
        return page or _account_not_connected(request)
    if callback["purpose"] == CONFIRM:
        return confirmation.finish_copper_confirmation(request, identity, callback["values"])
    with transaction() as session:
        account_id = accounts.find_by_copper_account_id(session, identity.account.id)
        if account_id is not None:
            role = "admin" if identity.user.id in admins.list_names(session, account_id) else "viewer"
            user = SignedInUser(account_id, role, identity.user.id, identity.user.name)
            token = _create_session(request, session, user, SignInMethod.COPPER)
            path = _next_page(session, account_id) if role == "admin" else "/viewer"
    if account_id is None:
        return _account_not_connected(request)
    return _finish_sign_in(request, user, token, path)


def _account_not_connected(request: Request) -> Response:
    message = (
        "This Copper account isn't connected yet. An admin can connect it below, with an API key and a set-up code."
    )
    return _sign_in_error(request, message, 403)
