"""The status page: a summary, figures and tables; and retrying or dismissing failed events."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from runtime.numbers import count_noun, whole_number
from runtime.settings import settings
from services import account_status, failed_events
from services.account_status import GIGABYTE, AccountStatus
from store.accounts import accounts, audit
from store.db.database import account_transaction
from store.ingest import inbox
from web.admin import notices
from web.admin.render import redirect, render_page
from web.auth import browser
from web.presentation import charts
from web.presentation.problems import ProblemError
from worker.vendors.sync_types import RunKind

router = APIRouter()
MAX_LISTED_EVENTS = 50
RUN_LABELS = {RunKind.CATCH_UP: "Catch-up", RunKind.RECONCILIATION: "Reconciliation", RunKind.BACKFILL: "Import"}


def get_account_status(account_id: int) -> AccountStatus:
    """The status of an account."""
    with account_transaction(account_id) as session:
        (account,) = accounts.find_accounts(session, [account_id])
    return account_status.for_account(account)


@router.get("/status")
def show(request: Request) -> Response:
    """The status page."""
    browser_session = browser.require_admin(request.state.browser)
    status = get_account_status(browser_session.account_id)
    with account_transaction(browser_session.account_id) as session:
        quarantined = inbox.list_quarantined(session, browser_session.account_id, MAX_LISTED_EVENTS)
        last_sign_in = audit.last_sign_in(session, browser_session.account_id, besides=browser_session.created_at)
    finished_runs = [
        (label, run)
        for run_kind, label in RUN_LABELS.items()
        for run in status.runs
        if run.kind == run_kind and run.finished_at
    ]
    calls: Counter[int] = Counter()
    for usage in status.usage:
        calls[usage.organisation_id] += usage.calls
    return render_page(
        request,
        "status.html",
        account_status=status,
        alert=notices.for_health(status),
        quarantined=quarantined,
        last_sign_in=last_sign_in,
        finished_runs=finished_runs,
        run_labels=RUN_LABELS,
        source_names={source.organisation_id: source.name for source in status.sources},
        chart=charts.latency_chart(status.latency_by_hour),
        download_allowance_gb=settings().xero_download_allowance_gb,
        downloaded_gb=status.xero_bytes_uncompressed / GIGABYTE,
        calls=calls,
    )


def _selected_events(form: FormData) -> list[int] | None:
    """The ids of the events that the form selects; None for all of them."""
    value = str(form.get("event", ""))
    if value == "all":
        return None
    event_id = whole_number(value)
    if event_id is None:
        raise ProblemError(422, "Choose an event of your account.")
    return [event_id]


@router.post("/events/replay")
def replay(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Retry failed events."""
    browser_session, event_ids = browser.require_admin(request.state.browser), _selected_events(form)
    change = failed_events.retry(browser_session.account_id, event_ids, actor=browser_session.user_name)
    notice = f"Retrying {count_noun(change.count, 'event')}." if change.count else ""
    return redirect(request, "/status#quarantine", notice=notice)


@router.post("/events/dismiss")
def dismiss(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Dismiss failed events."""
    browser_session, event_ids = browser.require_admin(request.state.browser), _selected_events(form)
    change = failed_events.dismiss(browser_session.account_id, event_ids, actor=browser_session.user_name)
    notice = f"Dismissed {count_noun(change.count, 'event')}." if change.count else ""
    return redirect(request, "/status#quarantine", notice=notice)
