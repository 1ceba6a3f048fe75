"""Browsers: cookies, sessions, and forms that are protected against CSRF."""

from __future__ import annotations

import base64
import secrets as randomness
import time
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from runtime.numbers import whole_number
from runtime.settings import settings
from store.accounts import audit, browser_sessions
from store.accounts.browser_sessions import BrowserSession, SessionOrigin
from store.db.crypto import generate_token, sign, unsign
from store.db.database import transaction
from store.db.enums import SignInMethod, Surface
from web.auth.user_agents import browser_label
from web.middleware.refusals import RefusalReason
from web.presentation.problems import ProblemError

BROWSER_COOKIE_SECONDS = 30 * 86_400
NOTICE_SECONDS = 60
DISCONNECTED_SECONDS = 300
MAX_FIELD_BYTES = 64 * 1024
MAX_FORM_FIELDS = 200
REMEMBERED_SECONDS = 365 * 86_400
# Without "cookies", which would clear those of every other application on the same registered domain.
CLEAR_SITE_DATA = '"cache", "storage"'
SELF_REFRESHING = frozenset({"/progress"})
"""Pages that refresh themselves, which is no sign that a person is there."""
OTHER_SITE = "This form was sent from another site. Open the page in Patina and try again."


class SignInRequiredError(Exception):
    """Nobody is signed in; the browser is redirected to the sign-in page."""


def _cookie_name(name: str) -> str:
    """`__Host-` binds a cookie to this host and to TLS, so it is not possible with plain HTTP on localhost."""
    return f"__Host-patina-{name}" if settings().is_https else f"patina-{name}"


@dataclass(frozen=True)
class Browser:
    """One browser: a random name that outlives sessions, the session's token, and the session if there is one.

    `notice` is the result of the last form, which the next page shows once ('': none). `has_new_token` means that the
    response must set the token as a cookie.
    """

    name: str
    is_new: bool
    token: str | None
    session: BrowserSession | None
    notice: str = ""
    has_new_token: bool = False

    def csrf(self) -> str:
        """The CSRF token of this browser and session, which every form must carry."""
        return sign("csrf", f"{self.name}|{self.token or ''}").rpartition(".")[2]

    def set_cookies(self, response: Response) -> Response:
        """Set the cookies for the name and the session's token that the browser does not have yet."""
        if self.is_new:
            _set(response, "browser", sign("browser", self.name), BROWSER_COOKIE_SECONDS)
        if self.has_new_token and self.token:
            set_session_cookie(response, self.token)
        return response


def _set(response: Response, name: str, value: str, seconds: int) -> None:
    response.set_cookie(
        _cookie_name(name), value, max_age=seconds, path="/", secure=settings().is_https, httponly=True, samesite="lax"
    )


def _forget(response: Response, name: str) -> None:
    response.delete_cookie(_cookie_name(name), path="/", secure=settings().is_https, httponly=True, samesite="lax")


def set_notice(response: Response, notice: str) -> None:
    """Have the next page show the result of a form, once and within a minute."""
    _set(response, "notice", sign("notice", base64.urlsafe_b64encode(notice.encode()).decode()), NOTICE_SECONDS)


def clear_notice(response: Response) -> None:
    """Remove the notice after it was shown."""
    _forget(response, "notice")


def _notice(request: Request) -> str:
    value = unsign("notice", request.cookies.get(_cookie_name("notice"), ""))
    return base64.urlsafe_b64decode(value).decode() if value else ""


def set_disconnected_cookie(response: Response) -> None:
    """Remember that this browser has just disconnected an account."""
    _set(response, "goodbye", sign("goodbye", str(int(time.time()))), DISCONNECTED_SECONDS)


def pop_disconnected_cookie(request: Request, response: Response) -> bool:
    """Whether this browser disconnected an account in the last five minutes; true only once."""
    disconnected_at = whole_number(unsign("goodbye", request.cookies.get(_cookie_name("goodbye"), "")) or "")
    _forget(response, "goodbye")
    return disconnected_at is not None and 0 <= time.time() - disconnected_at <= DISCONNECTED_SECONDS


def _set_embedded(response: Response, name: str, value: str, seconds: int) -> None:
    """Set a cookie for a page that is embedded in another site, partitioned by that site (CHIPS).

    Written by hand, because Starlette supports `Partitioned` only from Python 3.14 on.
    """
    parts = f"Max-Age={seconds}; Path=/; HttpOnly; Secure; SameSite=None; Partitioned"
    response.headers.append("set-cookie", f"{_cookie_name(name)}={value}; {parts}")


def from_request(request: Request) -> Browser:
    """The browser that sent a request; cookies without a valid signature are ignored."""
    name = unsign("browser", request.cookies.get(_cookie_name("browser"), ""))
    token, browser_session = _read_session(request, "session")
    token = token if browser_session else None
    return Browser(name or generate_token(), name is None, token, browser_session, _notice(request))


def _read_session(request: Request, name: str) -> tuple[str | None, BrowserSession | None]:
    """The token in a cookie, and its session if it is valid."""
    token = _token(request, name)
    if not token:
        return None, None
    with transaction() as session:
        return token, browser_sessions.find_by_token(session, token, is_use=not _is_automatic(request))


def _token(request: Request, name: str) -> str | None:
    return unsign(name, request.cookies.get(_cookie_name(name), "")) or None


def _is_automatic(request: Request) -> bool:
    """Whether a page sent the request without its user, which does not extend the session."""
    return "prefer" in request.headers or request.url.path in SELF_REFRESHING


def session_token(request: Request) -> str | None:
    """The token of this browser's session, if its signature is valid; the session may have ended."""
    return unsign("session", request.cookies.get(_cookie_name("session"), "")) or None


def panel_token(request: Request) -> str | None:
    """The token of this browser's panel session, if its signature is valid; the session may have ended."""
    return unsign("panel", request.cookies.get(_cookie_name("panel"), "")) or None


def panel_session(request: Request) -> BrowserSession | None:
    """This browser's panel session, if there is one."""
    return _read_session(request, "panel")[1]


def start_panel_session(
    request: Request, response: Response, account_id: int, user_id: int, user_name: str, detail: str
) -> None:
    """Start a panel session, always with the viewer role. `detail` is for the audit log."""
    origin = SessionOrigin(SignInMethod.COPPER, Surface.PANEL, browser_label(request))
    replaced_token = _token(request, "panel")
    with transaction() as session:
        token = browser_sessions.create(
            session, account_id, "viewer", user_id, user_name, origin, replaces=replaced_token
        )
        audit.record(session, account_id, user_name, "viewer.signed_in", detail)
    _set_embedded(response, "panel", sign("panel", token), browser_sessions.max_age_seconds())


def set_session_cookie(response: Response, token: str) -> None:
    """Set the session cookie; always the token of a new session, so session fixation is impossible."""
    _set(response, "session", sign("session", token), browser_sessions.max_age_seconds())


def _user_key(account_id: int, user_id: int) -> str:
    return f"{account_id}.{user_id}"


def is_remembered_user(request: Request, account_id: int, user_id: int) -> bool:
    """Whether this user was the last to sign in with this browser, within a year."""
    remembered = unsign("known", request.cookies.get(_cookie_name("known"), "")) or ""
    return randomness.compare_digest(remembered, _user_key(account_id, user_id))


def remember_user(response: Response, account_id: int, user_id: int) -> None:
    """Remember in a cookie which user signed in."""
    _set(response, "known", sign("known", _user_key(account_id, user_id)), REMEMBERED_SECONDS)


def replace_session_token(request: Request, token: str, *, is_confirmed: bool) -> None:
    """Replace the token of the browser's session; the response sets the cookie."""
    browser: Browser = request.state.browser
    browser_session = browser.session
    if browser_session is not None and is_confirmed:
        browser_session = replace(browser_session, is_confirmed=True)
    request.state.browser = replace(browser, token=token, session=browser_session, has_new_token=True)


def end_session(browser: Browser, response: Response) -> None:
    """Sign out."""
    if browser.token and browser.session:
        with transaction() as session:
            browser_sessions.end_by_token(session, browser.token)
            audit.record(session, browser.session.account_id, browser.session.user_name, "session.signed_out")
    clear_session_cookie(response)


def clear_session_cookie(response: Response) -> None:
    """Delete the session cookie, and the pages that the browser has cached."""
    _forget(response, "session")
    response.headers["Clear-Site-Data"] = CLEAR_SITE_DATA


def require_session(browser: Browser) -> BrowserSession:
    """The browser's session; raises `SignInRequiredError` if there is none."""
    if browser.session is None:
        raise SignInRequiredError
    return browser.session


def require_admin(browser: Browser) -> BrowserSession:
    """The session of an admin; raises `SignInRequiredError` if there is none, `ProblemError` 403 for a viewer."""
    browser_session = require_session(browser)
    if not browser_session.is_admin:
        raise ProblemError(403, "This page is for admins. Ask an admin to add you, or sign in with a Copper API key.")
    return browser_session


async def read_form(request: Request) -> FormData:
    """The request's form; raises `ProblemError` if it is too large or was not sent by one of our own pages."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise ProblemError(403, OTHER_SITE, reason=RefusalReason.FORM)
    origin = request.headers.get("origin")
    if origin and origin != "null" and _host_of(origin) != request.headers.get("host"):
        raise ProblemError(403, OTHER_SITE, reason=RefusalReason.FORM)
    form = await request.form(max_fields=MAX_FORM_FIELDS, max_files=0, max_part_size=MAX_FIELD_BYTES)
    token = form.get("csrf")
    expected = request.state.browser.csrf()
    if not isinstance(token, str) or not randomness.compare_digest(token.encode(), expected.encode()):
        detail = "This form has expired. Reload the page and try again."
        raise ProblemError(403, detail, reason=RefusalReason.FORM)
    return form


def _host_of(origin: str) -> str | None:
    """The host of an `Origin`; None if it is not a valid URL."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
