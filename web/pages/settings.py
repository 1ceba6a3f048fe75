"""Settings: what is shown, to whom; the connections and how they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.datastructures import FormData

from runtime.numbers import whole_number
from store import access, accounts, audit, closing
from store.accounts import Choices
from store.database import bound
from store.models import RecordType, SetupStep
from web import browser, forms, refusals, throttle, words
from web.forms import FormState, WholeNumber
from web.pages import confirm, notices
from web.pages.connect import key_problem, key_status, later
from web.pages.render import Id, go, page
from web.pages.status import overview_of
from web.problems import ProblemError
from web.refusals import Reason
from web.vendor_calls import calls_vendor, may_call_vendor
from worker import connect, failed_sign_ins, vendor
from worker.budget import Purpose
from worker.copper.client import connected, teams_of
from worker.copper.wire import WireUser
from worker.errors import NotThereError, ReconnectNeededError, VendorError

router = APIRouter()
MOST_SHOWN = 50
REPLACING = ("replace the Copper API key", "/settings#copper-key")
NO_TYPES = "Select at least one record type, or confirm that nobody should see invoices."
MESSAGES = {
    "record_type": "Choose from leads, people, companies and opportunities.",
    "shown": f"Enter a whole number from 1 to {MOST_SHOWN}.",
    "visible": "Choose who can see invoices.",
    "team": "Select at least one team, or choose Everyone.",
    "bills": "Choose whether to show bills.",
    "none_ok": NO_TYPES,
}


class SettingsForm(BaseModel):
    """What the form of the settings asks; a box that is not ticked is not sent."""

    record_type: list[RecordType] = []
    shown: Annotated[WholeNumber, Field(ge=1, le=MOST_SHOWN)]
    visible: Literal["everyone", "teams"] = "everyone"
    team: list[WholeNumber] = []
    bills: bool = False
    none_ok: bool = False

    def contradictions(self) -> dict[str, str]:
        """What is wrong with the answers taken together, by field."""
        wrong = {}
        if not self.record_type and not self.none_ok:
            wrong["record_type"] = NO_TYPES
        if self.visible == "teams" and not self.team:
            wrong["team"] = MESSAGES["team"]
        return wrong

    def choices(self, name: str) -> Choices:
        """The settings of the account of that name."""
        record_types = tuple(sorted({one.value for one in self.record_type}))
        teams = tuple(sorted(set(self.team))) if self.visible == "teams" else None
        return Choices(name, record_types, self.shown, self.bills, teams)


def _users(account_id: int) -> tuple[list[WireUser], str | None]:
    """The account's users with their teams, and what to say when Copper cannot be asked."""
    try:
        return connected(account_id, Purpose.PERSON).users(), None
    except VendorError as error:
        return [], f"Couldn't load teams from Copper ({error}). Your current selection is unchanged."


def _settings_page(
    request: Request, *, first: bool = False, form: FormState = forms.EMPTY, status: int = 422
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
    missing = {team: f"Team {team}" for team in choices.visible_to_teams or () if team not in teams}
    overview = overview_of(session.account_id)
    return page(
        request,
        "settings.html",
        status=status if form.is_refused else 200,
        first=first,
        form=form,
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
        overview=overview,
        trouble=notices.health(overview),
        all_types_off=notices.ALL_TYPES_OFF,
        most=MOST_SHOWN,
    )


def _refused(
    request: Request,
    sent: FormData,
    errors: Mapping[str, str],
    *,
    first: bool = False,
    status: int = 422,
    unanswered: VendorError | None = None,
) -> Response:
    """The page with what is wrong; one that Copper left `unanswered` does not ask Copper again."""
    form = forms.refused(sent, errors, request.url.path)
    if unanswered is None:
        return _settings_page(request, first=first, form=form, status=status)
    with vendor.no_calls():
        return later(_settings_page(request, first=first, form=form, status=status), unanswered)


@router.get("/settings")
@may_call_vendor
def show(request: Request, first: bool = False) -> Response:
    """The settings; `first` when the account is just being set up."""
    browser.admin(request.state.browser)
    return _settings_page(request, first=first)


@router.post("/settings")
@may_call_vendor
def save(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Keep the settings; what is shown changes with the next read."""
    session = browser.admin(request.state.browser)
    first = form.get("first") == "1"
    wanted = forms.read(SettingsForm, form, MESSAGES)
    wrong = wanted if isinstance(wanted, dict) else wanted.contradictions()
    if isinstance(wanted, dict) or wrong:
        return _refused(request, form, wrong, first=first)
    with bound(session.account_id) as database:
        chosen = wanted.choices(accounts.choices(database, session.account_id).name)
        accounts.choose(database, session.account_id, chosen)
        accounts.finish_setup_step(database, session.account_id, SetupStep.SETTINGS)
        audit.note(database, session.account_id, session.user_name, "settings.changed", _in_words(chosen))
    if first:
        connect.backfill(session.account_id)
    return go(request, "/progress" if first else "/settings", notice="Settings saved.")


def _in_words(wanted: Choices) -> str:
    seen = "everyone" if wanted.visible_to_teams is None else words.counted(len(wanted.visible_to_teams), "team")
    bills = "bills shown" if wanted.show_bills else "bills hidden"
    return f"{', '.join(wanted.record_types) or 'no record type'}; {wanted.shown} shown; {seen}; {bills}"


@router.get("/organisations/{organisation_id}/drop")
def ask_to_drop(request: Request, organisation_id: Id) -> Response:
    """Say what goes with an organisation, before it goes."""
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        organisation = accounts.organisation(database, session.account_id, organisation_id)
        if organisation is None:
            raise ProblemError(404, "This organisation isn't connected to your account.")
        invoices, records = closing.extent(database, session.account_id, organisation_id)
    return page(request, "remove_organisation.html", organisation=organisation, invoices=invoices, records=records)


@router.post("/organisations/{organisation_id}/drop")
@confirm.first("remove an organisation", back="/settings#connections")
def drop(request: Request, organisation_id: Id, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Stop showing an organisation, and forget what was read of it."""
    session = browser.admin(request.state.browser)
    name = connect.drop_organisation(session.account_id, organisation_id, who=session.user_name)
    if name is None:
        raise ProblemError(404, "This organisation isn't connected to your account.")
    return go(request, "/settings", notice=f"{name} removed.")


@router.post("/copper/key")
@calls_vendor
def rotate_key(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Replace the Copper key by another one of the same account."""
    session = browser.admin(request.state.browser)
    throttle.sign_in(request)
    key, email = str(form.get("key", "")).strip(), str(form.get("email", "")).strip()
    if confirm.KEY in form:
        # The confirmation that was asked for below; a key is not kept meanwhile, and is typed again.
        asked = confirm.needed(request, form, *REPLACING)
        return asked or _refused(request, form, {"key": "Enter the new API key."})
    try:
        admin = connect.identify(key, email)
    except VendorError as error:
        if isinstance(error, ReconnectNeededError):
            refusals.mark(request.scope, Reason.SIGN_IN)
            failed_sign_ins.note_for(session.account_id, session.user_name, "with a new Copper key")
        said = f"{key_problem(error)} The old key is still in use."
        return _refused(request, form, {"key": said}, status=key_status(error), unanswered=error)
    with bound(session.account_id) as database:
        known = accounts.account_of_copper(database, admin.copper_account_id)
    if known != session.account_id:
        said = "This key belongs to another Copper account. The old key is still in use."
        return _refused(request, form, {"key": said})
    # A working key of the same person proves what a confirmation asks for.
    if confirm.is_own(session, admin):
        confirm.accept(request, "with the new Copper key")
    elif asked := confirm.needed(request, form, *REPLACING):
        return asked
    else:
        confirm.renew(request)
    try:
        connect.connect_copper(key, email, who=session.user_name, admin=admin, kept_session=session.id)
    except VendorError as error:
        said = f"The new key is saved, but Copper's webhooks couldn't be set up: {error}. Enter it again in a minute."
        return _refused(request, form, {"key": said}, status=key_status(error), unanswered=error)
    return go(request, "/settings", notice="Copper API key replaced.")


@router.post("/admins")
@confirm.first("add an admin", back="/settings#admins", calls_vendor=True)
def name_admin(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Add a Copper user of the account as an admin, under the name that Copper gives."""
    session = browser.admin(request.state.browser)
    user_id = whole_number(forms.line(str(form.get("user", ""))))
    try:
        if user_id is None:
            raise NotThereError("not a user ID")
        user = connected(session.account_id, Purpose.PERSON).user(user_id)
    except NotThereError:
        said = "Copper has no user with this ID in your account. Enter a Copper user ID (digits only)."
        return _refused(request, form, {"user": said})
    except VendorError as error:
        said = f"The user could not be looked up in Copper ({error}). Nobody was added. Try again in a moment."
        return _refused(request, form, {"user": said}, status=503, unanswered=error)
    name = user.name or f"user {user.id}"
    with bound(session.account_id) as database:
        access.name_admin(database, session.account_id, user.id, name)
        audit.note(database, session.account_id, session.user_name, "admin.named", name)
    return go(request, "/settings#admins", notice=f"{name} added.")


@router.get("/admins/{user_id}/remove")
def ask_to_remove_admin(request: Request, user_id: Id) -> Response:
    """Say what an admin loses, before they do."""
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        name = access.named_admins(database, session.account_id).get(user_id)
    if name is None:
        raise ProblemError(404, "This user isn't an admin you added.")
    return page(request, "remove_admin.html", user_id=user_id, name=name)


@router.post("/admins/{user_id}/remove")
@confirm.first("remove an admin", back="/settings#admins")
def unname_admin(request: Request, user_id: Id, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Take that back; their sessions end."""
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        name = access.unname_admin(database, session.account_id, user_id)
        if name is not None:
            audit.note(database, session.account_id, session.user_name, "admin.removed", name)
    if name is None:
        raise ProblemError(404, "This user isn't an admin you added.")
    return go(request, "/settings#admins", notice=f"{name} removed.")
