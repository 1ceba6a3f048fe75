"""The view of the account's invoices: rows, counts by status, sums, and the choices of the filters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from babel import Locale

from store.read_model.account_invoices import AccountInvoice, InvoiceGroup, count_by_status
from web.presentation import invoice_rows, labels, locales
from web.presentation.invoice_filters import INVOICE_STATUSES, OVERDUE, STATUS_ORDER, SUM_LABELS
from web.presentation.invoice_rows import InvoiceRowView

VOIDED = "VOIDED"


@dataclass(frozen=True)
class ListRowView:
    """One row of the list: an invoice, its contact, its organisation and its issue date in full, formatted."""

    invoice: InvoiceRowView
    contact: str
    organisation: str
    issued_full: str


@dataclass(frozen=True)
class SumView:
    """A sum of what is filtered in one currency, formatted. Sales and bills are never added up."""

    label: str
    amount: str
    css_class: str


@dataclass(frozen=True)
class StatusOption:
    """A status to filter by, and how many invoices it would list; '' is all of them."""

    code: str
    label: str
    count: str


def row(invoice: AccountInvoice, locale: Locale) -> ListRowView:
    """An invoice of the account as a row."""
    issued = invoice.item.issue_date
    return ListRowView(
        invoice=invoice_rows.build_row(invoice.item, (), locale),
        contact=invoice.contact_name,
        organisation=invoice.item.organisation or "",
        issued_full=locales.format_full_date(issued, locale) if issued else "",
    )


def status_options(groups: Sequence[InvoiceGroup], locale: Locale) -> list[StatusOption]:
    """All, then each status in the order of an invoice's life, and those of credits, if the account has any.

    A status that Xero adds comes last.
    """
    counts, statuses = count_by_status(groups), {group.status for group in groups}
    codes = [code for code in STATUS_ORDER if code in INVOICE_STATUSES or code in statuses]
    codes += sorted(statuses - set(STATUS_ORDER))
    options = [StatusOption("", "All", locales.format_number(sum(counts.values()), locale))]
    return options + [
        StatusOption(code, labels.status(code), locales.format_number(counts.get(code, 0), locale)) for code in codes
    ]


def sums(groups: Sequence[InvoiceGroup], status: str, locale: Locale) -> list[SumView]:
    """The sums of the listed invoices: sales first, then bills, by currency. Voided ones count only by themselves."""
    amounts: dict[tuple[bool, str], defaultdict[str, Decimal]] = {}
    for group in groups:
        if group.invoices and (group.status == status or (not status and group.status != VOIDED)):
            sums_of_currency = amounts.setdefault((group.is_purchase, group.currency), defaultdict(Decimal))
            for name, amount in _amounts(group).items():
                sums_of_currency[name] += amount
    return [
        SumView(label.text, locales.format_amount(sums_of_currency[name], currency, locale), label.css_class)
        for (is_purchase, currency), sums_of_currency in sorted(amounts.items())
        for name, label in SUM_LABELS[is_purchase].items()
        if sums_of_currency[name]
    ]


def _amounts(group: InvoiceGroup) -> dict[str, Decimal]:
    if labels.is_credit(group.type):
        return {"credit": group.balance}
    is_overdue = group.status == OVERDUE
    return {"total": group.total, "outstanding": group.balance, "overdue": group.balance if is_overdue else Decimal(0)}


def currencies(groups: Sequence[InvoiceGroup]) -> list[str]:
    """The account's currencies, by code; '' if some invoices have none."""
    return sorted({group.currency for group in groups})


def types(groups: Sequence[InvoiceGroup]) -> list[tuple[str, str]]:
    """The types that the account has, with their names: sales invoices first."""
    codes = sorted({group.type for group in groups}, key=lambda code: (code != "ACCREC", labels.type_plural(code)))
    return [(code, labels.type_plural(code)) for code in codes]
