"""The window that signs a viewer in to the panel asks whether they opened it: by the number that their panel shows.

A link to this window may come from anybody, and whoever signs in and passes its code on has let somebody else in under
their name. Who was sent here by a link has no panel that shows the number.
"""

from __future__ import annotations

import base64
import secrets as randomness
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from store import access, accounts
from store.access import ANYBODY, StateError
from store.database import transaction
from store.secrets import fresh_token
from web import browser, forms, throttle
from web.client_address import client_label
from web.forms import FormState
from web.pages.render import go, page
from worker.copper.identity import CopperIdentity

log = structlog.get_logger()
router = APIRouter()
PANEL, CONFIRM = "panel", "confirm"
PATH = "/signin/copper/confirm"
CODE_BYTES = 10
TRIES = 3
WRONG_NUMBER = "The panel shows another number. Check it there and try again."
ENDED = "That wasn't the number in the panel. Go back to the panel in Copper and sign in again."


def number(challenge: str) -> str:
    """The two digits that a panel shows while its window is open: from its challenge, as `panel.js` computes them."""
    digest = base64.urlsafe_b64decode(f"{challenge}=")
    return str(int.from_bytes(digest[:2], "big") % 90 + 10)


def ask(request: Request, who: CopperIdentity, challenge: str) -> Response | None:
    """Name who is about to sign in where, and ask for the panel's number; None when their account isn't connected."""
    with transaction() as session:
        if accounts.account_of_copper(session, who.account.id) is None:
            return None
        token = fresh_token()
        values = {
            "challenge": challenge,
            "copper_account": who.account.id,
            "account": who.account.name,
            "user": who.user.id,
            "name": who.user.name,
            "tries": TRIES,
        }
        access.save_state(session, ANYBODY, token, CONFIRM, request.state.browser.name, values)
    return _page(request, token, values)


def _page(request: Request, token: str, values: dict[str, Any], form: FormState = forms.EMPTY) -> Response:
    return page(
        request,
        "panel_confirm.html",
        status=422 if form.is_refused else 200,
        token=token,
        user=values["name"],
        account=values["account"],
        form=form,
    )


@router.post(PATH)
def confirm(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Hand the code to the window that knows the number; a wrong one is asked for again, twice."""
    throttle.viewer_sign_in(request)
    token, given = str(form.get("token", "")), forms.line(str(form.get("number", "")))
    with transaction() as session:
        taken = access.take_state(session, ANYBODY, token, request.state.browser.name)
    try:
        values = taken.checked(CONFIRM)
    except StateError as problem:
        return _ended(request, f"Something went wrong: {problem}. Go back to the panel in Copper and sign in again.")
    if given == number(values["challenge"]):
        return _hand_over(request, values)
    log.info("panel_sign_in.refused", reason="wrong number", tries_left=values["tries"] - 1)
    if values["tries"] <= 1:
        return _ended(request, ENDED)
    values["tries"] -= 1
    with transaction() as session:
        access.save_state(session, ANYBODY, token, CONFIRM, request.state.browser.name, values)
    return _page(request, token, values, forms.refused(form, {"number": WRONG_NUMBER}))


def _ended(request: Request, said: str) -> Response:
    return page(request, "message.html", status=400, title="Not signed in", said=said, link=None)


def _hand_over(request: Request, values: dict[str, Any]) -> Response:
    """Give the window a code for the panel that opened it; it stands in the address's fragment alone."""
    code = base64.b32encode(randomness.token_bytes(CODE_BYTES)).decode()
    carried = {"user": values["user"], "name": values["name"], "window": client_label(request)}
    with transaction() as session:
        account_id = accounts.account_of_copper(session, values["copper_account"])
        if account_id is None:
            return _ended(request, "This Copper account isn't connected any more.")
        access.save_state(session, account_id, code, PANEL, values["challenge"], carried)
    return go(request, f"/panel/signed-in#{code}")
