"""The rows and columns of a record's invoices, formatted for a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID

from babel import Locale

from store.db.enums import InvoiceColumn
from store.read_model.record_invoices import InvoiceListItem
from web.presentation import labels, links, locales

CREDIT = "CREDIT"
# Wider than this (in em), the columns do not fit beside each other on any page, and every row is a card.
MAX_TABLE_WIDTH = 63
MATCH_LINK_WIDTH = 10
COLUMN_WIDTHS = {
    InvoiceColumn.NUMBER: 10,
    InvoiceColumn.STATUS: 11,
    InvoiceColumn.ISSUER: 7,
    InvoiceColumn.DUE_DATE: 7,
    InvoiceColumn.TOTAL: 9,
    InvoiceColumn.BALANCE: 9,
    InvoiceColumn.REFERENCE: 8,
    InvoiceColumn.AMOUNT_PAID: 9,
    InvoiceColumn.AMOUNT_CREDITED: 9,
    InvoiceColumn.SENT: 5,
    InvoiceColumn.CURRENCY: 6,
    InvoiceColumn.ORGANISATION: 9,
}
OTHER_WIDTH = 7
AMOUNTS = {InvoiceColumn.TOTAL, InvoiceColumn.BALANCE, InvoiceColumn.AMOUNT_PAID, InvoiceColumn.AMOUNT_CREDITED}


@dataclass(frozen=True)
class ColumnView:
    """A column: its name in the account's settings, its heading, and whether it contains amounts."""

    name: str
    label: str
    is_amount: bool


@dataclass(frozen=True)
class InvoiceRowView:
    """One invoice or credit, formatted. A credit's amounts are negative.

    `css_class` colours the row, `status_full` is the status in full words, `type` is '' for a sales invoice. `values`
    are the texts of the columns that have no field of their own, by column.
    """

    id: UUID
    number: str
    url: str
    status: str
    status_full: str
    css_class: str
    type: str
    issuer: str
    issued: str
    due: str
    due_full: str
    total: str
    balance: str
    is_settled: bool
    currency: str
    values: Mapping[str, str]


def column_views(columns: Sequence[InvoiceColumn]) -> tuple[ColumnView, ...]:
    """The columns with their headings, in order."""
    return tuple(ColumnView(column.value, labels.COLUMN_LABELS[column], column in AMOUNTS) for column in columns)


def fit_in_table(columns: Sequence[InvoiceColumn]) -> bool:
    """Whether the columns fit beside each other where there is room for a table."""
    return MATCH_LINK_WIDTH + sum(COLUMN_WIDTHS.get(column, OTHER_WIDTH) for column in columns) <= MAX_TABLE_WIDTH


def build_row(invoice: InvoiceListItem, columns: Sequence[InvoiceColumn], locale: Locale) -> InvoiceRowView:
    """An invoice as a row with these columns."""
    overdue_days, status = invoice.overdue_days, labels.row_status(invoice.type, invoice.status)
    is_credit, is_draft = labels.is_credit(invoice.type), invoice.status == "DRAFT"
    name = labels.row_name(invoice.type, invoice.number) if invoice.number or not is_draft else "Draft (no number)"
    type_label, sign = labels.type_label(invoice.type), -1 if is_credit else 1
    texts = _column_texts(invoice, sign, locale)
    return InvoiceRowView(
        id=invoice.invoice_id,
        number=name,
        url=links.invoice(invoice.type, invoice.invoice_id, invoice.short_code),
        status=f"Overdue {locales.format_number(overdue_days, locale)} d" if overdue_days else status,
        status_full=labels.overdue(overdue_days).capitalize() or status,
        css_class="overdue" if overdue_days else _css_class(invoice.status, is_credit=is_credit),
        type=type_label if type_label.capitalize() != name else "",
        issuer=invoice.issuer,
        issued=_short_date(invoice.issue_date, invoice.today, locale),
        due=_short_date(invoice.due_date, invoice.today, locale),
        due_full=locales.format_full_date(invoice.due_date, locale) if invoice.due_date else "",
        total=_optional_amount(invoice.total, sign, invoice.currency, locale),
        balance=_optional_amount(invoice.balance, sign, invoice.currency, locale),
        is_settled=invoice.balance == 0,
        currency=invoice.currency or "",
        values={column.value: texts[column] for column in columns if column in texts},
    )


def _column_texts(invoice: InvoiceListItem, sign: int, locale: Locale) -> dict[InvoiceColumn, str]:
    """The texts of the columns that have no field of their own."""
    is_sent = {True: "Sent", False: "Not sent", None: ""}
    return {
        InvoiceColumn.REFERENCE: invoice.reference or "",
        InvoiceColumn.ISSUE_DATE: _short_date(invoice.issue_date, invoice.today, locale),
        InvoiceColumn.AMOUNT_PAID: _nonzero_amount(invoice.amount_paid, sign, invoice.currency, locale),
        InvoiceColumn.AMOUNT_CREDITED: _nonzero_amount(invoice.amount_credited, sign, invoice.currency, locale),
        InvoiceColumn.PAID_ON: _short_date(invoice.paid_on, invoice.today, locale),
        InvoiceColumn.EXPECTED_PAYMENT: _short_date(invoice.expected_payment_date, invoice.today, locale),
        InvoiceColumn.SENT: is_sent[invoice.is_sent],
        InvoiceColumn.CURRENCY: invoice.currency or "",
        InvoiceColumn.ORGANISATION: invoice.organisation or "",
        InvoiceColumn.OVERDUE_BY: labels.days(invoice.overdue_days),
    }


def _short_date(day: date | None, today: date, locale: Locale) -> str:
    return locales.format_short_date(day, today, locale) if day else ""


def _css_class(status: str, *, is_credit: bool) -> str:
    return CREDIT.lower() if is_credit and status == "AUTHORISED" else status.lower()


def _optional_amount(value: Decimal | None, sign: int, currency: str | None, locale: Locale) -> str:
    return "" if value is None else locales.format_money(sign * value if value else value, currency, locale)


def _nonzero_amount(value: Decimal | None, sign: int, currency: str | None, locale: Locale) -> str:
    return _optional_amount(value or None, sign, currency, locale)
