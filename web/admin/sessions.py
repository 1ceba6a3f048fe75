"""Open sessions: all of an account for its admins, their own for viewers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from runtime.numbers import count_noun
from services import access
from store.accounts import browser_sessions
from store.accounts.browser_sessions import BrowserSession, SessionSummary
from store.db.database import account_transaction
from web.admin.confirmation import require_confirmation
from web.admin.render import Id, redirect, render_page
from web.auth import browser
from web.presentation.problems import ProblemError

router = APIRouter()
MAX_LISTED = 200


def _user_filter(browser_session: BrowserSession) -> int | None:
    """The user whose sessions somebody may see and end; None for all users of the account."""
    return None if browser_session.is_admin else browser_session.user_id


def _list_path(browser_session: BrowserSession) -> str:
    return "/sessions" if browser_session.is_admin else "/viewer"


def _list_sessions(browser_session: BrowserSession) -> list[SessionSummary]:
    with account_transaction(browser_session.account_id) as session:
        return browser_sessions.list_open(
            session, browser_session.account_id, user_id=_user_filter(browser_session), limit=MAX_LISTED
        )


@router.get("/sessions")
def show(request: Request) -> Response:
    """The account's sessions, most recently used first."""
    browser_session = browser.require_admin(request.state.browser)
    return render_page(request, "sessions.html", sessions=_list_sessions(browser_session), max_listed=MAX_LISTED)


@router.get("/viewer")
def show_own(request: Request) -> Response:
    """The page of a viewer who signed in with Copper: their own sessions, including the panel's."""
    browser_session = browser.require_session(request.state.browser)
    own = [] if browser_session.is_admin else _list_sessions(browser_session)
    return render_page(request, "viewer.html", sessions=own, max_listed=MAX_LISTED)


@router.get("/sessions/{session_id}/end")
def redirect_to_sessions(request: Request, session_id: Id) -> Response:
    """Redirect a GET of the form's path (a reload) to the list."""
    return redirect(request, _list_path(browser.require_session(request.state.browser)))


@router.post("/sessions/{session_id}/end")
@require_confirmation("end a session", cancel_path="/", require_session=browser.require_session)
def end(request: Request, session_id: Id, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """End one session; its next request is not signed in."""
    browser_session = browser.require_session(request.state.browser)
    owner = access.end_session(
        browser_session.account_id,
        session_id,
        actor=browser_session.user_name,
        user_id=_user_filter(browser_session),
    )
    if owner is None:
        raise ProblemError(404, "This session doesn't exist, or it has already ended.")
    return redirect(request, _list_path(browser_session), notice="Session ended.")


@router.post("/sessions/end-others")
@require_confirmation("end all other sessions", cancel_path="/", require_session=browser.require_session)
def end_others(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """End all other sessions."""
    browser_session = browser.require_session(request.state.browser)
    count = access.end_sessions(
        browser_session.account_id,
        actor=browser_session.user_name,
        except_id=browser_session.id,
        user_id=_user_filter(browser_session),
    )
    return redirect(request, _list_path(browser_session), notice=f"{count_noun(count, 'session')} ended.")
