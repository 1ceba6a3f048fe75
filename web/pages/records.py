"""Any record as a user of Copper sees it, for admins; why it shows what it shows; and links made by hand."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.datastructures import FormData

from store import accounts, audit, matching
from store import links as by_hand
from store.database import bound
from store.links import Link, LinkError
from store.models import RecordType
from store.secrets import seal_text, unseal_text
from web import browser, exports, forms, links, locales, shown, words
from web.exports import Form
from web.forms import FormState, WholeNumber
from web.invoices import RecordId
from web.pages import notices
from web.pages.lists import unmatched_page
from web.pages.render import go, page
from web.problems import ProblemError
from worker import jobs
from worker.addresses import normalised
from worker.broker import wake
from worker.explain import explain

router = APIRouter()
MOST_FOUND = 50
MAX_SEARCH = 320
MAX_SEALED = 2_500
"""Characters of the longest search text once it is sealed, four bytes a character, and some to spare."""
SEARCH_SECONDS = 86_400
LINK_MESSAGES = {
    "organisation": "This isn't an organisation of your account.",
    "contact": "This isn't a Xero contact.",
    "type": "Choose a lead, person or company.",
    "record": "Enter a numeric Copper ID.",
}


class LinkForm(BaseModel):
    """A contact, and the record that it is linked to."""

    organisation: WholeNumber
    contact: UUID
    type: RecordType
    record: WholeNumber

    def link(self) -> Link:
        """The link that the form names."""
        return Link(self.organisation, self.contact, self.type, self.record)


@router.post("/records")
def search(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Take a search text, and lead to what it finds.

    Names and addresses are personal data: in the address of the page, where histories and proxies keep it, the text
    is sealed. So the page may be reloaded and gone back to, and nothing of the text is kept here.
    """
    session = browser.admin(request.state.browser)
    wanted = forms.line(str(form.get("q", "")))
    if len(wanted) > MAX_SEARCH:
        return _records_page(request, wanted, forms.refused(form, {"q": "This search is too long. Shorten it."}))
    return go(request, f"/records?search={seal_text(_purpose(session.account_id), wanted)}" if wanted else "/records")


def _purpose(account_id: int) -> str:
    return f"search {account_id}"


@router.get("/records")
def records(request: Request, search: Annotated[str, Query(max_length=MAX_SEALED)] = "") -> Response:
    """Find a record by its name, an email address, its Copper ID or an invoice number."""
    session = browser.admin(request.state.browser)
    wanted = unseal_text(_purpose(session.account_id), search, max_age=SEARCH_SECONDS) if search else ""
    return _records_page(request, wanted or "", has_expired=wanted is None)


def _records_page(
    request: Request, wanted: str, form: FormState = forms.EMPTY, *, has_expired: bool = False
) -> Response:
    session = browser.admin(request.state.browser)
    is_asked = bool(wanted) and not form.is_refused
    with bound(session.account_id) as database:
        missing = notices.connection(database, session.account_id)
        found = (
            matching.search(database, session.account_id, wanted, MOST_FOUND, normalised(wanted)) if is_asked else []
        )
    return page(
        request,
        "records.html",
        status=422 if form.is_refused else 200,
        q=wanted,
        form=form,
        found=found,
        is_asked=is_asked,
        has_expired=has_expired,
        most=MOST_FOUND,
        trouble=missing,
    )


@router.get("/records/{kind}/{record_id}")
def record(
    request: Request,
    kind: RecordType,
    record_id: RecordId,
    status: Annotated[str, Query(max_length=20)] = "",
    limit: Annotated[int | None, Query(ge=1, le=shown.LARGEST)] = None,
) -> Response:
    """What a user sees on the record."""
    session = browser.admin(request.state.browser)
    locale = locales.of(request)
    _known(session.account_id, kind, record_id)
    found = shown.look(session.account_id, kind, record_id, locale, status=forms.line(status), limit=limit)
    if status and status not in words.STATUS and status not in dict(found.filters):
        raise ProblemError(422, f'"{forms.line(status)}" isn\'t an invoice status.')
    return page(request, "record.html", record=found, locale=locale, copper=_in_copper(session.account_id, found))


def _known(account_id: int, kind: RecordType, record_id: int) -> None:
    """Raise `ProblemError` 404 for a record that Copper has not told of."""
    with bound(account_id) as database:
        if matching.record(database, account_id, kind, record_id) is None:
            said = f"No {kind.value} with Copper ID {record_id} has synced. New records usually appear within a minute."
            raise ProblemError(404, said)


def _in_copper(account_id: int, found: shown.RecordView) -> str:
    with bound(account_id) as database:
        return links.record(accounts.copper_account(database, account_id), found.kind.value, found.id)


@router.get("/records/{kind}/{record_id}/invoices/{invoice_id}/why")
def why(request: Request, kind: RecordType, record_id: RecordId, invoice_id: UUID) -> Response:
    """Why an invoice stands on the record."""
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        found = matching.why(database, session.account_id, kind, record_id, invoice_id)
        known = matching.record(database, session.account_id, kind, record_id)
    if found is None:
        raise ProblemError(404, "This invoice is no longer on this record.")
    name = known.name if known else ""
    return page(
        request,
        "why.html",
        kind=kind,
        record_id=record_id,
        name=name,
        number=found[0] or "This invoice",
        reasons=found[1],
    )


@router.get("/records/{kind}/{record_id}/match")
def match(request: Request, kind: RecordType, record_id: RecordId) -> Response:
    """Why the record shows what it shows, and what nearly matches."""
    session = browser.admin(request.state.browser)
    return _match_page(request, session.account_id, kind, record_id)


def _match_page(
    request: Request, account_id: int, kind: RecordType, record_id: int, *, error: str | None = None
) -> Response:
    found = explain(account_id, kind, record_id)
    if found.record is None and error is None:
        _known(account_id, kind, record_id)
    return page(
        request,
        "match.html",
        status=422 if error else 200,
        found=found,
        linkable=kind in by_hand.LINKABLE,
        locale=locales.of(request),
        in_xero=links.contact,
        error=error,
    )


@router.post("/links")
def create_link(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Link a Xero contact to a lead, person or company."""
    session = browser.admin(request.state.browser)
    from_list = form.get("from") == "unmatched"
    wanted = forms.read(LinkForm, form, LINK_MESSAGES)
    if isinstance(wanted, dict):
        if from_list and "record" in wanted:
            return unmatched_page(request, form=forms.refused(form, wanted))
        raise ProblemError(422, next(iter(wanted.values())))
    link = wanted.link()
    try:
        with bound(session.account_id) as database:
            is_new = by_hand.link(database, session.account_id, link, session.user_name)
            if is_new:
                audit.note(database, session.account_id, session.user_name, "contact.linked", link.reference)
    except LinkError as error:
        if from_list:
            return unmatched_page(request, form=forms.refused(form, {"record": f"{error} Nothing was linked."}))
        return _match_page(request, session.account_id, link.record_type, link.record_id, error=str(error))
    wake(jobs.project, session.account_id)
    return go(request, f"/records/{wanted.type.value}/{wanted.record}/match", notice="Linked." if is_new else "")


@router.post("/links/undo")
def unlink(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Undo a link."""
    session = browser.admin(request.state.browser)
    wanted = forms.read(LinkForm, form, LINK_MESSAGES)
    if isinstance(wanted, dict):
        raise ProblemError(422, next(iter(wanted.values())))
    with bound(session.account_id) as database:
        link = wanted.link()
        was_linked = by_hand.unlink(database, session.account_id, link)
        if was_linked:
            audit.note(database, session.account_id, session.user_name, "contact.unlinked", link.reference)
    wake(jobs.project, session.account_id)
    return go(request, f"/records/{wanted.type.value}/{wanted.record}/match", notice="Unlinked." if was_linked else "")


@router.get("/export/records/{kind}/{record_id}.{form}")
async def export_record(request: Request, kind: RecordType, record_id: RecordId, form: Form) -> Response:
    """The record's rows as a file."""
    session = browser.admin(request.state.browser)
    return await exports.invoices(request, session.account_id, session.user_name, form, kind, record_id)


@router.get("/export/invoices.{form}")
async def export_everything(request: Request, form: Form) -> Response:
    """All of the account's rows as a file."""
    session = browser.admin(request.state.browser)
    return await exports.invoices(request, session.account_id, session.user_name, form)
