"""Linking Xero contacts to records: accepted suggestions, many at once, and a search for one contact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import FormData

from runtime.numbers import count_noun, whole_number
from services import manual_links
from services.manual_links import MAX_BATCH
from store.db.database import account_transaction
from store.db.enums import RecordType
from store.read_model import contact_links, suggestions, unmatched_contacts
from store.read_model.contact_links import Link
from store.read_model.match_reports import RecordSearchResult
from store.read_model.unmatched_contacts import UnmatchedReason
from web.admin import forms, searches
from web.admin.forms import FormState
from web.admin.render import Id, redirect, render_page
from web.admin.searches import Topic
from web.admin.unmatched import UnmatchedView, unmatched_page
from web.auth import browser
from web.presentation import links
from web.presentation.problems import ProblemError

router = APIRouter()
MAX_RESULTS = 20
MAX_SUGGESTED_RESULTS = 10
MIN_SUGGESTED_LENGTH = 2
NOTHING_SELECTED = "Select at least one suggestion."
TOO_MANY = f"Select at most {MAX_BATCH} suggestions at once."


def link_value(organisation_id: int, contact_id: UUID, record_type: str, record_id: int) -> str:
    """A link as the value of a form's field."""
    return f"{organisation_id} {contact_id} {record_type} {record_id}"


def _parse_link(value: str) -> Link:
    """The link in a form's field; raises a 422 problem for anything that `link_value` did not make."""
    parts = value.split(" ")
    try:
        organisation_id, record_id = whole_number(parts[0]), whole_number(parts[3])
        if len(parts) != 4 or organisation_id is None or record_id is None:
            raise ValueError
        return Link(organisation_id, UUID(parts[1]), RecordType(parts[2]), record_id)
    except (ValueError, IndexError):
        raise ProblemError(422, "This isn't a link between a contact and a record. Open the page again.") from None


def _view_of(form: FormData) -> UnmatchedView:
    """The view of the unmatched page that a form was sent from."""
    reason, search = str(form.get("reason", "")), str(form.get("search", ""))[: searches.MAX_ENCRYPTED_SEARCH]
    return UnmatchedView(UnmatchedReason(reason) if reason in set(UnmatchedReason) else None, search)


@router.post("/links/accept")
def accept_suggestion(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Link one contact to the suggested or found record."""
    return _link_all(request, form, [_parse_link(str(form.get("accept", "")))])


@router.post("/links/review")
def review_links(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Ask before many contacts are linked, with a list of them."""
    browser_session = browser.require_admin(request.state.browser)
    account_id, view = browser_session.account_id, _view_of(form)
    selected = _selected_links(form)
    if not selected or len(selected) > MAX_BATCH:
        view = replace(view, text=searches.decrypt(Topic.RECORDS, account_id, view.search))
        error = TOO_MANY if selected else NOTHING_SELECTED
        return unmatched_page(request, view, forms.rejected_form(form, {"links": error}))
    with account_transaction(account_id) as session:
        descriptions = contact_links.describe_ends(session, account_id, selected)
        statuses = contact_links.check_many(session, account_id, selected)
    rows = [
        (link_value(link.organisation_id, link.contact_id, link.record_type.value, link.record_id), link, ends, status)
        for link, ends, status in zip(selected, descriptions, statuses, strict=True)
    ]
    contact_count = len({(link.organisation_id, link.contact_id) for link in selected})
    return render_page(request, "link_review.html", rows=rows, contact_count=contact_count, view=view)


@router.post("/links/batch")
def link_batch(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Link the contacts that were reviewed."""
    selected = _selected_links(form)
    if not selected or len(selected) > MAX_BATCH:
        raise ProblemError(422, TOO_MANY if selected else NOTHING_SELECTED)
    return _link_all(request, form, selected)


def _selected_links(form: FormData) -> list[Link]:
    """The links whose boxes are ticked, each once. One more than can be linked is enough to see that it is too many."""
    values = dict.fromkeys(str(value) for value in form.getlist("link"))
    return [_parse_link(value) for value in list(values)[: MAX_BATCH + 1]]


def _link_all(request: Request, form: FormData, selected: Sequence[Link]) -> Response:
    browser_session = browser.require_admin(request.state.browser)
    batch = manual_links.create_batch(browser_session.account_id, selected, actor=browser_session.user_name)
    failed = sum(outcome.status.is_error for outcome in batch.outcomes)
    notice = f"{count_noun(failed, 'link')} not made: the contact or the record no longer exists." if failed else ""
    if not batch.linked and not failed:
        notice = "Already linked."
    return redirect(request, _view_of(form).path(linked=batch.id if batch.linked else None), notice=notice)


@router.post("/links/undo")
def undo_links(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Remove the links that were made together."""
    browser_session = browser.require_admin(request.state.browser)
    try:
        batch_id = UUID(str(form.get("batch", "")))
    except ValueError:
        raise ProblemError(422, "There is nothing to undo. Open the page again.") from None
    removed = manual_links.undo_batch(browser_session.account_id, batch_id, actor=browser_session.user_name)
    return redirect(request, _view_of(form).path(), notice=f"{count_noun(removed, 'link')} removed.")


@router.get("/contacts/{organisation_id}/{contact_id}")
def show_contact(
    request: Request,
    organisation_id: Id,
    contact_id: UUID,
    search: Annotated[str, Query(max_length=searches.MAX_ENCRYPTED_SEARCH)] = "",
) -> Response:
    """A Xero contact with suggestions, and a search for the record to link it to."""
    browser_session = browser.require_admin(request.state.browser)
    text = searches.decrypt(Topic.RECORDS, browser_session.account_id, search)
    return _contact_page(request, organisation_id, contact_id, text or "")


@router.post("/contacts/{organisation_id}/{contact_id}")
def search_records(
    request: Request,
    organisation_id: Id,
    contact_id: UUID,
    form: Annotated[FormData, Depends(browser.read_form)],
) -> Response:
    """Redirect to the records that a search finds for a contact."""
    browser_session = browser.require_admin(request.state.browser)
    text = searches.read_text(form)
    if len(text) > searches.MAX_SEARCH_LENGTH:
        return _contact_page(
            request, organisation_id, contact_id, "", forms.rejected_form(form, {"q": searches.TOO_LONG})
        )
    query = f"?search={searches.encrypt(Topic.RECORDS, browser_session.account_id, text)}" if text else ""
    return redirect(request, f"/contacts/{organisation_id}/{contact_id}{query}")


def _contact_page(
    request: Request, organisation_id: int, contact_id: UUID, text: str, form: FormState = forms.EMPTY_FORM
) -> Response:
    browser_session = browser.require_admin(request.state.browser)
    account_id = browser_session.account_id
    with account_transaction(account_id) as session:
        contact = unmatched_contacts.find_contact(session, account_id, organisation_id, contact_id)
        if contact is None:
            raise ProblemError(404, "This Xero contact isn't known in your account.")
        suggested = suggestions.suggest(session, account_id, [contact.key]).get(contact.key, ())
        results = searches.find_records(session, account_id, text, MAX_RESULTS)
    return render_page(
        request,
        "contact.html",
        status=422 if form.has_errors else 200,
        form=form,
        contact=contact,
        suggested=suggested,
        q=text,
        results=results,
        max_results=MAX_RESULTS,
        link_value=link_value,
        xero_url=links.contact,
    )


@router.post("/records/suggest")
def suggest_records(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """The first records that a search finds, as JSON for the search field; empty for less than two characters."""
    browser_session = browser.require_admin(request.state.browser)
    account_id, text = browser_session.account_id, searches.read_text(form)
    results: list[RecordSearchResult] = []
    if MIN_SUGGESTED_LENGTH <= len(text) <= searches.MAX_SEARCH_LENGTH:
        with account_transaction(account_id) as session:
            results = searches.find_records(session, account_id, text, MAX_SUGGESTED_RESULTS)
    rows = [
        {"type": result.record_type, "id": result.record_id, "name": result.name, "email": result.email}
        for result in results
    ]
    return JSONResponse({"results": rows}, headers={"Cache-Control": "no-store"})
