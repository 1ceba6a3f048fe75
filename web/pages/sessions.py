"""Who is signed in, and from where: an account's sessions for its admins, a viewer's own ones for the viewer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from store import audit, browser_sessions
from store.browser_sessions import BrowserSession, SessionSummary
from store.database import bound
from web import browser, words
from web.pages import confirm
from web.pages.render import Id, go, page
from web.problems import ProblemError

router = APIRouter()
MAX_LISTED = 200


def _own(session: BrowserSession) -> int | None:
    """Whose sessions somebody may see and end: None is everybody's of the account."""
    return None if session.is_admin else session.user_id


def _list_path(session: BrowserSession) -> str:
    return "/sessions" if session.is_admin else "/viewer"


def _sessions(session: BrowserSession) -> list[SessionSummary]:
    with bound(session.account_id) as database:
        return browser_sessions.open_sessions(database, session.account_id, user_id=_own(session), limit=MAX_LISTED)


@router.get("/sessions")
def show(request: Request) -> Response:
    """The account's sessions, the last used first."""
    session = browser.admin(request.state.browser)
    return page(request, "sessions.html", sessions=_sessions(session), most=MAX_LISTED)


@router.get("/viewer")
def show_own(request: Request) -> Response:
    """What somebody sees who signed in with Copper and is no admin here: their own sessions, the panel's among them."""
    session = browser.signed_in(request.state.browser)
    own = [] if session.is_admin else _sessions(session)
    return page(request, "viewer.html", sessions=own, most=MAX_LISTED)


@router.get("/sessions/{session_id}/end")
def to_list(request: Request, session_id: Id) -> Response:
    """Whoever reloads the address of that form lands on the list."""
    return go(request, _list_path(browser.signed_in(request.state.browser)))


@router.post("/sessions/{session_id}/end")
@confirm.first("end a session", back="/", who=browser.signed_in)
def end(request: Request, session_id: Id, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """End one session, from its next request on."""
    session = browser.signed_in(request.state.browser)
    with bound(session.account_id) as database:
        whose = browser_sessions.end(database, session.account_id, session_id, user_id=_own(session))
        if whose is not None:
            audit.note(database, session.account_id, session.user_name, "session.ended", whose)
    if whose is None:
        raise ProblemError(404, "This session doesn't exist, or it has already ended.")
    return go(request, _list_path(session), notice="Session ended.")


@router.post("/sessions/end-others")
@confirm.first("end all other sessions", back="/", who=browser.signed_in)
def end_others(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """End all sessions but this one."""
    session = browser.signed_in(request.state.browser)
    with bound(session.account_id) as database:
        count = browser_sessions.end_others(database, session.account_id, kept_id=session.id, user_id=_own(session))
        if count:
            said = words.counted(count, "session")
            audit.note(database, session.account_id, session.user_name, "sessions.ended", said)
    return go(request, _list_path(session), notice=f"{words.counted(count, 'session')} ended.")
