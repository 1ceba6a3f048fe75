"""`patina explain invoice`: which records have an invoice, and why."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from runtime.numbers import count_noun
from services.invoice_report import InvoiceReport, build_invoice_report
from store.db.database import Role, account_transaction
from store.read_model import account_invoices
from store.read_model.match_reports import Reason
from web.presentation import labels
from worker.vendors.addresses import escape_invisible

MAX_INVOICES = 10


def find_reports(account_id: int, text: str) -> list[InvoiceReport]:
    """The reports of the invoice with an ID, or of those with exactly a number (at most `MAX_INVOICES`)."""
    reports = [build_invoice_report(account_id, invoice_id) for invoice_id in _find_ids(account_id, text.strip())]
    return [report for report in reports if report is not None]


def _find_ids(account_id: int, text: str) -> list[UUID]:
    try:
        return [UUID(text)]
    except ValueError:
        with account_transaction(account_id, Role.READS) as session:
            rows = account_invoices.search(session, account_id, text, MAX_INVOICES) if text else []
        return [row.item.invoice_id for row in rows if (row.item.number or "").lower() == text.lower()]


def format_invoice_report(report: InvoiceReport) -> Iterator[str]:
    """The report in lines; the last is a summary."""
    invoice = report.invoice
    name = labels.row_name(invoice.item.type, invoice.item.number)
    status = "deleted in Xero" if invoice.is_deleted else labels.row_status(invoice.item.type, invoice.item.status)
    yield f"{name} ({status}), {escape_invisible(invoice.contact_name) or 'unnamed contact'}: {invoice.item.invoice_id}"
    for email in report.contact_emails:
        yield f"  {email}"
    for explained in report.records:
        record = explained.record
        hidden = "" if record.is_shown else " (hidden by the settings)"
        yield f"  {record.record_type.value} {record.record_id} {escape_invisible(record.name)}".rstrip() + hidden
        if explained.pin:
            yield f"    pinned by {explained.pin.pinned_by or 'an admin'} on {explained.pin.pinned_at:%Y-%m-%d}"
        for reason in explained.reasons:
            yield f"    matched by {_format_reason(reason)}"
    yield f"explain ok: on {count_noun(report.record_count, 'record')}"


def _format_reason(reason: Reason) -> str:
    owner = f"{reason.record_type} {reason.record_id}"
    if reason.email_domain:
        return f"the email domain {reason.email_domain} ({owner})"
    return f"{reason.email or f'a link that {reason.linked_by} created'} ({owner})"
