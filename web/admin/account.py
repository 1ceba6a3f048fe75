"""The account itself: import progress, the audit log, disconnecting; and static files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from runtime.numbers import MAX_ID
from services import connect
from store.accounts import accounts, api_keys, audit, xero_organisations
from store.accounts.audit import AuditEntry
from store.db.database import Session, account_transaction
from store.db.enums import RunState, SetupStep
from store.mirror import mirror
from store.read_model import contact_links, invoice_pins, projection
from store.read_model.invoice_pins import PinReference
from store.sync import runs
from web.admin import forms, notices
from web.admin.confirmation import require_confirmation
from web.admin.forms import FormState
from web.admin.render import MEDIA_TYPES, PageLink, assets, redirect, render_message, render_page
from web.auth import browser
from web.presentation import labels
from web.presentation.problems import ProblemError
from worker.vendors.sync_types import RunKind

router = APIRouter()
STAGES = ("people", "leads", "companies", "opportunities", "relations", "contacts", "invoices")
ENTRIES_PER_PAGE = 100


@router.get("/progress")
def progress(request: Request) -> Response:
    """The progress of the import; the page refreshes until it is complete."""
    browser_session = browser.require_admin(request.state.browser)
    with account_transaction(browser_session.account_id) as session:
        organisations = xero_organisations.list_connected(session, browser_session.account_id)
        backfills = [run for run in runs.latest(session, browser_session.account_id) if run.kind == RunKind.BACKFILL]
        row_counts = projection.count_rows(session, browser_session.account_id)
        connection_notice = notices.for_connection(session, browser_session.account_id)
        step = accounts.get_setup_step(session, browser_session.account_id)
    names = {organisation.id: organisation.name for organisation in organisations}
    bars = [
        (names.get(run.organisation_id, "Copper"), stage, count["done"], max(count["total"] or 0, count["done"]))
        for run in backfills
        if run.organisation_id in names or not run.organisation_id
        for stage in STAGES
        if (count := run.counts.get(stage)) and (count["done"] or count["total"])
    ]
    return render_page(
        request,
        "progress.html",
        bars=bars,
        errors=[run.error for run in backfills if run.error and run.state != RunState.DONE],
        is_running=any(run.state == RunState.RUNNING for run in backfills),
        has_started=bool(backfills),
        record_count=row_counts[0],
        alert=connection_notice or (None if backfills else notices.START_IMPORT),
        step=step,
        in_setup=step is not SetupStep.DONE,
    )


@router.post("/progress")
def start_import(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Start an import of every source that was never imported in full."""
    connect.start_backfills(browser.require_admin(request.state.browser).account_id)
    return redirect(request, "/progress")


@router.get("/audit")
def audit_log(request: Request, before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None) -> Response:
    """The audit log, newest entries first."""
    browser_session = browser.require_admin(request.state.browser)
    with account_transaction(browser_session.account_id) as session:
        entries = audit.latest(session, browser_session.account_id, before=before, limit=ENTRIES_PER_PAGE)
        details = _entry_details(session, browser_session.account_id, entries)
    return render_page(
        request,
        "audit_log.html",
        entries=entries,
        details=details,
        next_before=entries[-1].id if len(entries) == ENTRIES_PER_PAGE else None,
        action_label=labels.action,
        actor_names={audit.COMMAND_LINE: "Command line"},
    )


def _entry_details(session: Session, account_id: int, entries: Sequence[AuditEntry]) -> dict[int, str]:
    """The detail text of each entry by its id; links and pins show the current names of both ends."""
    pins = {entry.id: pin for entry in entries if (pin := PinReference.parse(entry.detail))}
    pin_descriptions = invoice_pins.describe(session, account_id, list(pins.values()))
    links = {entry.id: link for entry in entries if (link := contact_links.Link.from_reference(entry.detail))}
    descriptions = contact_links.describe(session, account_id, list(links.values()))
    details = {entry.id: entry.detail for entry in entries}
    return details | dict(zip(links, descriptions, strict=True)) | dict(zip(pins, pin_descriptions, strict=True))


@router.get("/disconnect")
def show_disconnect(request: Request) -> Response:
    """Say what disconnecting deletes, and ask for the account's name."""
    return _disconnect_page(request)


def _disconnect_page(request: Request, form: FormState = forms.EMPTY_FORM) -> Response:
    browser_session = browser.require_admin(request.state.browser)
    with account_transaction(browser_session.account_id) as session:
        organisations = xero_organisations.list_connected(session, browser_session.account_id)
        records, invoices = mirror.count_rows(session, browser_session.account_id)
        keys = api_keys.list_active(session, browser_session.account_id)
    return render_page(
        request,
        "disconnect.html",
        status=422 if form.has_errors else 200,
        organisations=organisations,
        records=records,
        invoices=invoices,
        keys=len(keys),
        form=form,
    )


@router.post("/disconnect")
@require_confirmation("disconnect this account", cancel_path="/disconnect")
def disconnect(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Close the account at once; background tasks then delete its data and notify the vendors."""
    browser_session = browser.require_admin(request.state.browser)
    if forms.clean_line(str(form.get("name", ""))) != browser_session.account_name:
        message = f"Type {browser_session.account_name} to confirm. Nothing was disconnected."
        return _disconnect_page(request, forms.rejected_form(form, {"name": message}))
    connect.disconnect(browser_session.account_id, actor=browser_session.user_name)
    response = redirect(request, "/disconnected")
    browser.set_disconnected_cookie(response)
    browser.clear_session_cookie(response)
    return response


@router.get("/disconnected")
def show_disconnected(request: Request) -> Response:
    """Confirmation page for the browser that has just disconnected an account; redirects any other."""
    message = "Your account is disconnected. Its data is being deleted."
    response = render_message(request, "Disconnected", message, link=PageLink("/connect", "Connect again"))
    if browser.pop_disconnected_cookie(request, response):
        return response
    return redirect(request, "/")


# Paths that only take POST: a GET (a reload, or a visit from the history) is redirected to the page with the form.
FORM_PAGES = {
    "/admins": "/settings#admins",
    "/confirm/copper": "/",
    "/copper/key": "/settings#copper-key",
    "/events/dismiss": "/status#quarantine",
    "/events/replay": "/status#quarantine",
    "/links": "/unmatched",
    "/links/remove": "/unmatched",
    "/pins": "/invoices",
    "/pins/remove": "/invoices",
    "/sessions/end-others": "/sessions",
    "/setup/panel/finish": "/setup/panel",
    "/signin/copper": "/connect",
    "/signin/copper/confirm": "/connect",
    "/signout": "/",
}


def _redirect_to_form(request: Request) -> Response:
    return redirect(request, FORM_PAGES[request.url.path])


for _path in FORM_PAGES:
    router.add_api_route(_path, _redirect_to_form, methods=["GET"])


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Style sheets and scripts; a file's name contains the hash of its content."""
    path = assets().get(name)
    if path is None:
        raise ProblemError(404, "This file doesn't exist, or has changed. Reload the page.")
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(path.read_bytes(), media_type=MEDIA_TYPES[path.suffix], headers=headers)
