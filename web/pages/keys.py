"""API keys: made, shown once, revoked."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from store import access, audit
from store.database import bound
from web import browser, links
from web.pages.render import go, page
from web.problems import ProblemError
from worker import connect

router = APIRouter()


def _page(
    request: Request, *, made: str | None = None, is_panel: bool = False, error: str | None = None, status: int = 200
) -> Response:
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        known = access.keys(database, session.account_id)
    return page(request, "keys.html", status=status, keys=known, made=made, is_panel=is_panel, error=error)


@router.get("/keys")
def show(request: Request) -> Response:
    """The account's keys."""
    return _page(request)


@router.post("/keys")
def make(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Make a key; the page that answers is the only one that ever shows it."""
    session = browser.admin(request.state.browser)
    name, scope = str(form.get("name", "")).strip()[:100], str(form.get("scope", "read"))
    if not name or scope not in access.SCOPES:
        return _page(request, error="Give the key a name, so that you know it when you want to revoke it.", status=422)
    made = connect.make_key(session.account_id, name, [scope], who=session.user_name)
    return _page(request, made=links.panel(made) if scope == "panel" else made, is_panel=scope == "panel")


@router.post("/keys/{key_id}/revoke")
def revoke(request: Request, key_id: int, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Revoke a key, from the next request on."""
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        name = access.revoke_key(database, session.account_id, key_id)
        if name is not None:
            audit.note(database, session.account_id, session.user_name, "key.revoked", name)
    if name is None:
        raise ProblemError(404, "Your account has no such key, or it was revoked already.")
    return go(request, "/keys")
