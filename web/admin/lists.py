"""Receivables: the records that owe most."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from store.db.database import account_transaction
from store.db.enums import RecordType
from store.read_model import balances
from store.read_model.balances import RankingCursor
from web.admin import notices
from web.admin.render import render_page
from web.api import cursors
from web.auth import browser
from web.presentation import locales

router = APIRouter()
ROWS_PER_PAGE = 50
CURRENCY_PATTERN = "^[A-Za-z]{0,3}$"


@router.get("/receivables")
def show_receivables(
    request: Request,
    type: RecordType = RecordType.COMPANY,
    sort: Literal["open", "overdue"] = "overdue",
    currency: Annotated[str | None, Query(pattern=CURRENCY_PATTERN)] = None,
    after: Annotated[str | None, Query(max_length=100)] = None,
) -> Response:
    """Records ranked by their overdue or outstanding balance in one currency."""
    browser_session = browser.require_admin(request.state.browser)
    cursor = cursors.decode_ranking(after) if after else None
    with account_transaction(browser_session.account_id) as session:
        currencies = balances.list_currencies(session, browser_session.account_id, type)
        selected_currency = currency if currency is not None else next(iter(currencies), "")
        receivables = balances.rank_records(
            session,
            browser_session.account_id,
            type,
            currency=selected_currency,
            sort=sort,
            after=cursor,
            limit=ROWS_PER_PAGE + 1,
        )
        connection_notice = notices.for_connection(session, browser_session.account_id)
    last = receivables[ROWS_PER_PAGE - 1] if len(receivables) > ROWS_PER_PAGE else None
    return render_page(
        request,
        "receivables.html",
        alert=connection_notice,
        record_type=type,
        record_types=list(RecordType),
        sort=sort,
        currency=selected_currency,
        currencies=currencies,
        receivables=receivables[:ROWS_PER_PAGE],
        has_credit=any(receivable.credit for receivable in receivables[:ROWS_PER_PAGE]),
        locale=locales.negotiate(request),
        after=cursors.encode_ranking(RankingCursor(getattr(last, sort), last.record_id)) if last else None,
        is_first_page=cursor is None,
    )
