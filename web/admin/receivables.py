"""Receivables: what the account is owed, and the records by what they owe and how late it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated
from urllib.parse import urlencode

from babel import Locale
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, Field
from starlette.datastructures import FormData

from runtime.numbers import count_noun
from store.accounts.browser_sessions import BrowserSession
from store.db.database import account_transaction
from store.db.enums import RecordType
from store.mirror import copper_users
from store.read_model import receivables
from store.read_model.receivables import SORT_COLUMNS, AccountTotal, ReceivablesQuery, Sort
from web.admin import forms, notices, searches
from web.admin.forms import FormState
from web.admin.render import redirect, render_page
from web.admin.searches import Topic
from web.api import cursors
from web.auth import browser
from web.presentation import exports, labels, locales
from web.presentation.exports import ExportFormat
from web.presentation.problems import ProblemError

router = APIRouter()
ROWS_PER_PAGE = 50
MAX_SEARCH_LENGTH = 100
MAX_ENCRYPTED_SEARCH = 1_000
"""Characters; enough for the longest search of four-byte characters once it is encrypted."""
MAX_TOTAL_LINES = 4
ALL_CURRENCIES = "*"
MINE = "mine"
AMOUNT_LABELS = {
    "not_due": "Not due",
    **labels.AGEING_LABELS,
    "overdue": "Overdue",
    "outstanding": "Outstanding",
}
FORM_MESSAGES = {
    "type": "Choose a record type.",
    "sort": "Choose an amount to sort by.",
    "currency": "Choose a currency.",
    "owner": "Choose an owner.",
    "q": "This search is too long. Shorten it.",
}
Currency = Annotated[str, Field(pattern=r"^([A-Za-z]{0,3}|\*)$")]
Owner = Annotated[str, Field(pattern=r"^(mine|[1-9][0-9]{0,17})?$")]


class Filters(BaseModel):
    """The filters in a page's address. `search` is encrypted, because browser histories and proxies store addresses."""

    type: RecordType = RecordType.COMPANY
    sort: Sort = "overdue"
    currency: Currency = ALL_CURRENCIES
    owner: Owner = ""
    search: Annotated[str, Field(max_length=MAX_ENCRYPTED_SEARCH)] = ""

    def path(self, path: str = "/receivables", **changes: str) -> str:
        """`path` with these filters, changed as requested, and without those that are the default."""
        filters = self.model_copy(
            update={name: value for name, value in changes.items() if name in Filters.model_fields}
        )
        query = {**filters.model_dump(mode="json", exclude_defaults=True)}
        query |= {name: value for name, value in changes.items() if name not in Filters.model_fields}
        return f"{path}?{urlencode(query)}" if query else path

    def to_query(self, browser_session: BrowserSession, search: str) -> ReceivablesQuery:
        """The query of these filters for a user, with the decrypted `search`."""
        owner_id = browser_session.user_id if self.owner == MINE else int(self.owner or 0)
        currency = None if self.currency == ALL_CURRENCIES else self.currency
        return ReceivablesQuery(self.type, self.sort, currency, search, owner_id or None)


class FilterForm(BaseModel):
    """The form of the filters; `q` is the search as it was typed."""

    type: RecordType = RecordType.COMPANY
    sort: Sort = "overdue"
    currency: Currency = ALL_CURRENCIES
    owner: Owner = ""
    q: Annotated[str, BeforeValidator(forms.clean_line), Field(max_length=MAX_SEARCH_LENGTH)] = ""


@dataclass(frozen=True)
class TotalLine:
    """A total in one currency, formatted; `path` leads to its receivables ('': none)."""

    amount: str
    detail: str
    path: str


@dataclass(frozen=True)
class TotalCard:
    """One kind of total by currency; `more` is how many currencies are left out."""

    label: str
    is_overdue: bool
    lines: Sequence[TotalLine]
    more: int


@router.get("/receivables")
def show_receivables(
    request: Request,
    filters: Annotated[Filters, Query()],
    after: Annotated[str | None, Query(max_length=cursors.MAX_RANKING_LENGTH)] = None,
) -> Response:
    """What the account is owed, and the records of a type by what they owe."""
    return _receivables_page(request, filters, after=after)


@router.post("/receivables")
def filter_receivables(request: Request, form: Annotated[FormData, Depends(browser.read_form)]) -> Response:
    """Redirect to the receivables that the form asks for."""
    browser_session = browser.require_admin(request.state.browser)
    parsed = forms.parse_form(FilterForm, form, FORM_MESSAGES)
    if isinstance(parsed, dict):
        return _receivables_page(request, Filters(), form=forms.rejected_form(form, parsed))
    search = searches.encrypt(Topic.RECEIVABLES, browser_session.account_id, parsed.q)
    return redirect(request, Filters(search=search, **parsed.model_dump(exclude={"q"})).path())


@router.get("/export/receivables.{format}")
async def export_receivables(request: Request, format: ExportFormat, filters: Annotated[Filters, Query()]) -> Response:
    """Export the receivables that the page shows with the same filters, all pages of them."""
    browser_session = browser.require_admin(request.state.browser)
    search = searches.decrypt(Topic.RECEIVABLES, browser_session.account_id, filters.search)
    if search is None:
        raise ProblemError(422, searches.EXPIRED)
    query = filters.to_query(browser_session, search)
    return await exports.export_receivables(
        request, browser_session.account_id, browser_session.user_name, format, query
    )


def _receivables_page(
    request: Request, filters: Filters, *, after: str | None = None, form: FormState = forms.EMPTY_FORM
) -> Response:
    browser_session = browser.require_admin(request.state.browser)
    account_id, locale = browser_session.account_id, locales.negotiate(request)
    cursor = cursors.decode_ranking(after) if after else None
    search = searches.decrypt(Topic.RECEIVABLES, account_id, filters.search)
    query = filters.to_query(browser_session, search or "")
    with account_transaction(account_id) as session:
        currencies = receivables.list_currencies(session, account_id, filters.type)
        page = receivables.read_page(
            session, account_id, query, currencies=currencies, after=cursor, limit=ROWS_PER_PAGE
        )
        totals = receivables.list_totals(session, account_id)
        owner_name = copper_users.find_name(session, account_id, query.owner_id) if query.owner_id else None
        connection_notice = notices.for_connection(session, account_id)
    shown_currencies = {receivable.currency for receivable in page.receivables}
    return render_page(
        request,
        "receivables.html",
        status=422 if form.has_errors else 200,
        form=form,
        alert=connection_notice,
        filters=filters,
        has_filters=filters.owner != "" or bool(search) or filters.currency != ALL_CURRENCIES,
        q=search or "",
        has_expired=search is None,
        record_types=list(RecordType),
        amount_labels=AMOUNT_LABELS,
        sort_columns=SORT_COLUMNS,
        currencies=currencies,
        all_currencies=ALL_CURRENCIES,
        owners=_owner_options(filters, query.owner_id, owner_name),
        owner_label=labels.owner,
        cards=_total_cards(totals, filters, locale),
        receivables=page.receivables,
        single_currency=next(iter(shown_currencies)) if len(shown_currencies) == 1 else None,
        has_credit=any(receivable.credit for receivable in page.receivables),
        locale=locale,
        next_path=filters.path(after=cursors.encode_ranking(page.next)) if page.next else None,
        is_first_page=cursor is None,
    )


def _owner_options(filters: Filters, owner_id: int | None, owner_name: str | None) -> list[tuple[str, str]]:
    """The options of the owner's filter: everybody, the user of the browser, and who is selected."""
    options = [("", "Anyone"), (MINE, "Mine")]
    if filters.owner and filters.owner != MINE:
        options.append((filters.owner, labels.owner(owner_id, owner_name)))
    return options


def _total_cards(totals: Sequence[AccountTotal], filters: Filters, locale: Locale) -> list[TotalCard]:
    def line_path(total: AccountTotal, sort: Sort) -> str:
        is_code = len(total.currency) in {0, 3}
        return filters.path(currency=total.currency, sort=sort, search="", owner="") if is_code else ""

    def oldest(total: AccountTotal) -> str:
        return f"oldest {count_noun(total.oldest_days, 'day')}"

    def unpaid(total: AccountTotal) -> str:
        return count_noun(total.invoices, "invoice")

    cards = [
        _card(
            "Overdue", totals, lambda total: total.overdue, oldest, lambda total: line_path(total, "overdue"), locale
        ),
        _card(
            "Outstanding",
            totals,
            lambda total: total.open,
            unpaid,
            lambda total: line_path(total, "outstanding"),
            locale,
        ),
        _card("Credit to use", totals, lambda total: total.credit, lambda _: "", lambda _: "", locale),
    ]
    return [card for card in cards if card.lines]


def _card(
    label: str,
    totals: Sequence[AccountTotal],
    amount: Callable[[AccountTotal], Decimal],
    detail: Callable[[AccountTotal], str],
    path: Callable[[AccountTotal], str],
    locale: Locale,
) -> TotalCard:
    relevant = [total for total in totals if amount(total)]
    lines = [
        TotalLine(locales.format_amount(amount(total), total.currency, locale), detail(total), path(total))
        for total in relevant[:MAX_TOTAL_LINES]
    ]
    return TotalCard(label, label == "Overdue", lines, len(relevant) - len(lines))
