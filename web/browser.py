"""A browser and who sits in front of it: its cookies, its session, and forms that only our own pages can send."""

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
from store import audit, browser_sessions
from store.browser_sessions import BrowserSession, SessionOrigin
from store.database import transaction
from store.models import SignInMethod, Surface
from store.secrets import fresh_token, sign, signed
from web.clients import client_of
from web.problems import ProblemError
from web.refusals import Reason

BROWSER_SECONDS = 30 * 86_400
NOTICE_SECONDS = 60
GOODBYE_SECONDS = 300
FORM_BYTES = 64 * 1024
FORM_FIELDS = 200
KNOWN_SECONDS = 365 * 86_400
# Not "cookies": that would clear those of every other application on the same registered domain.
CLEAR_SITE_DATA = '"cache", "storage"'
REFRESHING = frozenset({"/progress"})
"""Pages that load themselves again and again: nobody need be there for that."""
OTHER_SITE = "This form was sent from another site. Open the page in Patina and try again."


class SignInNeededError(Exception):
    """Nobody is signed in: the browser is sent to the sign-in page."""


def _name(what: str) -> str:
    """`__Host-` binds a cookie to this host and to TLS; plain http on this machine cannot have it."""
    return f"__Host-patina-{what}" if settings().is_https else f"patina-{what}"


@dataclass(frozen=True)
class Browser:
    """One browser: a random name that outlives sessions, the session's token, and the session if one is open.

    `notice` is what the last form came to, for the next page to say once; '' where there is nothing to say.
    `is_renewed` says that the token is one that the browser does not have yet.
    """

    name: str
    is_new: bool
    token: str | None
    session: BrowserSession | None
    notice: str = ""
    is_renewed: bool = False

    def csrf(self) -> str:
        """What a form of this browser and session must carry."""
        return sign("csrf", f"{self.name}|{self.token or ''}").rpartition(".")[2]

    def dress(self, answer: Response) -> Response:
        """Give the browser its name and its session's token, as far as it does not have them yet."""
        if self.is_new:
            _set(answer, "browser", sign("browser", self.name), BROWSER_SECONDS)
        if self.is_renewed and self.token:
            keep_session(answer, self.token)
        return answer


def _set(answer: Response, what: str, value: str, seconds: int) -> None:
    answer.set_cookie(
        _name(what), value, max_age=seconds, path="/", secure=settings().is_https, httponly=True, samesite="lax"
    )


def _forget(answer: Response, what: str) -> None:
    answer.delete_cookie(_name(what), path="/", secure=settings().is_https, httponly=True, samesite="lax")


def leave_notice(answer: Response, notice: str) -> None:
    """Have the next page say what a form came to, within a minute and once."""
    _set(answer, "notice", sign("notice", base64.urlsafe_b64encode(notice.encode()).decode()), NOTICE_SECONDS)


def forget_notice(answer: Response) -> None:
    """It was said."""
    _forget(answer, "notice")


def _notice(request: Request) -> str:
    value = signed("notice", request.cookies.get(_name("notice"), ""))
    return base64.urlsafe_b64decode(value).decode() if value else ""


def mark_goodbye(answer: Response) -> None:
    """Note that this browser has just disconnected an account."""
    _set(answer, "goodbye", sign("goodbye", str(int(time.time()))), GOODBYE_SECONDS)


def take_goodbye(request: Request, answer: Response) -> bool:
    """Whether this browser has just disconnected an account; once, and within five minutes."""
    at = whole_number(signed("goodbye", request.cookies.get(_name("goodbye"), "")) or "")
    _forget(answer, "goodbye")
    return at is not None and 0 <= time.time() - at <= GOODBYE_SECONDS


def _set_embedded(answer: Response, what: str, value: str, seconds: int) -> None:
    """A cookie for a page within another site's: kept for that site alone (CHIPS), so it says nothing elsewhere.

    Written by hand, as Starlette knows `Partitioned` from Python 3.14 on only.
    """
    parts = f"Max-Age={seconds}; Path=/; HttpOnly; Secure; SameSite=None; Partitioned"
    answer.headers.append("set-cookie", f"{_name(what)}={value}; {parts}")


def of(request: Request) -> Browser:
    """The browser that sent a request; cookies that we did not sign are as good as none."""
    name = signed("browser", request.cookies.get(_name("browser"), ""))
    token, session = _signed_in(request, "session")
    return Browser(name or fresh_token(), name is None, token if session else None, session, _notice(request))


def _signed_in(request: Request, what: str) -> tuple[str | None, BrowserSession | None]:
    """The token in one of our cookies, and the session that it opens."""
    token = _token(request, what)
    if not token:
        return None, None
    with transaction() as database:
        return token, browser_sessions.of_token(database, token, is_use=not _is_automatic(request))


def _token(request: Request, what: str) -> str | None:
    return signed(what, request.cookies.get(_name(what), "")) or None


def _is_automatic(request: Request) -> bool:
    """Whether a page asks by itself, which keeps no session open: panels wait for changes, some pages reload."""
    return "prefer" in request.headers or request.url.path in REFRESHING


def session_token(request: Request) -> str | None:
    """The token of this browser's sign-in, if it is one of ours; whether it still opens anything is not asked."""
    return signed("session", request.cookies.get(_name("session"), "")) or None


def panel_token(request: Request) -> str | None:
    """The same of its sign-in to the panel."""
    return signed("panel", request.cookies.get(_name("panel"), "")) or None


def panel_session(request: Request) -> BrowserSession | None:
    """Who signed in to the panel in this browser, if anybody."""
    return _signed_in(request, "panel")[1]


def open_panel_session(
    request: Request, answer: Response, account_id: int, user_id: int, user_name: str, detail: str
) -> None:
    """Sign somebody in to the panel: a viewer, whoever they are elsewhere. `detail` is for the audit log."""
    origin = SessionOrigin(SignInMethod.COPPER, Surface.PANEL, client_of(request))
    older = _token(request, "panel")
    with transaction() as database:
        token = browser_sessions.open_session(
            database, account_id, "viewer", user_id, user_name, origin, replaces=older
        )
        audit.note(database, account_id, user_name, "viewer.signed_in", detail)
    _set_embedded(answer, "panel", sign("panel", token), browser_sessions.max_seconds())


def keep_session(answer: Response, token: str) -> None:
    """Sign a browser in: always with a new session's token, so that nobody can have planted it."""
    _set(answer, "session", sign("session", token), browser_sessions.max_seconds())


def _user(account_id: int, user_id: int) -> str:
    return f"{account_id}.{user_id}"


def is_known(request: Request, account_id: int, user_id: int) -> bool:
    """Whether the same user signed in last in this browser, within a year."""
    known = signed("known", request.cookies.get(_name("known"), "")) or ""
    return randomness.compare_digest(known, _user(account_id, user_id))


def make_known(answer: Response, account_id: int, user_id: int) -> None:
    """Remember, in the browser alone, who signed in."""
    _set(answer, "known", sign("known", _user(account_id, user_id)), KNOWN_SECONDS)


def renew(request: Request, token: str, *, is_confirmed: bool) -> None:
    """Give the request's browser the token that replaces its session's, with whatever answer it gets."""
    old: Browser = request.state.browser
    session = old.session
    if session is not None and is_confirmed:
        session = replace(session, is_confirmed=True)
    request.state.browser = replace(old, token=token, session=session, is_renewed=True)


def close_session(browser: Browser, answer: Response) -> None:
    """Sign out."""
    if browser.token and browser.session:
        with transaction() as database:
            browser_sessions.end_of_token(database, browser.token)
            audit.note(database, browser.session.account_id, browser.session.user_name, "session.signed_out")
    forget_session(answer)


def forget_session(answer: Response) -> None:
    """Have the browser drop its session's cookie, and what it keeps of our pages."""
    _forget(answer, "session")
    answer.headers["Clear-Site-Data"] = CLEAR_SITE_DATA


def signed_in(browser: Browser) -> BrowserSession:
    """The session of whoever is signed in; raises `SignInNeededError` for nobody."""
    if browser.session is None:
        raise SignInNeededError
    return browser.session


def admin(browser: Browser) -> BrowserSession:
    """The admin's session; raises `SignInNeededError` for nobody, `ProblemError` 403 for a viewer."""
    session = signed_in(browser)
    if not session.is_admin:
        raise ProblemError(403, "This page is for admins. Ask an admin to add you, or sign in with a Copper API key.")
    return session


async def form(request: Request) -> FormData:
    """The request's form, within bounds, sent by one of our own pages; raises `ProblemError` otherwise."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise ProblemError(403, OTHER_SITE, reason=Reason.FORM)
    origin = request.headers.get("origin")
    if origin and origin != "null" and _host_of(origin) != request.headers.get("host"):
        raise ProblemError(403, OTHER_SITE, reason=Reason.FORM)
    sent = await request.form(max_fields=FORM_FIELDS, max_files=0, max_part_size=FORM_BYTES)
    given = sent.get("csrf")
    wanted = request.state.browser.csrf()
    if not isinstance(given, str) or not randomness.compare_digest(given.encode(), wanted.encode()):
        said = "This form has expired. Reload the page and try again."
        raise ProblemError(403, said, reason=Reason.FORM)
    return sent


def _host_of(origin: str) -> str | None:
    """The host of an `Origin`; None for one that is no address at all."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
