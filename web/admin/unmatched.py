"""Unmatched contacts with suggestions, and unmatched records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from services.manual_links import MAX_BATCH
from store.accounts import accounts
from store.db.database import account_transaction
from store.db.enums import RecordType
from store.read_model import contact_links, match_reports, suggestions, unmatched_contacts
from store.read_model.match_reports import UnmatchedRecord
from store.read_model.unmatched_contacts import ContactPage, ContactQuery, UnmatchedReason
from web.admin import forms, notices, searches
from web.admin.forms import FormState
from web.admin.render import redirect, render_page
from web.admin.searches import Topic
from web.api import cursors
from web.auth import browser
from web.presentation import exports, labels, links, locales
from web.presentation.exports import ExportFormat

router = APIRouter()
PAGE_SIZE = 50


@dataclass(frozen=True)
class UnmatchedView:
    """What of the unmatched contacts and records a page shows; `search` is as in the URL, `text` what it says."""

    reason: UnmatchedReason | None = None
    search: str = ""
    text: str | None = ""
    after: str | None = None
    record_type: RecordType | None = None
    after_record: tuple[RecordType, int] | None = None
    linked: UUID | None = None

    @property
    def query(self) -> ContactQuery:
        """Which contacts to list."""
        after = cursors.decode_contact(self.after) if self.after else None
        return ContactQuery(self.text or None, self.reason, after, PAGE_SIZE + 1)

    def path(self, **changes: object) -> str:
        """The path of the page with other parameters; every change starts at the first page."""
        params = {"reason": self.reason, "search": self.search, **changes}
        query = urlencode({name: value for name, value in params.items() if value})
        return f"/unmatched?{query}" if query else "/unmatched"

    def records_path(self, **changes: object) -> str:
        """The path of the list of records of this type, or of a page of it; the contacts stay at their first page."""
        record_type = self.record_type.value if self.record_type else None
        return f"{self.path(type=record_type, **changes)}#records"


@router.get("/unmatched")
def show_unmatched(
    request: Request,
    reason: Annotated[str, Query(pattern="^(no_address|unknown_address)?$")] = "",
    search: Annotated[str, Query(max_length=searches.MAX_ENCRYPTED_SEARCH)] = "",
    after: Annotated[str | None, Query(max_length=200)] = None,
    type: Annotated[str, Query(pattern="^(lead|person|company|opportunity)?$")] = "",
    after_record: Annotated[str, Query(pattern="^((lead|person|company|opportunity)-[0-9]{1,18})?$")] = "",
    linked: UUID | None = None,
) -> Response:
    """Xero contacts with sales invoices that no record matches, and records that no contact matches."""
    browser_session = browser.require_admin(request.state.browser)
    text = searches.decrypt(Topic.RECORDS, browser_session.account_id, search)
    view = UnmatchedView(
        UnmatchedReason(reason) if reason else None,
        search if text else "",
        text,
        after,
        RecordType(type) if type else None,
        _parse_record(after_record),
        linked,
    )
    return unmatched_page(request, view)


def _parse_record(text: str) -> tuple[RecordType, int] | None:
    record_type, _, record_id = text.partition("-")
    return (RecordType(record_type), int(record_id)) if text else None


@router.post("/unmatched")
def search_contacts(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Redirect to the unmatched contacts whose name or address contains the search text."""
    browser_session = browser.require_admin(request.state.browser)
    text = searches.read_text(form)
    if len(text) > searches.MAX_SEARCH_LENGTH:
        return unmatched_page(
            request, UnmatchedView(text=text), forms.rejected_form(form, {"q": searches.TOO_LONG}), is_listed=False
        )
    search = searches.encrypt(Topic.RECORDS, browser_session.account_id, text)
    return redirect(request, UnmatchedView(search=search).path())


def unmatched_page(
    request: Request, view: UnmatchedView, form: FormState = forms.EMPTY_FORM, *, is_listed: bool = True
) -> Response:
    """The unmatched page, with the errors of a rejected form; `is_listed`: with the contacts that `view` asks for."""
    browser_session = browser.require_admin(request.state.browser)
    account_id = browser_session.account_id
    with account_transaction(account_id) as session:
        query = view.query if is_listed else UnmatchedView().query
        page = unmatched_contacts.list_page(session, account_id, query)
        contacts = page.contacts[:PAGE_SIZE]
        suggested = suggestions.suggest(session, account_id, [contact.key for contact in contacts])
        records = match_reports.list_unmatched_records(
            session, account_id, view.record_type, PAGE_SIZE + 1, view.after_record
        )
        copper_account_id = accounts.get_copper_account_id(session, account_id)
        linked_count = contact_links.count_batch(session, account_id, view.linked) if view.linked else 0
        connection_notice = notices.for_connection(session, account_id)
    return render_page(
        request,
        "unmatched.html",
        status=422 if form.has_errors else 200,
        form=form,
        alert=connection_notice,
        view=view,
        tabs=_tabs(page),
        contacts=contacts,
        suggested=suggested,
        next_path=_next_path(view, page),
        linked_count=linked_count,
        max_batch=MAX_BATCH,
        records=records[:PAGE_SIZE],
        next_records_path=_next_records_path(view, records),
        record_types=list(RecordType),
        locale=locales.negotiate(request),
        xero_url=links.contact,
        copper_url=lambda record_type, record_id: links.record(copper_account_id, record_type, record_id),
        unmatched_reason=labels.unmatched_reason,
    )


def _tabs(page: ContactPage) -> list[tuple[UnmatchedReason | None, str, int]]:
    """The reasons with their labels and counts; first all of them together."""
    reasons = [(reason, labels.UNMATCHED_REASON_LABELS[reason], page.counts[reason]) for reason in UnmatchedReason]
    return [(None, "All", sum(page.counts.values())), *reasons]


def _next_path(view: UnmatchedView, page: ContactPage) -> str | None:
    if len(page.contacts) <= PAGE_SIZE:
        return None
    return view.path(after=cursors.encode_contact(page.contacts[PAGE_SIZE - 1].position))


def _next_records_path(view: UnmatchedView, records: Sequence[UnmatchedRecord]) -> str | None:
    if len(records) <= PAGE_SIZE:
        return None
    last = records[PAGE_SIZE - 1]
    return view.records_path(after_record=f"{last.record_type}-{last.record_id}")


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
