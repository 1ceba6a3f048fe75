"""Any record as a user of Copper sees it, for admins; why it shows what it shows; and links made by hand."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from store import accounts, audit, matching
from store import links as by_hand
from store.database import bound
from store.links import Link, LinkError
from store.models import RecordType
from web import browser, exports, links, locales, shown
from web.exports import Form
from web.invoices import RecordId
from web.pages.render import go, page
from web.problems import ProblemError
from worker import jobs
from worker.addresses import normalised
from worker.broker import wake
from worker.explain import explain

router = APIRouter()
MOST_FOUND = 50


@router.get("/records")
def search(request: Request, q: Annotated[str, Query(max_length=320)] = "") -> Response:
    """Find a record by its name, an address or its number."""
    session = browser.admin(request.state.browser)
    found = []
    if wanted := q.strip():
        with bound(session.account_id) as database:
            found = matching.search(database, session.account_id, wanted, MOST_FOUND, normalised(wanted))
    return page(request, "records.html", q=q, found=found, most=MOST_FOUND)


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
    found = shown.look(session.account_id, kind, record_id, locale, status=status, limit=limit)
    return page(request, "record.html", record=found, locale=locale, copper=_in_copper(session.account_id, found))


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
        raise ProblemError(404, "This invoice does not stand on this record any more.")
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
    request: Request, account_id: int, kind: RecordType, record_id: int, *, error: str | None = None, status: int = 200
) -> Response:
    found = explain(account_id, kind, record_id)
    return page(
        request,
        "match.html",
        status=status,
        found=found,
        linkable=kind in by_hand.LINKABLE,
        locale=locales.of(request),
        in_xero=links.contact,
        error=error,
    )


@router.post("/links")
def link(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Link a Xero contact to a lead, person or company."""
    session = browser.admin(request.state.browser)
    wanted = _link(form)
    try:
        with bound(session.account_id) as database:
            said = by_hand.link(database, session.account_id, wanted, session.user_name)
            if said:
                audit.note(database, session.account_id, session.user_name, "contact.linked", said)
    except LinkError as error:
        if form.get("from") == "unmatched":
            return go(request, f"/unmatched?problem={wanted.record_type.value}-{wanted.record_id}")
        return _match_page(
            request, session.account_id, wanted.record_type, wanted.record_id, error=str(error), status=422
        )
    wake(jobs.project, session.account_id)
    return go(request, f"/records/{wanted.record_type.value}/{wanted.record_id}/match")


@router.post("/links/undo")
def unlink(request: Request, form: Annotated[FormData, Depends(browser.form)]) -> Response:
    """Undo a link."""
    session = browser.admin(request.state.browser)
    known = _link(form)
    with bound(session.account_id) as database:
        if by_hand.unlink(database, session.account_id, known):
            said = f"contact {known.contact_id} from {known.record_type.value} {known.record_id}"
            audit.note(database, session.account_id, session.user_name, "contact.unlinked", said)
    wake(jobs.project, session.account_id)
    return go(request, f"/records/{known.record_type.value}/{known.record_id}/match")


def _link(form: FormData) -> Link:
    """The link that a form names; raises `ProblemError` that says what it takes."""
    try:
        number = str(form.get("record", "")).strip()
        if not number.isascii() or not number.isdigit() or len(number) > 18:
            raise ValueError
        return Link(
            int(str(form.get("organisation", ""))[:18]),
            UUID(str(form.get("contact", ""))),
            RecordType(str(form.get("type", ""))),
            int(number),
        )
    except ValueError:
        raise ProblemError(
            400, "To link, name a contact, and the number in Copper of a lead, person or company."
        ) from None


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
