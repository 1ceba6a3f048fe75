"""Confirmation (re-authentication) before changes that a stolen session cookie must not make; valid for five minutes.

Whoever signed in with a Copper key enters one of their keys again; whoever signed in with Copper does so again. The
form that was sent is carried by the confirmation page, without its secrets, and submitted again afterwards.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from runtime.settings import settings
from services import connect
from store.accounts import audit, browser_sessions
from store.accounts.browser_sessions import BrowserSession
from store.db.database import account_transaction, transaction
from store.db.enums import SignInMethod
from web.admin import forms, vendor_calls
from web.admin.forms import FormState
from web.admin.render import render_page
from web.admin.vendor_calls import AsyncEndpoint, Endpoint
from web.auth import browser, rate_limits
from web.auth.browser import SignInRequiredError
from web.middleware import refusals
from web.middleware.refusals import RefusalReason
from web.presentation.problems import ProblemError
from worker.vendors.copper.identity import CopperIdentity
from worker.vendors.errors import AuthorizationLostError, VendorError

log = structlog.get_logger()
KEY, EMAIL, PATH = "confirm_key", "confirm_email", "confirm_path"
CONFIRMATION_FIELDS = frozenset({"csrf", KEY, EMAIL, PATH})
LOCAL_PATH = re.compile(r"(/[a-z0-9-]{1,40}){1,5}")
WRONG_KEY = (
    "Copper didn't accept this API key and email address, or they aren't yours. Enter an API key that you created in "
    "this Copper account."
)
RequireSession = Callable[[browser.Browser], BrowserSession]


@dataclass(frozen=True)
class PendingForm:
    """A form that waits for confirmation: the path that it is sent to, and its fields without secrets."""

    path: str
    fields: Mapping[str, list[str]]


def require_confirmation(
    action: str,
    cancel_path: str,
    require_session: RequireSession = browser.require_admin,
    *,
    calls_vendor: bool = False,
) -> Callable[[Endpoint], AsyncEndpoint]:
    """Make an endpoint that takes a form ask for confirmation, unless the session was confirmed recently.

    `action` completes "You are about to"; "Cancel" leads to `cancel_path`. The endpoint counts as one that calls a
    vendor if a key is to be checked at Copper, or if `calls_vendor` says that it always does.
    """

    def decorate(endpoint: Endpoint) -> AsyncEndpoint:
        @functools.wraps(endpoint)
        def run(request: Request, form: FormData, **arguments: Any) -> Response:
            confirmation = confirmation_page(request, form, action, cancel_path, require_session)
            return confirmation if confirmation is not None else endpoint(request=request, form=form, **arguments)

        return vendor_calls.calls_vendor(run, when=lambda arguments: calls_vendor or KEY in arguments["form"])

    return decorate


def confirmation_page(
    request: Request,
    form: FormData,
    action: str,
    cancel_path: str,
    require_session: RequireSession = browser.require_admin,
) -> Response | None:
    """The page that asks for confirmation; None if the session is confirmed, or becomes so by the form's key."""
    browser_session = require_session(request.state.browser)
    if browser_session.is_confirmed:
        return None
    pending = PendingForm(request.url.path, forms.rejected_form(form, {}).values)
    if browser_session.method is SignInMethod.KEY and KEY in form:
        problem = _check_key(request, browser_session, str(form[KEY]).strip(), str(form.get(EMAIL, "")).strip())
        if problem is None:
            return None
        rejected = FormState({EMAIL: [str(form.get(EMAIL, ""))]}, {KEY: problem})
        return _render_confirmation(request, pending, action, cancel_path, rejected)
    return _render_confirmation(request, pending, action, cancel_path)


def _render_confirmation(
    request: Request, pending: PendingForm, action: str, cancel_path: str, form: FormState = forms.EMPTY_FORM
) -> Response:
    method = browser.require_session(request.state.browser).method
    fields = {name: values for name, values in pending.fields.items() if name not in CONFIRMATION_FIELDS}
    return render_page(
        request,
        "confirm.html",
        status=422 if form.has_errors else 200,
        pending=PendingForm(pending.path, fields),
        action=action,
        cancel_path=cancel_path,
        form=form,
        with_copper=method is SignInMethod.COPPER and bool(settings().copper_client_id),
    )


def _check_key(request: Request, browser_session: BrowserSession, key: str, email: str) -> str | None:
    """Confirm the session by a key of the same person; returns the error otherwise. Counts as a sign-in attempt."""
    try:
        with rate_limits.limit_key_attempt(request, key, email):
            admin = connect.identify(key, email)
    except AuthorizationLostError:
        refusals.set_reason(request.scope, RefusalReason.SIGN_IN)
        return _record_refusal(browser_session, "with a Copper key that Copper refused")
    except VendorError as error:
        return f"We couldn't reach Copper ({error}). Nothing was changed. Try again in a moment."
    if not is_own_key(browser_session, admin):
        return _record_refusal(browser_session, "with a Copper key of somebody else")
    confirm_session(request, "with a Copper key")
    return None


def is_own_key(browser_session: BrowserSession, admin: connect.CopperAdmin) -> bool:
    """Whether a Copper key belongs to the signed-in person: to the same user of the same Copper account."""
    return (admin.copper_account_id, admin.user_id) == (browser_session.copper_account_id, browser_session.user_id)


def _record_refusal(browser_session: BrowserSession, detail: str) -> str:
    log.info("confirmation.refused", account=browser_session.account_id)
    account_id, user_name = browser_session.account_id, browser_session.user_name
    with account_transaction(account_id) as session:
        audit.record(session, account_id, user_name, "session.confirmation_refused", detail)
    return WRONG_KEY


def confirm_session(request: Request, detail: str) -> None:
    """Confirm the session and replace its token, so that a stolen copy of the old one becomes useless."""
    _renew_session(request, detail)


def renew_session(request: Request) -> None:
    """Replace the session's token without confirming the session."""
    _renew_session(request, None)


def _renew_session(request: Request, confirmation_detail: str | None) -> None:
    token = request.state.browser.token
    browser_session = browser.require_session(request.state.browser)
    is_confirmed = confirmation_detail is not None
    account_id, user_name = browser_session.account_id, browser_session.user_name
    # Pages' own database role cannot read session tokens.
    with transaction() as session:
        new_token = browser_sessions.renew(session, account_id, browser_session.id, token, is_confirmed=is_confirmed)
        if new_token is not None and confirmation_detail is not None:
            audit.record(session, account_id, user_name, "session.confirmed", confirmation_detail)
    if new_token is None:
        raise SignInRequiredError
    browser.replace_session_token(request, new_token, is_confirmed=is_confirmed)


def pending_payload(request: Request, form: FormData) -> dict[str, Any]:
    """A form to store while its sender is at Copper; raises `ProblemError` for a path that is not one of ours."""
    browser_session, path = browser.require_session(request.state.browser), str(form.get(PATH, ""))
    if not LOCAL_PATH.fullmatch(path):
        raise ProblemError(422, "This form can't be continued. Go back and send it again.")
    values = forms.rejected_form(form, {}).values
    fields = {name: entered for name, entered in values.items() if name not in CONFIRMATION_FIELDS}
    return {"session": browser_session.id, "path": path, "fields": fields}


def finish_copper_confirmation(request: Request, identity: CopperIdentity, payload: Mapping[str, Any]) -> Response:
    """Confirm the session if the same user came back from Copper; the page's button submits the pending form."""
    browser_session = browser.require_session(request.state.browser)
    is_same_user = (identity.account.id, identity.user.id) == (
        browser_session.copper_account_id,
        browser_session.user_id,
    )
    if payload["session"] != browser_session.id or not is_same_user:
        _record_refusal(browser_session, "as another Copper user")
        raise ProblemError(
            403,
            f"You are signed in to Copper as {identity.user.name}, and here as {browser_session.user_name}. "
            "Nothing was changed.",
        )
    confirm_session(request, "with Copper")
    return render_page(request, "confirmed.html", pending=PendingForm(payload["path"], payload["fields"]))
