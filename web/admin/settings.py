"""Settings: what is shown to whom, connections and their state, and admins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.datastructures import FormData

from runtime.numbers import count_noun, whole_number
from services import connect, failed_sign_ins
from store.accounts import (
    account_settings,
    accounts,
    admins,
    audit,
    connection_status,
    copper_credentials,
    deprovisioning,
    xero_organisations,
)
from store.accounts.account_settings import HIDEABLE_STATUSES, AccountSettings
from store.db.database import account_transaction
from store.db.enums import CreditResource, InvoiceStatus, RecordType, SetupStep
from store.read_model import email_domains, field_marks, invoice_pins, projection
from web.admin import confirmation, forms, notices
from web.admin.confirmation import require_confirmation
from web.admin.connect import key_error_message, key_error_status, with_retry_after
from web.admin.forms import FormState, WholeNumber
from web.admin.render import Id, redirect, render_page
from web.admin.status import get_account_status
from web.admin.vendor_calls import calls_vendor, may_call_vendor
from web.auth import browser, rate_limits
from web.middleware import refusals
from web.middleware.refusals import RefusalReason
from web.presentation import labels
from web.presentation.problems import ProblemError
from worker.jobs import actors
from worker.jobs.enqueue import enqueue_once
from worker.vendors import http
from worker.vendors.copper.client import client_for_account, teams_of
from worker.vendors.copper.schemas import CopperUser
from worker.vendors.errors import AuthorizationLostError, NotFoundError, VendorError
from worker.vendors.rate_limit.budget import Priority

router = APIRouter()
MAX_INVOICE_LIMIT = 50
REPLACE_KEY = ("replace the Copper API key", "/settings#copper-key")
NO_TYPES = "Select at least one record type, or confirm that nobody should see invoices."
MESSAGES = {
    "record_type": "Choose from leads, people, companies and opportunities.",
    "invoice_limit": f"Enter a whole number from 1 to {MAX_INVOICE_LIMIT}.",
    "visible": "Choose who can see invoices.",
    "team": "Select at least one team, or choose Everyone.",
    "bill_type": "Choose from leads, people, companies and opportunities.",
    "credits": "Choose the credits to show.",
    "credit_type": "Choose from leads, people, companies and opportunities.",
    "status": "Choose from the statuses in the list.",
    "pinned_only": "Choose which invoices opportunities show.",
    "email_domain": "Choose whether to match by a company's email domain.",
    "none_ok": NO_TYPES,
}


class SettingsForm(BaseModel):
    """The settings form; browsers do not send unchecked boxes."""

    record_type: list[RecordType] = []
    invoice_limit: Annotated[WholeNumber, Field(ge=1, le=MAX_INVOICE_LIMIT)]
    visible: Literal["everyone", "teams"] = "everyone"
    team: list[WholeNumber] = []
    bill_type: list[RecordType] = []
    credits: list[CreditResource] = []
    credit_type: list[RecordType] = []
    status: list[InvoiceStatus] = []
    pinned_only: bool = False
    email_domain: bool = False
    none_ok: bool = False

    def consistency_errors(self) -> dict[str, str]:
        """Errors by field that only the combination of fields shows."""
        errors = {}
        if not self.record_type and not self.none_ok:
            errors["record_type"] = NO_TYPES
        if self.visible == "teams" and not self.team:
            errors["team"] = MESSAGES["team"]
        return errors

    def apply_to(self, settings: AccountSettings) -> AccountSettings:
        """The settings with the form's changes. Statuses that cannot be hidden are not in the form."""
        return replace(
            settings,
            record_types=tuple(sorted({record_type.value for record_type in self.record_type})),
            invoice_limit=self.invoice_limit,
            visible_to_teams=tuple(sorted(set(self.team))) if self.visible == "teams" else None,
            bill_record_types=tuple(record_type for record_type in RecordType if record_type in self.bill_type),
            shown_credits=tuple(resource for resource in CreditResource if resource in self.credits),
            credit_record_types=tuple(record_type for record_type in RecordType if record_type in self.credit_type),
            hidden_statuses=tuple(status for status in HIDEABLE_STATUSES if status not in self.status),
            opportunities_show_pinned_only=self.pinned_only,
            match_email_domain=self.email_domain,
        )


def _users(account_id: int) -> tuple[list[CopperUser], str | None]:
    """The account's users with their teams, and an error message if Copper cannot be reached."""
    try:
        return client_for_account(account_id, Priority.INTERACTIVE).list_users(), None
    except VendorError as error:
        return [], f"Couldn't load teams from Copper ({error}). Your current selection is unchanged."


def _settings_page(
    request: Request, *, in_setup: bool = False, form: FormState = forms.EMPTY_FORM, status: int = 422
) -> Response:
    browser_session = browser.require_admin(request.state.browser)
    with account_transaction(browser_session.account_id) as session:
        current = account_settings.get(session, browser_session.account_id)
        organisations = xero_organisations.list_connected(session, browser_session.account_id)
        disconnected = xero_organisations.list_needing_reauth(session, browser_session.account_id)
        copper_connection = copper_credentials.find_connection(session, browser_session.account_id)
        connections = connection_status.list_statuses(session, browser_session.account_id)
        admin_names = admins.list_names(session, browser_session.account_id)
    users, teams_error = _users(browser_session.account_id)
    teams = teams_of(users)
    deleted_teams = {team: f"Team {team}" for team in current.visible_to_teams or () if team not in teams}
    account_status = get_account_status(browser_session.account_id)
    return render_page(
        request,
        "settings.html",
        status=status if form.has_errors else 200,
        in_setup=in_setup,
        form=form,
        settings=current,
        record_types=[(record_type.value, record_type.plural.capitalize()) for record_type in RecordType],
        teams={**teams, **deleted_teams},
        teams_error=teams_error,
        organisations=organisations,
        disconnected=disconnected,
        names={connection.organisation_id: connection.name for connection in connections},
        copper_connection=copper_connection,
        admin_names=admin_names,
        users=sorted((user for user in users if user.id not in admin_names), key=lambda user: user.name.casefold()),
        account_status=account_status,
        alert=notices.for_health(account_status),
        all_types_off=notices.ALL_TYPES_OFF,
        credit_labels=labels.CREDIT_LABELS,
        column_labels=labels.COLUMN_LABELS,
        status_labels={status.value: labels.status(status) for status in HIDEABLE_STATUSES},
        max_invoice_limit=MAX_INVOICE_LIMIT,
    )


def _form_error(
    request: Request,
    form: FormData,
    errors: Mapping[str, str],
    *,
    in_setup: bool = False,
    status: int = 422,
    vendor_error: VendorError | None = None,
) -> Response:
    """The settings page with the form's errors; after a `vendor_error` it is rendered without calling Copper again."""
    rejected = forms.rejected_form(form, errors, request.url.path)
    if vendor_error is None:
        return _settings_page(request, in_setup=in_setup, form=rejected, status=status)
    with http.no_calls():
        return with_retry_after(_settings_page(request, in_setup=in_setup, form=rejected, status=status), vendor_error)


@router.get("/settings")
@may_call_vendor
def show(request: Request, setup: bool = False) -> Response:
    """The settings page; `setup` while the account is being set up."""
    browser.require_admin(request.state.browser)
    return _settings_page(request, in_setup=setup)


@router.post("/settings")
@may_call_vendor
def save(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Save the settings; they apply the next time a record is opened."""
    browser_session = browser.require_admin(request.state.browser)
    in_setup = form.get("setup") == "1"
    submitted = forms.parse_form(SettingsForm, form, MESSAGES)
    errors = submitted if isinstance(submitted, dict) else submitted.consistency_errors()
    if isinstance(submitted, dict) or errors:
        return _form_error(request, form, errors, in_setup=in_setup)
    with account_transaction(browser_session.account_id) as session:
        # Before the account's row, in the order of the projection.
        projection.lock_account(session, browser_session.account_id)
        before = account_settings.get_for_update(session, browser_session.account_id)
        changed = submitted.apply_to(before)
        account_settings.update(session, browser_session.account_id, changed)
        if changed.match_email_domain != before.match_email_domain:
            email_domains.set_matching(session, browser_session.account_id, is_enabled=changed.match_email_domain)
        if (changed.shown_credits, changed.credit_record_types) != (before.shown_credits, before.credit_record_types):
            # Credits count in the fields that are written in Copper.
            field_marks.mark_all(session, browser_session.account_id)
        accounts.complete_setup_step(session, browser_session.account_id, SetupStep.SETTINGS)
        if changed.opportunities_show_pinned_only != before.opportunities_show_pinned_only:
            invoice_pins.mark_opportunities(session, browser_session.account_id)
        detail = _describe(changed)
        audit.record(session, browser_session.account_id, browser_session.user_name, "settings.changed", detail)
    if (changed.opportunities_show_pinned_only, changed.match_email_domain) != (
        before.opportunities_show_pinned_only,
        before.match_email_domain,
    ):
        enqueue_once(actors.project, browser_session.account_id)
    if in_setup:
        connect.start_backfills(browser_session.account_id)
    elif set(changed.shown_credits) - set(before.shown_credits):
        connect.start_catch_ups(browser_session.account_id)
    return redirect(request, "/progress" if in_setup else "/settings", notice="Settings saved.")


def _describe(settings: AccountSettings) -> str:
    """The settings in a line of the audit log."""
    record_types = ", ".join(settings.record_types) or "no record type"
    teams = settings.visible_to_teams
    visibility = "everyone" if teams is None else count_noun(len(teams), "team")
    bills = ", ".join(settings.bill_record_types) or "no record type"
    credits = ", ".join(labels.CREDIT_LABELS[resource].lower() for resource in settings.shown_credits) or "no credits"
    credit_types = ", ".join(settings.credit_record_types) or "no record type"
    hidden = ", ".join(labels.status(status).lower() for status in settings.hidden_statuses) or "no status"
    pinned = "; opportunities show pinned invoices only" if settings.opportunities_show_pinned_only else ""
    matching = "; matched by email domain too" if settings.match_email_domain else ""
    return (
        f"{record_types}; {settings.invoice_limit} shown; {visibility}; bills on {bills}; {credits} on {credit_types};"
        f" {hidden} hidden{pinned}{matching}"
    )


@router.get("/organisations/{organisation_id}/remove")
def show_remove_organisation(request: Request, organisation_id: Id) -> Response:
    """Say what removing an organisation deletes, before it is removed."""
    browser_session = browser.require_admin(request.state.browser)
    with account_transaction(browser_session.account_id) as session:
        organisation = xero_organisations.find(session, browser_session.account_id, organisation_id)
        if organisation is None:
            raise ProblemError(404, "This organisation isn't connected to your account.")
        invoices, records = deprovisioning.count_organisation_data(session, browser_session.account_id, organisation_id)
    return render_page(
        request, "remove_organisation.html", organisation=organisation, invoices=invoices, records=records
    )


@router.post("/organisations/{organisation_id}/remove")
@require_confirmation("remove an organisation", cancel_path="/settings#connections")
def remove_organisation(
    request: Request, organisation_id: Id, form: Annotated[FormData, Depends(browser.read_form)]
) -> Response:
    """Remove an organisation and delete its synced data."""
    browser_session = browser.require_admin(request.state.browser)
    name = connect.remove_organisation(browser_session.account_id, organisation_id, actor=browser_session.user_name)
    if name is None:
        raise ProblemError(404, "This organisation isn't connected to your account.")
    return redirect(request, "/settings", notice=f"{name} removed.")


@router.post("/copper/key")
@calls_vendor
def replace_key(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Replace the Copper key by another key of the same account."""
    browser_session = browser.require_admin(request.state.browser)
    rate_limits.limit_sign_in(request)
    key, email = str(form.get("key", "")).strip(), str(form.get("email", "")).strip()
    if confirmation.KEY in form:
        # The answer to the confirmation page below, which does not carry the new key: it must be entered again.
        confirmation_page = confirmation.confirmation_page(request, form, *REPLACE_KEY)
        return confirmation_page or _form_error(request, form, {"key": "Enter the new API key."})
    try:
        admin = connect.identify(key, email)
    except VendorError as error:
        if isinstance(error, AuthorizationLostError):
            refusals.set_reason(request.scope, RefusalReason.SIGN_IN)
            failed_sign_ins.record_for_account(
                browser_session.account_id, browser_session.user_name, "with a new Copper key"
            )
        message = f"{key_error_message(error)} The old key is still in use."
        return _form_error(request, form, {"key": message}, status=key_error_status(error), vendor_error=error)
    with account_transaction(browser_session.account_id) as session:
        key_account_id = accounts.find_by_copper_account_id(session, admin.copper_account_id)
    if key_account_id != browser_session.account_id:
        message = "This key belongs to another Copper account. The old key is still in use."
        return _form_error(request, form, {"key": message})
    # A working key of the same person is as good as a confirmation.
    if confirmation.is_own_key(browser_session, admin):
        confirmation.confirm_session(request, "with the new Copper key")
    elif confirmation_page := confirmation.confirmation_page(request, form, *REPLACE_KEY):
        return confirmation_page
    else:
        confirmation.renew_session(request)
    try:
        connect.connect_copper(
            key, email, actor=browser_session.user_name, admin=admin, kept_session_id=browser_session.id
        )
    except VendorError as error:
        message = (
            f"The new key is saved, but Copper's webhooks couldn't be set up: {error}. Enter it again in a minute."
        )
        return _form_error(request, form, {"key": message}, status=key_error_status(error), vendor_error=error)
    return redirect(request, "/settings", notice="Copper API key replaced.")


@router.post("/admins")
@require_confirmation("add an admin", cancel_path="/settings#admins", calls_vendor=True)
def add_admin(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Add a Copper user of the account as an admin, under the name that Copper gives."""
    browser_session = browser.require_admin(request.state.browser)
    user_id = whole_number(forms.clean_line(str(form.get("user", ""))))
    try:
        if user_id is None:
            raise NotFoundError("not a user ID")
        user = client_for_account(browser_session.account_id, Priority.INTERACTIVE).get_user(user_id)
    except NotFoundError:
        message = "Copper has no user with this ID in your account. Enter a Copper user ID (digits only)."
        return _form_error(request, form, {"user": message})
    except VendorError as error:
        message = f"Couldn't look up the user in Copper ({error}). Nobody was added. Try again in a moment."
        return _form_error(request, form, {"user": message}, status=503, vendor_error=error)
    name = user.name or f"user {user.id}"
    with account_transaction(browser_session.account_id) as session:
        admins.add(session, browser_session.account_id, user.id, name)
        audit.record(session, browser_session.account_id, browser_session.user_name, "admin.added", name)
    return redirect(request, "/settings#admins", notice=f"{name} added.")


@router.get("/admins/{user_id}/remove")
def show_remove_admin(request: Request, user_id: Id) -> Response:
    """Say what removing an admin does, before they are removed."""
    browser_session = browser.require_admin(request.state.browser)
    with account_transaction(browser_session.account_id) as session:
        name = admins.list_names(session, browser_session.account_id).get(user_id)
    if name is None:
        raise ProblemError(404, "This user isn't an admin you added.")
    return render_page(request, "remove_admin.html", user_id=user_id, name=name)


@router.post("/admins/{user_id}/remove")
@require_confirmation("remove an admin", cancel_path="/settings#admins")
def remove_admin(request: Request, user_id: Id, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Remove an admin and end their sessions."""
    browser_session = browser.require_admin(request.state.browser)
    with account_transaction(browser_session.account_id) as session:
        name = admins.remove(session, browser_session.account_id, user_id)
        if name is not None:
            audit.record(session, browser_session.account_id, browser_session.user_name, "admin.removed", name)
    if name is None:
        raise ProblemError(404, "This user isn't an admin you added.")
    return redirect(request, "/settings#admins", notice=f"{name} removed.")
