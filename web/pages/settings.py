"""Settings: what is shown, to whom; the connections and how they do."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from store import access, accounts, audit
from store.accounts import Choices
from store.database import bound
from store.models import RecordType
from web import browser, throttle
from web.pages.connect import key_problem
from web.pages.render import go, page
from web.pages.status import overview_of
from web.problems import ProblemError
from worker import connect
from worker.budget import Purpose
from worker.copper.client import connected, teams_of
from worker.copper.wire import WireUser
from worker.errors import NotThereError, VendorError

router = APIRouter()
MOST_SHOWN = 50


def _users(account_id: int) -> tuple[list[WireUser], str | None]:
    """The account's users with their teams, and what to say when Copper cannot be asked."""
    try:
        return connected(account_id, Purpose.PERSON).users(), None
    except VendorError as error:
        return [], f"The teams could not be read from Copper just now ({error}); those chosen before stay."


def _settings_page(
    request: Request, *, first: bool, saved: bool, error: str | None = None, status: int = 200
) -> Response:
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        choices = accounts.choices(database, session.account_id)
        organisations = accounts.organisations(database, session.account_id)
        lost = accounts.lost_organisations(database, session.account_id)
        copper = accounts.copper_state(database, session.account_id)
        connections = accounts.connections(database, session.account_id)
        named = access.named_admins(database, session.account_id)
    users, teams_problem = _users(session.account_id)
    teams = teams_of(users)
    missing = {team: f"team {team}" for team in choices.visible_to_teams or () if team not in teams}
    return page(
        request,
        "settings.html",
        status=status,
        first=first,
        saved=saved,
        error=error,
        choices=choices,
        kinds=[(kind.value, kind.plural.capitalize()) for kind in RecordType],
        teams={**teams, **missing},
        teams_problem=teams_problem,
        organisations=organisations,
        lost=lost,
        names={connection.source_id: connection.name for connection in connections},
        copper=copper,
        named=named,
        users=sorted((user for user in users if user.id not in named), key=lambda user: user.name.casefold()),
        overview=overview_of(session.account_id),
        most=MOST_SHOWN,
    )


@router.get("/settings")
def show(request: Request, first: bool = False, saved: bool = False) -> Response:
    """The settings; `first` when the account is just being set up."""
    browser.admin(request.state.browser)
    return _settings_page(request, first=first, saved=saved)


@router.post("/settings")
def save(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Keep the settings; what is shown changes with the next read. A first time begins the backfill."""
    session = browser.admin(request.state.browser)
    first = form.get("first") == "1"
    try:
        with bound(session.account_id) as database:
            wanted = _choices(form, accounts.choices(database, session.account_id).name)
            accounts.choose(database, session.account_id, wanted)
            audit.note(database, session.account_id, session.user_name, "settings.changed", _in_words(wanted))
    except ValueError as error:
        return _settings_page(request, first=first, saved=False, error=str(error), status=422)
    if first:
        connect.backfill(session.account_id)
    return go(request, "/progress" if first else "/settings?saved=1")


def _choices(form: FormData, name: str) -> Choices:
    """What the form chooses; raises `ValueError` that says which field, and what it takes."""
    kinds = {kind.value for kind in RecordType}
    record_types = tuple(str(one) for one in form.getlist("record_type"))
    if not set(record_types) <= kinds:
        raise ValueError("Record types: choose among leads, people, companies and opportunities.")
    shown = str(form.get("shown", ""))
    if not shown.isascii() or not shown.isdigit() or not 1 <= int(shown[:9]) <= MOST_SHOWN:
        raise ValueError(f"Invoices shown: a whole number from 1 to {MOST_SHOWN}.")
    teams: tuple[int, ...] | None = None
    if form.get("visible") == "teams":
        chosen = [str(one) for one in form.getlist("team")]
        if not chosen or not all(one.isascii() and one.isdigit() and len(one) < 19 for one in chosen):
            raise ValueError("Who sees them: choose at least one team, or everyone.")
        teams = tuple(sorted({int(one) for one in chosen}))
    return Choices(name, tuple(sorted(set(record_types))), int(shown), form.get("bills") == "1", teams)


def _in_words(wanted: Choices) -> str:
    seen = "everyone" if wanted.visible_to_teams is None else f"{len(wanted.visible_to_teams)} teams"
    bills = "with bills" if wanted.show_bills else "without bills"
    return f"{', '.join(wanted.record_types) or 'no record type'}; {wanted.shown} shown; {seen}; {bills}"


@router.post("/organisations/{organisation_id}/drop")
def drop(request: Request, organisation_id: int, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Stop showing an organisation, and forget what was read of it."""
    session = browser.admin(request.state.browser)
    if connect.drop_organisation(session.account_id, organisation_id, who=session.user_name) is None:
        raise ProblemError(404, "This organisation is not connected to your account.")
    return go(request, "/settings?saved=1")


@router.post("/copper/key")
def rotate_key(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Replace the Copper key by another one of the same account."""
    session = browser.admin(request.state.browser)
    throttle.sign_in(request)
    key, email = str(form.get("key", "")).strip(), str(form.get("email", "")).strip()
    try:
        admin = connect.identify(key, email)
        with bound(session.account_id) as database:
            known = accounts.account_of_copper(database, admin.copper_account_id)
        if known != session.account_id:
            said = "This key belongs to another Copper account. Nothing was changed."
            return _settings_page(request, first=False, saved=False, error=said, status=422)
        connect.connect_copper(key, email, who=session.user_name, admin=admin)
    except VendorError as error:
        said = f"{key_problem(error)} The old key is still in use."
        return _settings_page(request, first=False, saved=False, error=said, status=422)
    return go(request, "/settings?saved=1")


@router.post("/admins")
def name_admin(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Add a Copper user of the account as an admin, under the name that Copper gives."""
    session = browser.admin(request.state.browser)
    number = str(form.get("user", "")).strip()
    try:
        if not number.isascii() or not number.isdigit() or len(number) > 18:
            raise NotThereError("not a user ID")
        user = connected(session.account_id, Purpose.PERSON).user(int(number))
    except NotThereError:
        said = "Copper has no user with this ID in your account. Enter a Copper user ID (digits only)."
        return _settings_page(request, first=False, saved=False, error=said, status=422)
    except VendorError as error:
        said = f"The user could not be looked up in Copper ({error}). Nobody was added. Try again in a moment."
        return _settings_page(request, first=False, saved=False, error=said, status=503)
    name = user.name or f"user {user.id}"
    with bound(session.account_id) as database:
        access.name_admin(database, session.account_id, user.id, name)
        audit.note(database, session.account_id, session.user_name, "admin.named", name)
    return go(request, "/settings?saved=1")


@router.post("/admins/{user_id}/remove")
def unname_admin(request: Request, user_id: int, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Take that back; their sessions end."""
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        name = access.unname_admin(database, session.account_id, user_id)
        if name is not None:
            audit.note(database, session.account_id, session.user_name, "admin.removed", name)
    if name is None:
        raise ProblemError(404, "This user is not a named admin of your account.")
    return go(request, "/settings?saved=1")
