"""Before what a stolen cookie must not do, the person proves once more who they are; this then holds for five minutes.

Whoever signed in with a Copper key enters a key of theirs again, whoever came by Copper's sign-in signs in there again.
The form that was sent travels along in the page that asks, without its secrets, and is carried out after that.
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
from store import audit, browser_sessions
from store.browser_sessions import BrowserSession
from store.database import bound, transaction
from store.models import SignInMethod
from web import browser, forms, refusals, throttle, vendor_calls
from web.browser import SignInNeededError
from web.forms import FormState
from web.pages.render import page
from web.problems import ProblemError
from web.refusals import Reason
from web.vendor_calls import AsyncEndpoint, Endpoint
from worker import connect
from worker.copper.identity import CopperIdentity
from worker.errors import ReconnectNeededError, VendorError

log = structlog.get_logger()
KEY, EMAIL, PATH = "confirm_key", "confirm_email", "confirm_path"
OURS = frozenset({"csrf", KEY, EMAIL, PATH})
LOCAL_PATH = re.compile(r"(/[a-z0-9-]{1,40}){1,5}")
WRONG_KEY = (
    "Copper didn't accept this API key and email address, or they aren't yours. Enter an API key that you created in "
    "this Copper account."
)
Who = Callable[[browser.Browser], BrowserSession]


@dataclass(frozen=True)
class HeldForm:
    """A form that waits for the confirmation: where it is sent to, and its fields without secrets."""

    path: str
    fields: Mapping[str, list[str]]


def first(
    what: str, back: str, who: Who = browser.admin, *, calls_vendor: bool = False
) -> Callable[[Endpoint], AsyncEndpoint]:
    """Have an endpoint that takes a form ask for a confirmation first, unless there is a fresh one.

    `what` goes on after "You are about to"; `back` is where "Cancel" leads. A key that confirms is checked at Copper,
    where `calls_vendor` says that the endpoint calls one anyway.
    """

    def decorate(endpoint: Endpoint) -> AsyncEndpoint:
        @functools.wraps(endpoint)
        def run(request: Request, form: FormData, **arguments: Any) -> Response:
            asked = needed(request, form, what, back, who)
            return asked if asked is not None else endpoint(request=request, form=form, **arguments)

        return vendor_calls.calls_vendor(run, when=lambda arguments: calls_vendor or KEY in arguments["form"])

    return decorate


def needed(request: Request, form: FormData, what: str, back: str, who: Who = browser.admin) -> Response | None:
    """The page that asks for a confirmation; None when there is a fresh one, or the form brought what proves it."""
    session = who(request.state.browser)
    if session.is_confirmed:
        return None
    held = HeldForm(request.url.path, forms.refused(form, {}).values)
    if session.method is SignInMethod.KEY and KEY in form:
        problem = _check_key(request, session, str(form[KEY]).strip(), str(form.get(EMAIL, "")).strip())
        if problem is None:
            return None
        return _ask(request, held, what, back, FormState({EMAIL: [str(form.get(EMAIL, ""))]}, {KEY: problem}))
    return _ask(request, held, what, back)


def _ask(request: Request, held: HeldForm, what: str, back: str, form: FormState = forms.EMPTY) -> Response:
    method = browser.signed_in(request.state.browser).method
    by_copper = method is SignInMethod.COPPER and bool(settings().copper_client_id)
    fields = {name: values for name, values in held.fields.items() if name not in OURS}
    status = 422 if form.is_refused else 200
    known = {"held": HeldForm(held.path, fields), "what": what, "back": back, "form": form, "by_copper": by_copper}
    return page(request, "confirm.html", status=status, **known)


def _check_key(request: Request, session: BrowserSession, key: str, email: str) -> str | None:
    """Confirm the session by a key of the same person; returns what is wrong otherwise. It counts as a sign-in try."""
    try:
        with throttle.key_try(request, key, email):
            admin = connect.identify(key, email)
    except ReconnectNeededError:
        refusals.mark(request.scope, Reason.SIGN_IN)
        return _refused(session, "with a Copper key that Copper refused")
    except VendorError as error:
        return f"We couldn't reach Copper ({error}). Nothing was changed. Try again in a moment."
    if not is_own(session, admin):
        return _refused(session, "with a Copper key of somebody else")
    accept(request, "with a Copper key")
    return None


def is_own(session: BrowserSession, admin: connect.CopperAdmin) -> bool:
    """Whether a Copper key belongs to the person who is signed in: to the same user of the same Copper account."""
    return (admin.copper_account_id, admin.user_id) == (session.copper_account_id, session.user_id)


def _refused(session: BrowserSession, how: str) -> str:
    log.info("confirmation.refused", account=session.account_id)
    with bound(session.account_id) as database:
        audit.note(database, session.account_id, session.user_name, "session.confirmation_refused", how)
    return WRONG_KEY


def accept(request: Request, how: str) -> None:
    """Note the confirmation. The session has a new token from now on: a stolen copy of the old one opens nothing."""
    _renew(request, how)


def renew(request: Request) -> None:
    """Give the session a new token, without a confirmation."""
    _renew(request, None)


def _renew(request: Request, how: str | None) -> None:
    known = request.state.browser
    session = browser.signed_in(known)
    # The role of the pages has no right to any session's token.
    with transaction() as database:
        token = browser_sessions.renew(
            database, session.account_id, session.id, known.token, is_confirmed=how is not None
        )
        if token is not None and how is not None:
            audit.note(database, session.account_id, session.user_name, "session.confirmed", how)
    if token is None:
        raise SignInNeededError
    browser.renew(request, token, is_confirmed=how is not None)


def held_by(request: Request, form: FormData) -> dict[str, Any]:
    """What is kept of a form while its sender is at Copper; raises `ProblemError` for a path that is none of ours."""
    session, path = browser.signed_in(request.state.browser), str(form.get(PATH, ""))
    if not LOCAL_PATH.fullmatch(path):
        raise ProblemError(422, "This form can't be continued. Go back and send it again.")
    fields = {name: values for name, values in forms.refused(form, {}).values.items() if name not in OURS}
    return {"session": session.id, "path": path, "fields": fields}


def come_back(request: Request, who: CopperIdentity, held: Mapping[str, Any]) -> Response:
    """Somebody is back from Copper: if they are who is signed in, a button sends the form that they had filled in."""
    session = browser.signed_in(request.state.browser)
    is_same = (who.account.id, who.user.id) == (session.copper_account_id, session.user_id)
    if held["session"] != session.id or not is_same:
        _refused(session, "as another Copper user")
        said = f"You are signed in to Copper as {who.user.name}, and here as {session.user_name}. Nothing was changed."
        raise ProblemError(403, said)
    accept(request, "with Copper")
    return page(request, "confirmed.html", held=HeldForm(held["path"], held["fields"]))
