"""The elements of invoices, credits and contacts that can be used in Xero's `where` and `order`, with their types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from sandbox.query import BadQueryError
from sandbox.world import Contact, Credit, CreditResource, Invoice, Organisation

Value = str | Decimal | bool | UUID | datetime | None


class FieldType(Enum):
    """The type of a field; only values of the same type can be compared."""

    TEXT = "a text"
    NUMBER = "a number"
    BOOLEAN = "true or false"
    GUID = "a GUID"
    DATE = "a date"


@dataclass(frozen=True)
class Field:
    """An element: its name in Xero, its type, and a function that returns its value."""

    name: str
    type: FieldType
    value: Callable[[Any, Organisation], Value]

    @property
    def is_unique(self) -> bool:
        """Whether its values are unique among the rows, so that sorting by it needs no second key."""
        return self.name in {"InvoiceID", "ContactID", *(resource.id_element for resource in CreditResource)}


def at_midnight(day: date | None) -> datetime | None:
    """A calendar date as midnight UTC, which is how Xero represents dates."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC) if day else None


def _contact_name(document: Invoice | Credit, organisation: Organisation) -> str:
    contact = organisation.contacts.get(document.contact_id)
    return contact.name if contact else ""


def _fields(*fields: Field) -> dict[str, Field]:
    return {field.name.lower(): field for field in fields}


INVOICE_FIELDS = _fields(
    Field("InvoiceID", FieldType.GUID, lambda invoice, _: invoice.id),
    Field("Type", FieldType.TEXT, lambda invoice, _: invoice.type),
    Field("InvoiceNumber", FieldType.TEXT, lambda invoice, _: invoice.number),
    Field("Reference", FieldType.TEXT, lambda invoice, _: invoice.reference),
    Field("Status", FieldType.TEXT, lambda invoice, _: invoice.status),
    Field("CurrencyCode", FieldType.TEXT, lambda invoice, _: invoice.currency),
    Field("LineAmountTypes", FieldType.TEXT, lambda _, __: "Exclusive"),
    Field("Date", FieldType.DATE, lambda invoice, _: at_midnight(invoice.issue_date)),
    Field("DueDate", FieldType.DATE, lambda invoice, _: at_midnight(invoice.due_date)),
    Field("FullyPaidOnDate", FieldType.DATE, lambda invoice, _: at_midnight(invoice.paid_on)),
    Field("UpdatedDateUTC", FieldType.DATE, lambda invoice, _: invoice.updated),
    Field("SubTotal", FieldType.NUMBER, lambda invoice, _: invoice.total),
    Field("TotalTax", FieldType.NUMBER, lambda _, __: Decimal(0)),
    Field("Total", FieldType.NUMBER, lambda invoice, _: invoice.total),
    Field("AmountDue", FieldType.NUMBER, lambda invoice, _: invoice.due),
    Field("AmountPaid", FieldType.NUMBER, lambda invoice, _: invoice.paid),
    Field("AmountCredited", FieldType.NUMBER, lambda invoice, _: invoice.credited),
    Field(
        "CurrencyRate",
        FieldType.NUMBER,
        lambda invoice, organisation: organisation.currency_rate(invoice.currency),
    ),
    Field("SentToContact", FieldType.BOOLEAN, lambda invoice, _: invoice.is_sent),
    Field("HasAttachments", FieldType.BOOLEAN, lambda _, __: False),
    Field("HasErrors", FieldType.BOOLEAN, lambda _, __: False),
    Field("IsDiscounted", FieldType.BOOLEAN, lambda _, __: False),
    Field("Contact.ContactID", FieldType.GUID, lambda invoice, _: invoice.contact_id),
    Field("Contact.Name", FieldType.TEXT, _contact_name),
)
CONTACT_FIELDS = _fields(
    Field("ContactID", FieldType.GUID, lambda contact, _: contact.id),
    Field("Name", FieldType.TEXT, lambda contact, _: contact.name),
    Field("EmailAddress", FieldType.TEXT, lambda contact, _: contact.email),
    Field("ContactStatus", FieldType.TEXT, lambda contact, _: contact.status),
    Field("UpdatedDateUTC", FieldType.DATE, lambda contact, _: contact.updated),
    Field("IsSupplier", FieldType.BOOLEAN, lambda _, __: False),
    Field("IsCustomer", FieldType.BOOLEAN, lambda _, __: True),
    Field("HasAttachments", FieldType.BOOLEAN, lambda _, __: False),
)


def credit_fields(resource: CreditResource) -> dict[str, Field]:
    """The elements of the credits of a resource; only credit notes have a number."""
    number = Field("CreditNoteNumber", FieldType.TEXT, lambda credit, _: credit.number)
    return _fields(
        Field(resource.id_element, FieldType.GUID, lambda credit, _: credit.id),
        *([number] if resource is CreditResource.CREDIT_NOTES else []),
        Field("Type", FieldType.TEXT, lambda credit, _: credit.type),
        Field("Reference", FieldType.TEXT, lambda credit, _: credit.reference),
        Field("Status", FieldType.TEXT, lambda credit, _: credit.status),
        Field("CurrencyCode", FieldType.TEXT, lambda credit, _: credit.currency),
        Field("Date", FieldType.DATE, lambda credit, _: at_midnight(credit.issue_date)),
        Field("UpdatedDateUTC", FieldType.DATE, lambda credit, _: credit.updated),
        Field("Total", FieldType.NUMBER, lambda credit, _: credit.total),
        Field("RemainingCredit", FieldType.NUMBER, lambda credit, _: credit.remaining),
        Field("Contact.ContactID", FieldType.GUID, lambda credit, _: credit.contact_id),
        Field("Contact.Name", FieldType.TEXT, _contact_name),
    )


CREDIT_FIELDS = {resource: credit_fields(resource) for resource in CreditResource}


def field_of(name: str, fields: Mapping[str, Field], error_type: str) -> Field:
    """The field with this name, in any case; raises `BadQueryError` if the sandbox does not have it."""
    field = fields.get(name.lower())
    if field is None:
        known = ", ".join(field.name for field in fields.values())
        raise BadQueryError(f"No property or field '{name}' exists in the sandbox; it supports {known}", error_type)
    return field


def order_by(text: str, fields: Mapping[str, Field]) -> list[tuple[Field, bool]]:
    """Parse an `order` (`Date DESC, InvoiceNumber`): the fields, and whether each is descending."""
    keys = []
    for part in text.split(","):
        words = part.split()
        if not 1 <= len(words) <= 2 or [word.upper() for word in words[1:]] not in ([], ["ASC"], ["DESC"]):
            raise BadQueryError(f"order is invalid: {part.strip() or 'empty'}", "QueryParseException")
        keys.append((field_of(words[0], fields, "QueryParseException"), words[1:] != [] and words[1].upper() == "DESC"))
    return keys


def sort_rows(
    rows: Iterable[Invoice] | Iterable[Contact] | Iterable[Credit],
    keys: list[tuple[Field, bool]],
    organisation: Organisation,
) -> list[Any]:
    """Rows sorted by several fields and then by id, empty values first."""
    sorted_rows = list(rows) if keys[0][0].is_unique else sorted(rows, key=lambda row: row.id)
    for field, descending in reversed(keys):
        sorted_rows.sort(key=lambda row: _sort_key(field.value(row, organisation)), reverse=descending)
    return sorted_rows


def _sort_key(value: Value) -> tuple[bool, Any]:
    return (value is not None, value if value is not None else 0)
