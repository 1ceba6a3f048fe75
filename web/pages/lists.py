"""Who owes, and what matches nobody."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from store import accounts, balances, matching
from store.balances import Place
from store.database import bound
from store.models import RecordType
from web import answers, browser, exports, forms, links, locales, words
from web.exports import Form
from web.forms import FormState
from web.pages import notices
from web.pages.render import page

router = APIRouter()
ROWS = 50
MOST_LISTED = 100
CURRENCY = "^[A-Za-z]{0,3}$"


@router.get("/receivables")
def receivables(
    request: Request,
    type: RecordType = RecordType.COMPANY,
    sort: Literal["open", "overdue"] = "overdue",
    currency: Annotated[str | None, Query(pattern=CURRENCY)] = None,
    after: Annotated[str | None, Query(max_length=100)] = None,
) -> Response:
    """Records by what they owe in one currency."""
    session = browser.admin(request.state.browser)
    place = answers.read_place(after) if after else None
    with bound(session.account_id) as database:
        known = balances.currencies(database, session.account_id, type)
        chosen = currency if currency is not None else (known[0] if known else "")
        ranked = balances.ranked(
            database, session.account_id, type, currency=chosen, sort=sort, after=place, limit=ROWS + 1
        )
        missing = notices.connection(database, session.account_id)
    last = ranked[ROWS - 1] if len(ranked) > ROWS else None
    return page(
        request,
        "receivables.html",
        trouble=missing,
        kind=type,
        kinds=list(RecordType),
        sort=sort,
        currency=chosen,
        currencies=known,
        ranked=ranked[:ROWS],
        locale=locales.of(request),
        after=answers.write_place(Place(getattr(last, sort), last.record_id)) if last else None,
        is_first=place is None,
    )


@router.get("/unmatched")
def unmatched(
    request: Request,
    currency: Annotated[str | None, Query(pattern=CURRENCY)] = None,
    type: Annotated[str, Query(pattern="^(lead|person|company|opportunity)?$")] = "",
) -> Response:
    """Xero contacts with sales invoices that no record matches, and records that no contact matches."""
    return unmatched_page(request, currency=currency, kind=RecordType(type) if type else None)


def unmatched_page(
    request: Request,
    *,
    currency: str | None = None,
    kind: RecordType | None = None,
    form: FormState = forms.EMPTY,
) -> Response:
    """The page, with the form of a link that was refused at the contact that it was for."""
    session = browser.admin(request.state.browser)
    with bound(session.account_id) as database:
        contacts = matching.unmatched_contacts(database, session.account_id, currency, MOST_LISTED + 1)
        records = matching.unmatched_records(database, session.account_id, kind, MOST_LISTED + 1)
        copper = accounts.copper_account(database, session.account_id)
        missing = notices.connection(database, session.account_id)
    return page(
        request,
        "unmatched.html",
        status=422 if form.is_refused else 200,
        form=form,
        trouble=missing,
        contacts=contacts[:MOST_LISTED],
        more_contacts=len(contacts) > MOST_LISTED,
        records=records[:MOST_LISTED],
        more_records=len(records) > MOST_LISTED,
        most=MOST_LISTED,
        kind=kind,
        kinds=list(RecordType),
        locale=locales.of(request),
        in_xero=links.contact,
        in_copper=lambda kind, record: links.record(copper, kind, record),
        why=words.unmatched,
    )


@router.get("/export/unmatched-contacts.{form}")
async def export_contacts(request: Request, form: Form) -> Response:
    """All of the contacts as a file."""
    session = browser.admin(request.state.browser)
    return await exports.unmatched_contacts(request, session.account_id, session.user_name, form)


@router.get("/export/unmatched-records.{form}")
async def export_records(request: Request, form: Form) -> Response:
    """All of the records as a file."""
    session = browser.admin(request.state.browser)
    return await exports.unmatched_records(request, session.account_id, session.user_name, form)
