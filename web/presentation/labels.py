"""Labels for codes: invoice statuses as Xero names them, audit log actions, and so on."""

from __future__ import annotations

from collections.abc import Collection

from runtime.numbers import count_noun
from store.db.enums import CREDIT_TYPES, CreditResource, FieldMeasure, InvoiceColumn, InvoiceType
from store.read_model.overdue_sql import AGEING_BUCKETS
from store.read_model.unmatched_contacts import UnmatchedReason
from worker.vendors.copper.fields import NAMES

STATUS_LABELS = {
    "DRAFT": "Draft",
    "SUBMITTED": "Awaiting approval",
    "AUTHORISED": "Awaiting payment",
    "PAID": "Paid",
    "VOIDED": "Voided",
    "OVERDUE": "Overdue",
    "CREDIT": "Credit to use",
    "SUPPLIERCREDIT": "Credit from suppliers",
    "USEDCREDIT": "Used credit",
    "UNPAID": "Outstanding",
}
CREDITS = {credit_type for types in CREDIT_TYPES.values() for credit_type in types}
CREDIT_STATUS_LABELS = {"AUTHORISED": "Credit to use", "PAID": "Used"}
CREDIT_LABELS = {
    CreditResource.CREDIT_NOTES: "Credit notes",
    CreditResource.PREPAYMENTS: "Prepayments",
    CreditResource.OVERPAYMENTS: "Overpayments",
}
COLUMN_LABELS = {
    InvoiceColumn.NUMBER: "Number",
    InvoiceColumn.STATUS: "Status",
    InvoiceColumn.ISSUER: "Issuer",
    InvoiceColumn.DUE_DATE: "Due date",
    InvoiceColumn.TOTAL: "Total due",
    InvoiceColumn.BALANCE: "Balance due",
    InvoiceColumn.REFERENCE: "Reference",
    InvoiceColumn.ISSUE_DATE: "Issue date",
    InvoiceColumn.AMOUNT_PAID: "Amount paid",
    InvoiceColumn.AMOUNT_CREDITED: "Amount credited",
    InvoiceColumn.PAID_ON: "Paid on",
    InvoiceColumn.EXPECTED_PAYMENT: "Expected payment",
    InvoiceColumn.SENT: "Sent",
    InvoiceColumn.CURRENCY: "Currency",
    InvoiceColumn.ORGANISATION: "Organisation",
    InvoiceColumn.OVERDUE_BY: "Overdue by",
}
MEASURE_LABELS = {**NAMES, FieldMeasure.INVOICED: f"{NAMES[FieldMeasure.INVOICED]} (in all)"}
DEFAULT_MEASURES = (FieldMeasure.OVERDUE, FieldMeasure.OUTSTANDING, FieldMeasure.OVERDUE_SINCE)
"""What is ticked before an admin has chosen."""
TYPE_LABELS: dict[str, str] = {
    InvoiceType.BILL: "bill",
    InvoiceType.CREDIT_NOTE: "credit note",
    InvoiceType.BILL_CREDIT_NOTE: "supplier credit note",
    InvoiceType.PREPAYMENT: "prepayment",
    InvoiceType.BILL_PREPAYMENT: "supplier prepayment",
    InvoiceType.OVERPAYMENT: "overpayment",
    InvoiceType.BILL_OVERPAYMENT: "supplier overpayment",
    InvoiceType.UNKNOWN_CREDIT_NOTE: "credit note",
    InvoiceType.UNKNOWN_PREPAYMENT: "prepayment",
    InvoiceType.UNKNOWN_OVERPAYMENT: "overpayment",
}
AGEING_LABELS = {
    bucket.column: (
        f"{bucket.first_day}\N{EN DASH}{bucket.last_day} days"
        if bucket.last_day
        else f"Over {bucket.first_day - 1} days"
    )
    for bucket in AGEING_BUCKETS
}
"""The labels of the ranges of days overdue, by their column."""


def status(code: str) -> str:
    """The label of a status as Xero shows it; an unknown status is shown as is."""
    return STATUS_LABELS.get(code, code.capitalize())


def row_status(invoice_type: str, code: str) -> str:
    """The label of the status of an invoice or a credit. A credit awaits no payment: it is there to be used."""
    return (CREDIT_STATUS_LABELS.get(code) if is_credit(invoice_type) else None) or status(code)


def type_label(invoice_type: str) -> str:
    """What a row is, in words; '' for a sales invoice and for an unknown type."""
    return TYPE_LABELS.get(invoice_type, "")


def type_plural(invoice_type: str) -> str:
    """What rows of a type are called as a group."""
    label = "invoice" if invoice_type == InvoiceType.INVOICE else type_label(invoice_type)
    return f"{label.capitalize()}s" if label else invoice_type


def row_name(invoice_type: str, number: str | None) -> str:
    """The number of an invoice or a credit. Most credits without a number have none at all, so their type is named."""
    return number or (type_label(invoice_type).capitalize() if is_credit(invoice_type) else "") or "(no number)"


def count_by_type(invoice_types: Collection[str]) -> str:
    """How many invoices and credits there are: "3 invoices, 1 credit"."""
    credits = sum(map(is_credit, invoice_types))
    invoices = len(invoice_types) - credits
    counts = [count_noun(invoices, "invoice")] if invoices or not credits else []
    return ", ".join([*counts, count_noun(credits, "credit")] if credits else counts)


def is_credit(invoice_type: str) -> bool:
    """Whether a row is a credit."""
    return invoice_type in CREDITS


def days(number: int) -> str:
    """A number of days in words; '' for none."""
    return f"{number:,} day{'s' if number > 1 else ''}" if number else ""


def overdue(number: int) -> str:
    """How long an invoice has been overdue; '' if it is not."""
    return f"{days(number)} overdue" if number else ""


def owner(user_id: int | None, name: str | None) -> str:
    """The owner of a record: the name of a Copper user, or the ID if the user is unknown; '' for nobody."""
    return name or (f"User {user_id}" if user_id else "")


UNMATCHED_REASON_LABELS = {
    UnmatchedReason.NO_ADDRESS: "No email address",
    UnmatchedReason.UNKNOWN_ADDRESS: "Address not in Copper",
}


def unmatched_reason(record_type: str, has_address: bool) -> str:
    """Why a record matches no contact, in a few words."""
    if record_type in {"company", "opportunity"}:
        return "none of its people matches a Xero contact"
    return "no Xero contact has this email address" if has_address else "no email address"


ACTION_LABELS = {
    "account.disconnected": "Account disconnected",
    "admin.added": "Admin added",
    "admin.removed": "Admin removed",
    "admin.signed_in": "Admin signed in",
    "sign_in.failed": "Sign-in failed",
    "contact.linked": "Contact linked",
    "contact.unlinked": "Contact unlinked",
    "copper.connected": "Copper connected",
    "events.dismissed": "Events dismissed",
    "events.replayed": "Events retried",
    "invitation.made": "Set-up code created",
    "invitation.revoked": "Set-up code revoked",
    "invoice.pinned": "Invoice pinned",
    "invoice.unpinned": "Invoice unpinned",
    "key.created": "API key created",
    "key.revoked": "API key revoked",
    "organisation.connected": "Organisation connected",
    "organisation.removed": "Organisation removed",
    "rows.exported": "Data exported",
    "session.confirmation_refused": "Confirmation refused",
    "session.confirmed": "Identity confirmed",
    "session.ended": "Session ended",
    "session.signed_out": "Signed out",
    "sessions.ended": "Sessions ended",
    "settings.changed": "Settings changed",
    "viewer.signed_in": "Viewer signed in",
}


def action(code: str) -> str:
    """The label of an audit log action; an unknown action is shown as is."""
    return ACTION_LABELS.get(code, code.replace(".", " ").replace("_", " ").capitalize())
