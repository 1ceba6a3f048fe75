"""What a record's invoices can be filtered by: statuses, organisations, currencies and types, and sums as tiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple, TypeVar
from urllib.parse import urlencode

from babel import Locale

from store.db.enums import InvoiceType
from store.read_model.balances import Balance
from store.read_model.record_invoices import Facet, InvoiceFilter, InvoiceSort
from web.presentation import labels, locales

UNPAID, OVERDUE = "UNPAID", "OVERDUE"
# By whether they are purchases.
CREDIT_STATUSES = {False: "CREDIT", True: "SUPPLIERCREDIT"}
NO_CURRENCY = "none"
INVOICE_STATUSES = (OVERDUE, "AUTHORISED", "SUBMITTED", "DRAFT", "PAID", "VOIDED")
STATUS_ORDER = (*INVOICE_STATUSES, *CREDIT_STATUSES.values(), "USEDCREDIT")
Value = TypeVar("Value")
Options = tuple[tuple[str, str], ...]


class SumLabel(NamedTuple):
    """What a sum is called, and the class of its colour ('': none)."""

    text: str
    css_class: str = ""


# By whether they are purchases. Sales and bills are never added up.
SUM_LABELS = {
    False: {
        "overdue": SumLabel("Overdue", "bad"),
        "outstanding": SumLabel("Outstanding"),
        "total": SumLabel("Total"),
        "credit": SumLabel("Credit to use"),
    },
    True: {
        "overdue": SumLabel("Bills overdue", "bad"),
        "outstanding": SumLabel("Bills to pay"),
        "total": SumLabel("Bills in total"),
        "credit": SumLabel("Credit from suppliers"),
    },
}


@dataclass(frozen=True)
class TileView:
    """A sum that filters the list: `query` lists what it is the sum of, or all if it is selected already."""

    id: str
    label: str
    amount: str
    css_class: str
    query: str
    is_selected: bool


@dataclass(frozen=True)
class FilterView:
    """The form above a record's invoices; an empty tuple of options means that there is nothing to choose.

    `can_search` says whether there are enough invoices to search and sort. `clear_query` lists all invoices in the same
    order; it is None while nothing is filtered.
    """

    selected: InvoiceFilter
    statuses: Options
    organisations: Options
    currencies: Options
    types: Options
    can_search: bool
    clear_query: str | None


def effective_filter(selected: InvoiceFilter, facets: Sequence[Facet]) -> InvoiceFilter:
    """The filter without an organisation, a currency or a type that no invoice of the record has."""
    return replace(
        selected,
        organisation_id=_if_known(selected.organisation_id, {facet.organisation_id for facet in facets}),
        currency=_if_known(selected.currency, {facet.currency for facet in facets}),
        type=_if_known(selected.type, {facet.type for facet in facets}) or "",
    )


def _if_known(value: Value | None, known: set[Value]) -> Value | None:
    return value if value in known else None


def build_filters(selected: InvoiceFilter, facets: Sequence[Facet], locale: Locale) -> FilterView:
    """The form for a record's invoices; statuses are counted among the invoices that the other fields select."""
    counts: Counter[str] = Counter()
    for facet in facets:
        if _is_selected(facet, selected):
            counts[facet.status] += facet.invoices
    is_filtered = replace(selected, sort=InvoiceSort.CREATED) != InvoiceFilter()
    return FilterView(
        selected=selected,
        statuses=_status_options(counts, selected.status, locale),
        organisations=_options(facets, lambda facet: (str(facet.organisation_id), facet.organisation)),
        currencies=_options(facets, lambda facet: (facet.currency or NO_CURRENCY, facet.currency or "No currency")),
        types=_options(facets, lambda facet: (facet.type, labels.type_plural(facet.type))),
        can_search=sum(facet.invoices for facet in facets) > 1,
        clear_query=to_query(InvoiceFilter(sort=selected.sort)) if is_filtered else None,
    )


def _is_selected(facet: Facet, selected: InvoiceFilter) -> bool:
    return (
        selected.organisation_id in {None, facet.organisation_id}
        and selected.currency in {None, facet.currency}
        and selected.type in {"", facet.type}
    )


def _status_options(counts: Counter[str], status: str, locale: Locale) -> Options:
    codes = [code for code in STATUS_ORDER if code in counts]
    codes += sorted(set(counts) - set(STATUS_ORDER))
    totals = {"": counts.total(), UNPAID: counts[OVERDUE] + counts["AUTHORISED"], **counts}
    listed = ["", *([UNPAID] if status == UNPAID else []), *codes]
    options = [
        (code, f"{labels.status(code) if code else 'All'} ({locales.format_number(totals[code], locale)})")
        for code in listed
    ]
    return tuple(options) if len(codes) > 1 or status else ()


def _options(facets: Sequence[Facet], option: Callable[[Facet], tuple[str, str]]) -> Options:
    options = {option(facet) for facet in facets}
    return tuple(sorted(options, key=lambda value_and_label: value_and_label[1])) if len(options) > 1 else ()


def build_tiles(balances: Sequence[Balance], selected: InvoiceFilter, locale: Locale) -> tuple[TileView, ...]:
    """Tiles of what is overdue, outstanding and credit to use, in each currency; then of bills."""
    return tuple(
        _tile(label, amount, target, selected, locale)
        for balance in balances
        for label, amount, target in _sums(balance)
        if amount
    )


def _sums(balance: Balance) -> list[tuple[SumLabel, Decimal, InvoiceFilter]]:
    """A balance's sums with their labels, and the filters that list what they are the sums of."""
    names = SUM_LABELS[balance.is_purchase]
    row_type = InvoiceType.BILL if balance.is_purchase else InvoiceType.INVOICE
    target = InvoiceFilter(currency=balance.currency, type=row_type.value)
    return [
        (names["overdue"], balance.overdue, replace(target, status=OVERDUE)),
        (names["outstanding"], balance.open, replace(target, status=UNPAID)),
        (names["credit"], balance.credit, replace(target, status=CREDIT_STATUSES[balance.is_purchase], type="")),
    ]


def _tile(label: SumLabel, amount: Decimal, target: InvoiceFilter, selected: InvoiceFilter, locale: Locale) -> TileView:
    is_selected = replace(selected, sort=InvoiceSort.CREATED) == target
    link = InvoiceFilter(sort=selected.sort) if is_selected else replace(target, sort=selected.sort)
    currency = target.currency or ""
    return TileView(
        id=f"{label.text} {currency}".lower().replace(" ", "-"),
        label=label.text,
        amount=locales.format_amount(amount, currency, locale),
        css_class=label.css_class,
        query=to_query(link),
        is_selected=is_selected,
    )


def to_query(selected: InvoiceFilter, *, limit: int | None = None) -> str:
    """The query of a URL that lists the filter's invoices, '' for all; what is not filtered by is left out."""
    values = {
        "status": selected.status,
        "search": selected.search,
        "organisation": selected.organisation_id,
        "currency": NO_CURRENCY if selected.currency == "" else selected.currency,
        "type": selected.type,
        "sort": selected.sort.value if selected.sort is not InvoiceSort.CREATED else "",
        "limit": limit,
    }
    query = urlencode({name: value for name, value in values.items() if value is not None and value != ""})
    return f"?{query}" if query else ""
