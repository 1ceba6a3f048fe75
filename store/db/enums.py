"""Enums of stored values, and the id of the installation."""

from __future__ import annotations

from enum import StrEnum

INSTALLATION = 0
"""The account id of rows that belong to the installation and to no account."""


class RecordType(StrEnum):
    """The Copper record types that show invoices. Ids are unique within a type only."""

    LEAD = "lead"
    PERSON = "person"
    COMPANY = "company"
    OPPORTUNITY = "opportunity"

    @property
    def plural(self) -> str:
        """The plural in Copper's and our own paths."""
        return {"person": "people", "company": "companies", "opportunity": "opportunities"}.get(self.value, "leads")


class CreditResource(StrEnum):
    """What Xero lists credits as. An account chooses which of them it shows; the others are not fetched."""

    CREDIT_NOTES = "credit_notes"
    PREPAYMENTS = "prepayments"
    OVERPAYMENTS = "overpayments"


class InvoiceType(StrEnum):
    """Xero's type of an invoice or a credit. Credits are in the same tables as invoices.

    The last three stand for a credit whose type could not be read. In SQL, the schema's functions `credit_resource`,
    `is_purchase` and `is_shown` (by an account's settings) tell them apart.
    """

    INVOICE = "ACCREC"
    BILL = "ACCPAY"
    CREDIT_NOTE = "ACCRECCREDIT"
    BILL_CREDIT_NOTE = "ACCPAYCREDIT"
    PREPAYMENT = "RECEIVE-PREPAYMENT"
    BILL_PREPAYMENT = "SPEND-PREPAYMENT"
    OVERPAYMENT = "RECEIVE-OVERPAYMENT"
    BILL_OVERPAYMENT = "SPEND-OVERPAYMENT"
    UNKNOWN_CREDIT_NOTE = "CREDITNOTE"
    UNKNOWN_PREPAYMENT = "PREPAYMENT"
    UNKNOWN_OVERPAYMENT = "OVERPAYMENT"


class InvoiceStatus(StrEnum):
    """Xero's status of an invoice or a credit, as far as it is known. Deleted ones are never shown."""

    DRAFT = "DRAFT"
    SUBMITTED = "SUBMITTED"
    AUTHORISED = "AUTHORISED"
    PAID = "PAID"
    VOIDED = "VOIDED"


class InvoiceColumn(StrEnum):
    """A column of a record's invoices. The first six are those of Copper's own integration."""

    NUMBER = "number"
    STATUS = "status"
    ISSUER = "issuer"
    DUE_DATE = "due_date"
    TOTAL = "total"
    BALANCE = "balance"
    REFERENCE = "reference"
    ISSUE_DATE = "issue_date"
    AMOUNT_PAID = "amount_paid"
    AMOUNT_CREDITED = "amount_credited"
    PAID_ON = "paid_on"
    EXPECTED_PAYMENT = "expected_payment"
    SENT = "sent"
    CURRENCY = "currency"
    ORGANISATION = "organisation"
    OVERDUE_BY = "overdue_by"


CREDIT_TYPES = {
    CreditResource.CREDIT_NOTES: (
        InvoiceType.CREDIT_NOTE,
        InvoiceType.BILL_CREDIT_NOTE,
        InvoiceType.UNKNOWN_CREDIT_NOTE,
    ),
    CreditResource.PREPAYMENTS: (
        InvoiceType.PREPAYMENT,
        InvoiceType.BILL_PREPAYMENT,
        InvoiceType.UNKNOWN_PREPAYMENT,
    ),
    CreditResource.OVERPAYMENTS: (
        InvoiceType.OVERPAYMENT,
        InvoiceType.BILL_OVERPAYMENT,
        InvoiceType.UNKNOWN_OVERPAYMENT,
    ),
}


class SetupStep(StrEnum):
    """The step of the set-up that an account has to complete next, once its Xero organisations are selected."""

    SETTINGS = "settings"
    PANEL = "panel"
    DONE = "done"


class SignInMethod(StrEnum):
    """How somebody signed in: with a Copper API key, or with Copper's own sign-in (OAuth)."""

    KEY = "key"
    COPPER = "copper"


class Surface(StrEnum):
    """What a browser session opens: Patina's own pages, or the panel in Copper."""

    PAGES = "pages"
    PANEL = "panel"


class GrantStatus(StrEnum):
    """Whether an account's authorisation at a vendor (a Xero grant or a Copper key) works.

    A grant is pending until an admin has chosen organisations from it. Only an admin can renew one that needs it.
    """

    PENDING = "pending"
    ACTIVE = "active"
    NEEDS_REAUTH = "needs_reauth"


class OrganisationStatus(StrEnum):
    """Whether a Xero organisation is connected. The rows of a removed one are deleted in the background."""

    ACTIVE = "active"
    NEEDS_REAUTH = "needs_reauth"
    REMOVED = "removed"


class EventState(StrEnum):
    """The state of an event in the inbox. A failed event is in quarantine until an admin replays or dismisses it."""

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    IGNORED = "ignored"
    DISMISSED = "dismissed"


class RunState(StrEnum):
    """The state of a sync run. A run is paused while its connection needs a new authorisation."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"


class FieldMeasure(StrEnum):
    """What a custom field in Copper says of a record: an amount in one currency, a date, or a count."""

    OUTSTANDING = "outstanding"
    OVERDUE = "overdue"
    INVOICED = "invoiced"
    CREDIT = "credit"
    OVERDUE_SINCE = "overdue_since"
    LAST_INVOICE = "last_invoice"
    LAST_PAYMENT = "last_payment"
    OPEN_INVOICES = "open_invoices"

    @property
    def data_type(self) -> str:
        """The type of its definition in Copper."""
        if self in {FieldMeasure.OVERDUE_SINCE, FieldMeasure.LAST_INVOICE, FieldMeasure.LAST_PAYMENT}:
            return "Date"
        return "Float" if self is FieldMeasure.OPEN_INVOICES else "Currency"

    @property
    def is_amount(self) -> bool:
        """Whether there is one for each currency."""
        return self.data_type == "Currency"


class FieldWriting(StrEnum):
    """Whether an account's custom fields are written. `clearing` empties all of them, and then turns it off."""

    OFF = "off"
    ON = "on"
    CLEARING = "clearing"


class FieldState(StrEnum):
    """The state of a custom field's definition in Copper. Only an admin can resolve a missing or a retyped one."""

    NEW = "new"
    READY = "ready"
    MISSING = "missing"
    RETYPED = "retyped"
