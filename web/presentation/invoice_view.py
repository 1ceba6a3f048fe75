"""The view of one invoice: its facts in words, and why no record has it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from babel import Locale

from services.invoice_report import InvoiceReport
from store.read_model.invoice_details import InvoiceDetails
from store.read_model.record_invoices import InvoiceListItem
from web.presentation import invoice_rows, labels, links, locales
from web.presentation.invoice_rows import InvoiceRowView

CREATED_SOURCES = {
    "webhook": "as Xero announced it",
    "history": "from the history in Xero",
    "issue_date": "from the issue date, because the time of creation is not known",
    "updated_date": "from the last change, because the time of creation is not known",
}
MAX_LISTED_EMAILS = 5


@dataclass(frozen=True)
class Fact:
    """A fact about the invoice: its label, the value in words, and a remark ('': none)."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class InvoiceView:
    """An invoice, formatted. `why_none` says why no record has it ('' if one has), `note` what the reader must know."""

    row: InvoiceRowView
    contact_url: str
    facts: tuple[Fact, ...]
    note: str
    why_none: str
    is_linkable: bool


def build_invoice_view(report: InvoiceReport, locale: Locale) -> InvoiceView:
    """The view of an invoice's report."""
    invoice = report.invoice
    row = invoice_rows.build_row(invoice.item, (), locale)
    return InvoiceView(
        row=row,
        contact_url=links.contact(invoice.contact_id, invoice.item.short_code) if invoice.contact_id else "",
        facts=tuple(fact for fact in _facts(invoice, row, locale) if fact.value),
        note=_note(invoice),
        why_none="" if report.record_count else _why_none(report),
        is_linkable=invoice.contact_id is not None and not invoice.is_deleted,
    )


def _facts(invoice: InvoiceDetails, row: InvoiceRowView, locale: Locale) -> list[Fact]:
    item = invoice.item
    is_credit = labels.is_credit(item.type)
    return [
        Fact("Type", labels.type_label(item.type).capitalize() or "Sales invoice"),
        Fact("Reference", item.reference or ""),
        Fact("Issuer", item.issuer),
        Fact("Organisation", (item.organisation or "") if item.organisation != item.issuer else ""),
        Fact("Issue date", _day(item.issue_date, locale)),
        Fact("Due date", row.due_full, labels.overdue(item.overdue_days)),
        Fact("Expected payment", _day(item.expected_payment_date, locale)),
        Fact("Paid on", _day(item.paid_on, locale)),
        Fact("Total", _amount(row.total, item)),
        Fact("Paid", _optional_amount(item.amount_paid, item, locale)),
        Fact("Credited", _optional_amount(item.amount_credited, item, locale)),
        Fact("Credit to use" if is_credit else "Balance due", _amount(row.balance, item)),
        Fact("Exchange rate", _rate(invoice.currency_rate)),
        Fact("Sent to the contact", "" if item.is_sent is None or is_credit else "Yes" if item.is_sent else "No"),
    ]


def _day(day: date | None, locale: Locale) -> str:
    return locales.format_full_date(day, locale) if day else ""


def _rate(rate: Decimal | None) -> str:
    """The exchange rate of an invoice in a foreign currency; '' for one in the organisation's own."""
    return f"{rate.normalize():f}" if rate is not None and rate != 1 else ""


def _optional_amount(value: Decimal | None, item: InvoiceListItem, locale: Locale) -> str:
    """An amount that is only worth mentioning if it is not zero."""
    return _amount(locales.format_money(value, item.currency, locale), item) if value else ""


def _amount(formatted: str, item: InvoiceListItem) -> str:
    return f"{item.currency or ''} {formatted}".strip() if formatted else "not known"


def _note(invoice: InvoiceDetails) -> str:
    if invoice.is_deleted:
        return "This invoice was deleted in Xero, so no record shows it."
    if not invoice.is_shown:
        hidden = f"the status {labels.status(invoice.item.status)}"
        if not invoice.is_type_shown:
            hidden = labels.type_plural(invoice.item.type).lower()
        return f"Your settings hide {hidden}, so nobody sees it in Copper."
    return ""


def _why_none(report: InvoiceReport) -> str:
    invoice = report.invoice
    if invoice.is_deleted:
        return "None, because it was deleted in Xero."
    if invoice.contact_id is None:
        return "None, because this invoice has no contact in Xero."
    name = invoice.contact_name or "the contact"
    emails = report.contact_emails
    if not emails:
        return f"None: {name} has no email address in Xero, and is not linked to a record."
    listed = ", ".join(emails[:MAX_LISTED_EMAILS])
    more = f" and {len(emails) - MAX_LISTED_EMAILS} more" if len(emails) > MAX_LISTED_EMAILS else ""
    return f"None: no lead or person in Copper has an email address of {name} ({listed}{more})."
