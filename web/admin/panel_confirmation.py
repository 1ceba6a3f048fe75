"""Confirmation of a panel sign-in: its window asks for the number that the panel which opened it shows.

An attacker may send somebody a link to this window, and would be signed in as them if they passed its code on. Whoever
was lured here by a link has no panel that shows the number.
"""

from __future__ import annotations

import base64
import secrets as randomness
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from store.accounts import accounts, oauth_state
from store.accounts.oauth_state import NO_ACCOUNT, OAuthStateError
from store.db.crypto import generate_token
from store.db.database import transaction
from web.admin import forms
from web.admin.forms import FormState
from web.admin.render import redirect, render_message, render_page
from web.auth import browser, rate_limits
from web.middleware.client_address import client_label
from worker.vendors.copper.identity import CopperIdentity

log = structlog.get_logger()
router = APIRouter()
PANEL, CONFIRM = "panel", "confirm"
CONFIRM_PATH = "/signin/copper/confirm"
CODE_BYTES = 10
MAX_ATTEMPTS = 3
WRONG_NUMBER = "The panel shows another number. Check it there and try again."
TOO_MANY_ATTEMPTS = "That wasn't the number in the panel. Go back to the panel in Copper and sign in again."


def verification_number(challenge: str) -> str:
    """The two digits that the panel shows while its window is open; `panel.js` computes them the same way."""
    digest = base64.urlsafe_b64decode(f"{challenge}=")
    return str(int.from_bytes(digest[:2], "big") % 90 + 10)


def confirmation_page(request: Request, identity: CopperIdentity, challenge: str) -> Response | None:
    """Ask for the panel's number, naming user and account; None if the account isn't connected."""
    with transaction() as session:
        if accounts.find_by_copper_account_id(session, identity.account.id) is None:
            return None
        token = generate_token()
        values = {
            "challenge": challenge,
            "copper_account": identity.account.id,
            "account": identity.account.name,
            "user": identity.user.id,
            "name": identity.user.name,
            "tries": MAX_ATTEMPTS,
        }
        oauth_state.save(session, NO_ACCOUNT, token, CONFIRM, request.state.browser.name, values)
    return _confirmation_page(request, token, values)


def _confirmation_page(
    request: Request, token: str, values: dict[str, Any], form: FormState = forms.EMPTY_FORM
) -> Response:
    return render_page(
        request,
        "panel_confirm.html",
        status=422 if form.has_errors else 200,
        token=token,
        user=values["name"],
        account=values["account"],
        form=form,
    )


@router.post(CONFIRM_PATH)
def confirm(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Give the window its code if the number is right; asks again after a wrong number, twice."""
    rate_limits.limit_viewer_sign_in(request)
    token, number = str(form.get("token", "")), forms.clean_line(str(form.get("number", "")))
    with transaction() as session:
        stored = oauth_state.consume(session, NO_ACCOUNT, token, request.state.browser.name)
    try:
        values = stored.verify(CONFIRM)
    except OAuthStateError as error:
        return _error_page(request, f"Something went wrong: {error}. Go back to the panel in Copper and sign in again.")
    if number == verification_number(values["challenge"]):
        return _issue_code(request, values)
    log.info("panel_sign_in.refused", reason="wrong number", tries_left=values["tries"] - 1)
    if values["tries"] <= 1:
        return _error_page(request, TOO_MANY_ATTEMPTS)
    values["tries"] -= 1
    with transaction() as session:
        oauth_state.save(session, NO_ACCOUNT, token, CONFIRM, request.state.browser.name, values)
    return _confirmation_page(request, token, values, forms.rejected_form(form, {"number": WRONG_NUMBER}))


def _error_page(request: Request, message: str) -> Response:
    return render_message(request, "Not signed in", message, status=400)


def _issue_code(request: Request, values: dict[str, Any]) -> Response:
    """Redirect to the page that passes a one-time code to the panel; the code is only in the URL's fragment."""
    code = base64.b32encode(randomness.token_bytes(CODE_BYTES)).decode()
    identity = {"user": values["user"], "name": values["name"], "window": client_label(request)}
    with transaction() as session:
        account_id = accounts.find_by_copper_account_id(session, values["copper_account"])
        if account_id is None:
            return _error_page(request, "This Copper account isn't connected any more.")
        oauth_state.save(session, account_id, code, PANEL, values["challenge"], identity)
    return redirect(request, f"/panel/signed-in#{code}")
