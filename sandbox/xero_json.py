"""Invoices, credits, contacts and organisations as Xero's Accounting API returns them."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from itertools import zip_longest
from typing import Any
from uuid import UUID

import orjson

from sandbox.world import Contact, Credit, CreditResource, Invoice, Organisation, Payment
from sandbox.xero_fields import at_midnight

PHONE_TYPES = ("DEFAULT", "DDI", "MOBILE", "FAX")
# Xero's `Version` of an organisation by its country (OpenAPI 16.1, schema Organisation).
VERSIONS = {"NZ": "NZ", "GB": "UK", "US": "US", "AU": "AU"}


class Detail(Enum):
    """How much of an invoice, credit or contact a response contains.

    A summary (`summaryOnly`) omits the nested lists, a list without pages omits the line items, and a page omits
    nothing. Only a single invoice or credit contains its contact in full.
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


def _date_style(document: Invoice | Credit) -> tuple[str, str]:
    """The separator in date texts and the zone of times: Xero uses either separator and sometimes omits the zone."""
    return " " if document.id.int % 3 == 0 else "T", "" if document.id.int % 5 == 0 else "+0000"


def _contact_of(document: Invoice | Credit, organisation: Organisation, detail: Detail) -> dict[str, Any]:
    contact = organisation.contacts.get(document.contact_id)
    if contact and detail is Detail.SINGLE:
        return contact_json(contact, detail)
    return {"ContactID": str(document.contact_id), "Name": contact.name if contact else ""}


def _line_items(document: Invoice | Credit, detail: Detail, decimals: int) -> list[dict[str, Any]]:
    """The line items, which a list without pages omits."""
    if detail is Detail.LIST:
        return []
    line = {
        "LineItemID": str(UUID(int=document.id.int ^ 1)),
        "Description": "Services",
        "Quantity": 1.0,
        "UnitAmount": orjson.Fragment(f"{document.total:.{decimals}f}"),
        "LineAmount": exact_number(document.total),
        "TaxAmount": 0.0,
        "AccountCode": "200",
        "Tracking": [],
    }
    return [line]


def invoice_json(invoice: Invoice, organisation: Organisation, detail: Detail, *, decimals: int = 2) -> dict[str, Any]:
    """An invoice; `decimals` is the number of decimals in unit amounts (`unitdp`)."""
    net = exact_number(invoice.total)
    separator, zone = _date_style(invoice)
    payload: dict[str, Any] = {
        "Type": invoice.type,
        "InvoiceID": str(invoice.id),
        "InvoiceNumber": invoice.number,
        "Reference": invoice.reference,
        "AmountDue": exact_number(invoice.due),
        "AmountPaid": exact_number(invoice.paid),
        "AmountCredited": exact_number(invoice.credited),
        "CurrencyRate": exact_number(organisation.currency_rate(invoice.currency)),
        "IsDiscounted": False,
        "HasAttachments": False,
        "HasErrors": False,
        "Contact": _contact_of(invoice, organisation, detail),
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
    if invoice.expected_payment:
        element = "ExpectedPaymentDate" if invoice.is_sale else "PlannedPaymentDate"
        payload[element] = _date(invoice.expected_payment)
    return payload if detail is Detail.SUMMARY else payload | _nested_lists(invoice, organisation, detail, decimals)


def _nested_lists(invoice: Invoice, organisation: Organisation, detail: Detail, decimals: int) -> dict[str, Any]:
    """The lists that a summary omits."""
    credits = organisation.credits_of(invoice)
    return {
        "LineItems": _line_items(invoice, detail, decimals),
        "Payments": [_payment_json(payment) for payment in invoice.payments],
        **{
            resource.value: [_applied_json(credit, invoice) for credit in credits if credit.resource is resource]
            for resource in CreditResource
        },
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


def _applied_json(credit: Credit, invoice: Invoice) -> dict[str, Any]:
    """A credit in the lists of an invoice to which it is applied."""
    payload: dict[str, Any] = {
        credit.resource.id_element: str(credit.id),
        "AppliedAmount": exact_number(credit.applied_to(invoice.id)),
        "Date": _date(credit.issue_date),
        "Total": exact_number(credit.total),
    }
    if credit.resource is CreditResource.CREDIT_NOTES:
        payload |= {"CreditNoteNumber": credit.number, "HasErrors": False}
    return payload


def credit_json(credit: Credit, organisation: Organisation, detail: Detail, *, decimals: int = 2) -> dict[str, Any]:
    """A credit note, prepayment or overpayment; `decimals` is the number of decimals in unit amounts (`unitdp`).

    The reference of a prepayment that was received is the number of its invoice (OpenAPI 16.1, schema Prepayment).
    """
    net = exact_number(credit.total)
    separator, zone = _date_style(credit)
    payload: dict[str, Any] = {
        credit.resource.id_element: str(credit.id),
        "Type": credit.type,
        "Status": credit.status,
        "Contact": _contact_of(credit, organisation, detail),
        "DateString": f"{credit.issue_date.isoformat()}{separator}00:00:00",
        "Date": _date(credit.issue_date, zone=zone),
        "LineAmountTypes": "NoTax" if credit.resource is CreditResource.OVERPAYMENTS else "Exclusive",
        "LineItems": _line_items(credit, detail, decimals),
        "SubTotal": net,
        "TotalTax": 0.0,
        "Total": net,
        "RemainingCredit": exact_number(credit.remaining),
        "Allocations": _allocations(credit, organisation),
        "Payments": [],
        "CurrencyCode": credit.currency,
        "CurrencyRate": exact_number(organisation.currency_rate(credit.currency)),
        "Reference": credit.reference,
        "UpdatedDateUTC": json_date(credit.updated, zone=zone),
        "HasAttachments": False,
    }
    if credit.resource is CreditResource.CREDIT_NOTES:
        payload["CreditNoteNumber"] = credit.number
    elif credit.type == "RECEIVE-PREPAYMENT":
        payload["InvoiceNumber"] = credit.reference
    return payload


def _allocations(credit: Credit, organisation: Organisation) -> list[dict[str, Any]]:
    return [
        {
            "AllocationID": str(allocation.id),
            "Amount": exact_number(allocation.amount),
            "Date": _date(allocation.date),
            "Invoice": {
                "InvoiceID": str(allocation.invoice_id),
                "InvoiceNumber": organisation.invoices[allocation.invoice_id].number,
            },
        }
        for allocation in credit.allocations
    ]


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
            "Phones": [
                {"PhoneType": phone_type, "PhoneNumber": number, "PhoneAreaCode": "", "PhoneCountryCode": ""}
                for phone_type, number in zip_longest(PHONE_TYPES, contact.phones[: len(PHONE_TYPES)], fillvalue="")
            ],
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
