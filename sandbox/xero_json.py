"""Invoices, contacts and organisations as Xero's Accounting API writes them."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import orjson

from sandbox.world import Contact, Invoice, Organisation, Payment
from sandbox.xero_fields import at_midnight

# How Xero's `Version` of an organisation goes by its country (OpenAPI 16.1, schema Organisation).
VERSIONS = {"NZ": "NZ", "GB": "UK", "US": "US", "AU": "AU"}


class Detail(Enum):
    """How much of an invoice or contact an answer holds.

    A summary (`summaryOnly`) leaves out all that is heavy, a list without pages the line items, a page nothing;
    only one asked for by its id has its contact in full.
    """

    SUMMARY = "summary"
    LIST = "list"
    PAGE = "page"
    SINGLE = "single"


def milliseconds(moment: datetime, *, zone: str = "+0000") -> str:
    """`/Date(1541176290160+0000)/`."""
    return f"/Date({round(moment.timestamp() * 1000)}{zone})/"


def exact(amount: Decimal) -> orjson.Fragment:
    """An amount as a JSON number with all its digits; a float would round large ones."""
    return orjson.Fragment(f"{amount:f}")


def _date(day: date, *, zone: str = "+0000") -> str:
    midnight = at_midnight(day)
    assert midnight is not None
    return milliseconds(midnight, zone=zone)


def invoice_json(invoice: Invoice, organisation: Organisation, detail: Detail, *, decimals: int = 2) -> dict[str, Any]:
    """An invoice; `decimals` are those of the unit amounts (`unitdp`)."""
    contact = organisation.contacts.get(invoice.contact_id)
    net = exact(invoice.total)
    # Xero has been seen to write dates in either form and to leave the zone out: so does the sandbox.
    separator = " " if invoice.id.int % 3 == 0 else "T"
    zone = "" if invoice.id.int % 5 == 0 else "+0000"
    brief = {"ContactID": str(invoice.contact_id), "Name": contact.name if contact else ""}
    shown: dict[str, Any] = {
        "Type": invoice.type,
        "InvoiceID": str(invoice.id),
        "InvoiceNumber": invoice.number,
        "Reference": "",
        "AmountDue": exact(invoice.due),
        "AmountPaid": exact(invoice.paid),
        "AmountCredited": exact(invoice.credited),
        "CurrencyRate": 1.0,
        "IsDiscounted": False,
        "HasAttachments": False,
        "HasErrors": False,
        "Contact": contact_json(contact, detail) if contact and detail is Detail.SINGLE else brief,
        "DateString": f"{invoice.issue_date.isoformat()}{separator}00:00:00",
        "Date": _date(invoice.issue_date, zone=zone),
        "Status": invoice.status,
        "LineAmountTypes": "Exclusive",
        "SubTotal": net,
        "TotalTax": 0.0,
        "Total": net,
        "UpdatedDateUTC": milliseconds(invoice.updated, zone=zone),
        "CurrencyCode": invoice.currency,
        "SentToContact": invoice.is_sent,
    }
    if invoice.due_date:
        shown["DueDateString"] = f"{invoice.due_date.isoformat()}{separator}00:00:00"
        shown["DueDate"] = _date(invoice.due_date)
    if invoice.paid_on:
        shown["FullyPaidOnDate"] = _date(invoice.paid_on)
    return shown if detail is Detail.SUMMARY else shown | _heavy(invoice, detail, decimals)


def _heavy(invoice: Invoice, detail: Detail, decimals: int) -> dict[str, Any]:
    """What a summary leaves out."""
    line = {
        "LineItemID": str(UUID(int=invoice.id.int ^ 1)),
        "Description": "Services",
        "Quantity": 1.0,
        "UnitAmount": orjson.Fragment(f"{invoice.total:.{decimals}f}"),
        "LineAmount": exact(invoice.total),
        "TaxAmount": 0.0,
        "AccountCode": "200",
        "Tracking": [],
    }
    return {
        "LineItems": [] if detail is Detail.LIST else [line],
        "Payments": [_payment_json(payment) for payment in invoice.payments],
        "CreditNotes": [_credit_json(credit) for credit in invoice.credits],
        "Prepayments": [],
        "Overpayments": [],
    }


def _payment_json(payment: Payment) -> dict[str, Any]:
    return {
        "PaymentID": str(payment.id),
        "Date": _date(payment.date),
        "Amount": exact(payment.amount),
        "CurrencyRate": 1.0,
        "HasAccount": False,
        "HasValidationErrors": False,
    }


def _credit_json(credit: Payment) -> dict[str, Any]:
    return {
        "CreditNoteID": str(credit.id),
        "CreditNoteNumber": f"CN-{credit.id.hex[:6].upper()}",
        "AppliedAmount": exact(credit.amount),
        "Date": _date(credit.date),
        "Total": exact(credit.amount),
        "HasErrors": False,
    }


def contact_json(contact: Contact, detail: Detail) -> dict[str, Any]:
    """A contact; `MergedToContactID` only where Xero shows it: in pages and for one asked for by its id."""
    shown: dict[str, Any] = {
        "ContactID": str(contact.id),
        "ContactStatus": contact.status,
        "Name": contact.name,
        "EmailAddress": contact.email,
        "IsSupplier": False,
        "IsCustomer": True,
        "UpdatedDateUTC": milliseconds(contact.updated),
        "HasAttachments": False,
        "HasValidationErrors": False,
    }
    if detail is not Detail.SUMMARY:
        shown |= {
            "ContactPersons": [
                {"FirstName": "", "LastName": "", "EmailAddress": email, "IncludeInEmails": False}
                for email in contact.people
            ],
            "Addresses": [{"AddressType": "POBOX"}],
            "Phones": [{"PhoneType": "DEFAULT", "PhoneNumber": ""}],
            "ContactGroups": [],
        }
    if detail is not Detail.LIST and contact.merged_to:
        shown["MergedToContactID"] = str(contact.merged_to)
    return shown


def organisation_json(organisation: Organisation) -> dict[str, Any]:
    """An organisation."""
    return {
        "OrganisationID": str(organisation.tenant_id),
        "Name": organisation.name,
        "LegalName": organisation.name,
        "PaysTax": True,
        "Version": VERSIONS.get(organisation.country, "GLOBAL"),
        "OrganisationType": "COMPANY",
        "BaseCurrency": organisation.currency,
        "CountryCode": organisation.country,
        "IsDemoCompany": False,
        "OrganisationStatus": "ACTIVE",
        "FinancialYearEndDay": 31,
        "FinancialYearEndMonth": 3,
        "DefaultSalesTax": "Tax Exclusive",
        "DefaultPurchasesTax": "Tax Exclusive",
        "Timezone": organisation.timezone,
        "ShortCode": organisation.short_code,
        "Class": "PREMIUM",
        "Edition": "BUSINESS",
    }
