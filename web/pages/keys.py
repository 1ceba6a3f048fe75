"""API keys: created, shown once, revoked; and the panel's address, the last step of set-up."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.datastructures import FormData

from store import access, accounts, audit
from store.access import KeySummary, StateError
from store.browser_sessions import BrowserSession
from store.database import bound
from store.models import SetupStep
from store.secrets import fresh_token
from web import browser, forms, links
from web.forms import FormState, Name
from web.pages import confirm
from web.pages.render import Id, go, page
from web.problems import ProblemError

router = APIRouter()
KEY = "key"
PANEL_KEY_NAME = "Copper panel"
SCOPES = {
    "read": "Read: invoices by record",
    "admin": "Admin: full API access",
    "panel": "Panel: embed in Copper",
}
MESSAGES = {
    "name": "Enter a name so you can recognise this key later.",
    "scope": "Choose a scope.",
}


class NewKey(BaseModel):
    """What the form for a new key asks."""

    name: Annotated[Name, Field(max_length=100)]
    scope: Literal["read", "admin", "panel"] = "read"


def _keys(account_id: int) -> list[KeySummary]:
    with bound(account_id) as database:
        return access.keys(database, account_id)


def _page(request: Request, form: FormState = forms.EMPTY) -> Response:
    session = browser.admin(request.state.browser)
    status = 422 if form.is_refused else 200
    return page(request, "keys.html", status=status, keys=_keys(session.account_id), form=form, scopes=SCOPES)


@router.get("/keys")
def show(request: Request) -> Response:
    """The account's keys."""
    return _page(request)


@router.post("/keys")
@confirm.first("create an API key", back="/keys")
def create(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Create a key; the next page shows it, once."""
    session = browser.admin(request.state.browser)
    wanted = forms.read(NewKey, form, MESSAGES)
    if isinstance(wanted, dict):
        return _page(request, forms.refused(form, wanted))
    ticket = _create(request, session, wanted.name, wanted.scope)
    return go(request, f"/keys/new?ticket={ticket}")


def _create(request: Request, session: BrowserSession, name: str, scope: str) -> str:
    """Create a key, its audit row and what shows it once, in one transaction; returns the ticket that shows it."""
    ticket = fresh_token()
    with bound(session.account_id) as database:
        key = access.make_key(database, session.account_id, name, [scope])
        audit.note(database, session.account_id, session.user_name, "key.made", f"{name} ({scope})")
        values = {"key": key, "scope": scope}
        access.save_state(database, session.account_id, ticket, KEY, request.state.browser.name, values)
    return ticket


def _take(request: Request, session: BrowserSession, ticket: str) -> dict[str, str] | None:
    """The key that a ticket shows, if it was not shown yet, in the browser that created it."""
    with bound(session.account_id) as database:
        taken = access.take_state(database, session.account_id, ticket, request.state.browser.name)
    try:
        return taken.checked(KEY)
    except StateError:
        return None


@router.get("/keys/new")
def show_new(request: Request, ticket: str = "") -> Response:
    """A new key, this once; afterwards the page says that it cannot be shown again."""
    session = browser.admin(request.state.browser)
    if not ticket:
        return go(request, "/keys")
    created = _take(request, session, ticket)
    is_panel = created is not None and created["scope"] == "panel"
    secret = created and (links.panel(created["key"]) if is_panel else created["key"])
    return page(request, "key_created.html", secret=secret, is_panel=is_panel)


@router.get("/keys/{key_id}/revoke")
def ask_to_revoke(request: Request, key_id: Id) -> Response:
    """Say what a key is before it is revoked."""
    session = browser.admin(request.state.browser)
    key = next((key for key in _keys(session.account_id) if key.id == key_id), None)
    if key is None:
        raise ProblemError(404, "This API key doesn't exist, or it was already revoked.")
    return page(request, "revoke.html", key=key, scopes=SCOPES)


@router.post("/keys/{key_id}/revoke")
def revoke(request: Request, key_id: Id, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Revoke a key, from the next request on."""
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        name = access.revoke_key(database, session.account_id, key_id)
        if name is not None:
            audit.note(database, session.account_id, session.user_name, "key.revoked", name)
    if name is None:
        raise ProblemError(404, "This API key doesn't exist, or it was already revoked.")
    return go(request, "/keys", notice=f"API key {name} revoked.")


# The panel in Copper


def panel_keys(account_id: int) -> list[KeySummary]:
    """The keys that open the panel and nothing else, oldest first."""
    return [key for key in _keys(account_id) if key.scopes == ("panel",)]


@router.get("/setup/panel")
def show_panel_setup(request: Request, ticket: str = "") -> Response:
    """How the panel comes into Copper; its address is shown once, when it was just created."""
    session = browser.admin(request.state.browser)
    created = _take(request, session, ticket) if ticket else None
    known = panel_keys(session.account_id)
    with bound(session.account_id) as database:
        step = accounts.setup_step(database, session.account_id)
    opened = [key.last_used_at for key in known if key.last_used_at is not None]
    return page(
        request,
        "panel_setup.html",
        secret=links.panel(created["key"]) if created else None,
        was_shown=bool(ticket) and created is None,
        known=known,
        opened_at=max(opened, default=None),
        in_setup=step is not SetupStep.DONE,
    )


@router.post("/setup/panel")
@confirm.first("create a URL for the panel", back="/setup/panel")
def create_panel_key(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Create an address for the panel; the next page shows it, once."""
    session = browser.admin(request.state.browser)
    return go(request, f"/setup/panel?ticket={_create(request, session, PANEL_KEY_NAME, 'panel')}")


@router.post("/setup/panel/finish")
def finish(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """End set-up, with the panel in Copper or without it."""
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        accounts.finish_setup_step(database, session.account_id, SetupStep.PANEL)
    return go(request, "/status")
