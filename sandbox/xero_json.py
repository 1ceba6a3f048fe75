"""Invoices, contacts and organisations as Xero's Accounting API returns them."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import orjson

from sandbox.world import Contact, Invoice, Organisation, Payment
from sandbox.xero_fields import at_midnight

# Xero's `Version` of an organisation by its country (OpenAPI 16.1, schema Organisation).
VERSIONS = {"NZ": "NZ", "GB": "UK", "US": "US", "AU": "AU"}


class Detail(Enum):
    """How much of an invoice or contact a response contains.

    A summary (`summaryOnly`) omits the nested lists, a list without pages omits the line items, and a page omits
        nothing. Only a single invoice contains its contact in full.
    """

    SUMMARY = "summary"
    LIST = "list"
    PAGE = "page"
    SINGLE = "single"


def json_date(instant: datetime, *, zone: str = "+0000") -> str:
    """A time in Xero's JSON format: `/Date(1541176290160+0000)/`."""
    return f"/Date({round(instant.timestamp() * 1000)}{zone})/"


def exact_number(amount: Decimal) -> orjson.Fragment:
    """An amount as a JSON number with all its digits; a float would round large amounts."""
    return orjson.Fragment(f"{amount:f}")


def _date(day: date, *, zone: str = "+0000") -> str:
    midnight = at_midnight(day)
    assert midnight is not None
    return json_date(midnight, zone=zone)


def invoice_json(invoice: Invoice, organisation: Organisation, detail: Detail, *, decimals: int = 2) -> dict[str, Any]:
    """An invoice; `decimals` is the number of decimals in unit amounts (`unitdp`)."""
    contact = organisation.contacts.get(invoice.contact_id)
    net = exact_number(invoice.total)
    # Xero uses either separator in dates and sometimes omits the zone: the sandbox does both.
    separator = " " if invoice.id.int % 3 == 0 else "T"
    zone = "" if invoice.id.int % 5 == 0 else "+0000"
    contact_summary = {"ContactID": str(invoice.contact_id), "Name": contact.name if contact else ""}
    payload: dict[str, Any] = {
        "Type": invoice.type,
        "InvoiceID": str(invoice.id),
        "InvoiceNumber": invoice.number,
        "Reference": "",
        "AmountDue": exact_number(invoice.due),
        "AmountPaid": exact_number(invoice.paid),
        "AmountCredited": exact_number(invoice.credited),
        "CurrencyRate": 1.0,
        "IsDiscounted": False,
        "HasAttachments": False,
        "HasErrors": False,
        "Contact": contact_json(contact, detail) if contact and detail is Detail.SINGLE else contact_summary,
        "DateString": f"{invoice.issue_date.isoformat()}{separator}00:00:00",
        "Date": _date(invoice.issue_date, zone=zone),
        "Status": invoice.status,
        "LineAmountTypes": "Exclusive",
        "SubTotal": net,
        "TotalTax": 0.0,
        "Total": net,
        "UpdatedDateUTC": json_date(invoice.updated, zone=zone),
        "CurrencyCode": invoice.currency,
        "SentToContact": invoice.is_sent,
    }
    if invoice.due_date:
        payload["DueDateString"] = f"{invoice.due_date.isoformat()}{separator}00:00:00"
        payload["DueDate"] = _date(invoice.due_date)
    if invoice.paid_on:
        payload["FullyPaidOnDate"] = _date(invoice.paid_on)
    return payload if detail is Detail.SUMMARY else payload | _nested_lists(invoice, detail, decimals)


def _nested_lists(invoice: Invoice, detail: Detail, decimals: int) -> dict[str, Any]:
    """The lists that a summary omits."""
    line = {
        "LineItemID": str(UUID(int=invoice.id.int ^ 1)),
        "Description": "Services",
        "Quantity": 1.0,
        "UnitAmount": orjson.Fragment(f"{invoice.total:.{decimals}f}"),
        "LineAmount": exact_number(invoice.total),
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
        "Amount": exact_number(payment.amount),
        "CurrencyRate": 1.0,
        "HasAccount": False,
        "HasValidationErrors": False,
    }


def _credit_json(credit: Payment) -> dict[str, Any]:
    return {
        "CreditNoteID": str(credit.id),
        "CreditNoteNumber": f"CN-{credit.id.hex[:6].upper()}",
        "AppliedAmount": exact_number(credit.amount),
        "Date": _date(credit.date),
        "Total": exact_number(credit.amount),
        "HasErrors": False,
    }


def contact_json(contact: Contact, detail: Detail) -> dict[str, Any]:
    """A contact; Xero only returns `MergedToContactID` in pages and for single contacts."""
    payload: dict[str, Any] = {
        "ContactID": str(contact.id),
        "ContactStatus": contact.status,
        "Name": contact.name,
        "EmailAddress": contact.email,
        "IsSupplier": False,
        "IsCustomer": True,
        "UpdatedDateUTC": json_date(contact.updated),
        "HasAttachments": False,
        "HasValidationErrors": False,
    }
    if detail is not Detail.SUMMARY:
        payload |= {
            "ContactPersons": [
                {"FirstName": "", "LastName": "", "EmailAddress": email, "IncludeInEmails": False}
                for email in contact.person_emails
            ],
            "Addresses": [{"AddressType": "POBOX"}],
            "Phones": [{"PhoneType": "DEFAULT", "PhoneNumber": ""}],
            "ContactGroups": [],
        }
    if detail is not Detail.LIST and contact.merged_to:
        payload["MergedToContactID"] = str(contact.merged_to)
    return payload


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
