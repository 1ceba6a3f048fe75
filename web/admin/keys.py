"""API keys: creating, showing once, revoking; and the panel's URL, the last step of set-up."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.datastructures import FormData

from services import access
from store.accounts import accounts, api_keys, oauth_state
from store.accounts.api_keys import ApiKeySummary
from store.accounts.browser_sessions import BrowserSession
from store.accounts.oauth_state import OAuthStateError
from store.db.crypto import generate_token
from store.db.database import account_transaction
from store.db.enums import SetupStep
from web.admin import forms
from web.admin.confirmation import require_confirmation
from web.admin.forms import FormState, Name
from web.admin.render import Id, redirect, render_page
from web.auth import browser
from web.presentation import links
from web.presentation.problems import ProblemError

router = APIRouter()
NEW_KEY = "key"
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


class NewKeyForm(BaseModel):
    """The form for a new key."""

    name: Annotated[Name, Field(max_length=100)]
    scope: Literal["read", "admin", "panel"] = "read"


def _list_keys(account_id: int) -> list[ApiKeySummary]:
    with account_transaction(account_id) as session:
        return api_keys.list_active(session, account_id)


def _keys_page(request: Request, form: FormState = forms.EMPTY_FORM) -> Response:
    browser_session = browser.require_admin(request.state.browser)
    return render_page(
        request,
        "keys.html",
        status=422 if form.has_errors else 200,
        keys=_list_keys(browser_session.account_id),
        form=form,
        scopes=SCOPES,
    )


@router.get("/keys")
def show(request: Request) -> Response:
    """The account's API keys."""
    return _keys_page(request)


@router.post("/keys")
@require_confirmation("create an API key", cancel_path="/keys")
def create(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Create a key; the next page shows it once."""
    browser_session = browser.require_admin(request.state.browser)
    new_key = forms.parse_form(NewKeyForm, form, MESSAGES)
    if isinstance(new_key, dict):
        return _keys_page(request, forms.rejected_form(form, new_key))
    ticket = _create_key(request, browser_session, new_key.name, new_key.scope)
    return redirect(request, f"/keys/new?ticket={ticket}")


def _create_key(request: Request, browser_session: BrowserSession, name: str, scope: str) -> str:
    """Create a key, its audit entry and a one-time ticket to show it, in one transaction; returns the ticket."""
    ticket = generate_token()
    with account_transaction(browser_session.account_id) as session:
        key = access.add_key(session, browser_session.account_id, name, [scope], actor=browser_session.user_name)
        values = {"key": key, "scope": scope}
        oauth_state.save(session, browser_session.account_id, ticket, NEW_KEY, request.state.browser.name, values)
    return ticket


def _redeem_ticket(request: Request, browser_session: BrowserSession, ticket: str) -> dict[str, str] | None:
    """The key and scope of a ticket; None if it was already used, or was issued to another browser."""
    with account_transaction(browser_session.account_id) as session:
        stored = oauth_state.consume(session, browser_session.account_id, ticket, request.state.browser.name)
    try:
        return stored.verify(NEW_KEY)
    except OAuthStateError:
        return None


@router.get("/keys/new")
def show_new(request: Request, ticket: str = "") -> Response:
    """Show a new key once; afterwards the page says that it cannot be shown again."""
    browser_session = browser.require_admin(request.state.browser)
    if not ticket:
        return redirect(request, "/keys")
    created = _redeem_ticket(request, browser_session, ticket)
    is_panel = created is not None and created["scope"] == "panel"
    secret = created and (links.panel(created["key"]) if is_panel else created["key"])
    return render_page(request, "key_created.html", secret=secret, is_panel=is_panel)


@router.get("/keys/{key_id}/revoke")
def show_revoke(request: Request, key_id: Id) -> Response:
    """Describe a key before it is revoked."""
    browser_session = browser.require_admin(request.state.browser)
    key = next((key for key in _list_keys(browser_session.account_id) if key.id == key_id), None)
    if key is None:
        raise ProblemError(404, "This API key doesn't exist, or it was already revoked.")
    return render_page(request, "revoke.html", key=key, scopes=SCOPES)


@router.post("/keys/{key_id}/revoke")
def revoke(request: Request, key_id: Id, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Revoke a key; its next request is rejected."""
    browser_session = browser.require_admin(request.state.browser)
    name = access.revoke_key(browser_session.account_id, key_id, actor=browser_session.user_name)
    if name is None:
        raise ProblemError(404, "This API key doesn't exist, or it was already revoked.")
    return redirect(request, "/keys", notice=f"API key {name} revoked.")


# The panel in Copper


def panel_keys(account_id: int) -> list[ApiKeySummary]:
    """The keys with the panel scope only, oldest first."""
    return [key for key in _list_keys(account_id) if key.scopes == ("panel",)]


@router.get("/setup/panel")
def show_panel_setup(request: Request, ticket: str = "") -> Response:
    """How to add the panel to Copper; a URL that was just created is shown once."""
    browser_session = browser.require_admin(request.state.browser)
    created = _redeem_ticket(request, browser_session, ticket) if ticket else None
    existing_keys = panel_keys(browser_session.account_id)
    with account_transaction(browser_session.account_id) as session:
        step = accounts.get_setup_step(session, browser_session.account_id)
    opened = [key.last_used_at for key in existing_keys if key.last_used_at is not None]
    return render_page(
        request,
        "panel_setup.html",
        secret=links.panel(created["key"]) if created else None,
        was_shown=bool(ticket) and created is None,
        existing_keys=existing_keys,
        last_opened_at=max(opened, default=None),
        in_setup=step is not SetupStep.DONE,
    )


@router.post("/setup/panel")
@require_confirmation("create a URL for the panel", cancel_path="/setup/panel")
def create_panel_key(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Create a URL for the panel; the next page shows it once."""
    browser_session = browser.require_admin(request.state.browser)
    ticket = _create_key(request, browser_session, PANEL_KEY_NAME, "panel")
    return redirect(request, f"/setup/panel?ticket={ticket}")


@router.post("/setup/panel/finish")
def finish_setup(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Finish set-up, with or without the panel."""
    browser_session = browser.require_admin(request.state.browser)
    with account_transaction(browser_session.account_id) as session:
        accounts.complete_setup_step(session, browser_session.account_id, SetupStep.PANEL)
    return redirect(request, "/status")
