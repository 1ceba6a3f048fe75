"""Unmatched contacts and records."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from store.accounts import accounts
from store.db.database import account_transaction
from store.db.enums import RecordType
from store.read_model import match_reports
from web.admin import forms, notices
from web.admin.forms import FormState
from web.admin.render import render_page
from web.auth import browser
from web.presentation import exports, labels, links, locales
from web.presentation.exports import ExportFormat

router = APIRouter()
MAX_LISTED = 100
CURRENCY_PATTERN = "^[A-Za-z]{0,3}$"


@router.get("/unmatched")
def show_unmatched(
    request: Request,
    currency: Annotated[str | None, Query(pattern=CURRENCY_PATTERN)] = None,
    type: Annotated[str, Query(pattern="^(lead|person|company|opportunity)?$")] = "",
) -> Response:
    """Xero contacts with sales invoices that no record matches, and records that no contact matches."""
    return unmatched_page(request, currency=currency, record_type=RecordType(type) if type else None)


def unmatched_page(
    request: Request,
    *,
    currency: str | None = None,
    record_type: RecordType | None = None,
    form: FormState = forms.EMPTY_FORM,
) -> Response:
    """The unmatched page; a rejected link form is shown open, beside its contact."""
    browser_session = browser.require_admin(request.state.browser)
    with account_transaction(browser_session.account_id) as session:
        contacts = match_reports.list_unmatched_contacts(session, browser_session.account_id, currency, MAX_LISTED + 1)
        records = match_reports.list_unmatched_records(session, browser_session.account_id, record_type, MAX_LISTED + 1)
        copper_account_id = accounts.get_copper_account_id(session, browser_session.account_id)
        connection_notice = notices.for_connection(session, browser_session.account_id)
    return render_page(
        request,
        "unmatched.html",
        status=422 if form.has_errors else 200,
        form=form,
        alert=connection_notice,
        contacts=contacts[:MAX_LISTED],
        has_more_contacts=len(contacts) > MAX_LISTED,
        records=records[:MAX_LISTED],
        has_more_records=len(records) > MAX_LISTED,
        max_listed=MAX_LISTED,
        record_type=record_type,
        record_types=list(RecordType),
        locale=locales.negotiate(request),
        xero_url=links.contact,
        copper_url=lambda record_type, record_id: links.record(copper_account_id, record_type, record_id),
        unmatched_reason=labels.unmatched_reason,
    )


@router.get("/export/unmatched-contacts.{format}")
async def export_contacts(request: Request, format: ExportFormat) -> Response:
    """Export all unmatched contacts."""
    browser_session = browser.require_admin(request.state.browser)
    return await exports.export_unmatched_contacts(
        request, browser_session.account_id, browser_session.user_name, format
    )


@router.get("/export/unmatched-records.{format}")
async def export_records(request: Request, format: ExportFormat) -> Response:
    """Export all unmatched records."""
    browser_session = browser.require_admin(request.state.browser)
    return await exports.export_unmatched_records(
        request, browser_session.account_id, browser_session.user_name, format
    )
