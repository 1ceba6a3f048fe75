"""What Xero sends (its OpenAPI 16.1), parsed once, at the edge."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field

from store.mirror import ContactRow, InvoiceRow
from worker.addresses import all_of

MILLISECONDS = re.compile(r"^/Date\((-?\d{1,15})(?:[+-]\d{4})?\)/$")


def instant(value: Any) -> Any:
    """`/Date(1541176290160+0000)/` as an aware time; the `+0000` may be missing, it is UTC either way."""
    if isinstance(value, str):
        if value.startswith("/") and (match := MILLISECONDS.match(value)):
            return datetime.fromtimestamp(int(match[1]) / 1000, UTC)
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return value


def calendar_date(value: Any) -> Any:
    """A calendar date, from `2018-10-20T00:00:00`, the same with a space, or `/Date(…)/`."""
    if value in (None, ""):
        return None
    if isinstance(value, str):
        if MILLISECONDS.match(value):
            return instant(value).date()
        return date.fromisoformat(value[:10])
    return value


def plain(value: Any) -> Any:
    """Text without the zero characters that PostgreSQL cannot hold."""
    return value.replace("\x00", "") if isinstance(value, str) else value


XeroInstant = Annotated[datetime, BeforeValidator(instant)]
XeroDate = Annotated[date | None, BeforeValidator(calendar_date)]
Text = Annotated[str, BeforeValidator(plain)]
# Ids and words of events: what is not printable (a NUL, which PostgreSQL keeps in no text) comes from no vendor.
PRINTABLE = r"^[ -~]*$"


class WireContactReference(BaseModel):
    """The contact inside an invoice: in a list it has no address."""

    contact_id: UUID | None = Field(alias="ContactID", default=None)


class WireInvoice(BaseModel):
    """An invoice as `GET /Invoices` lists it (OpenAPI 16.1, schema Invoice)."""

    invoice_id: UUID = Field(alias="InvoiceID")
    type: Text = Field(alias="Type")
    status: Text = Field(alias="Status", default="DRAFT")
    number: Text | None = Field(alias="InvoiceNumber", default=None)
    contact: WireContactReference = Field(alias="Contact", default_factory=WireContactReference)
    issue_date: XeroDate = Field(alias="DateString", default=None)
    issue_instant: XeroDate = Field(alias="Date", default=None)
    due_date: XeroDate = Field(alias="DueDateString", default=None)
    due_instant: XeroDate = Field(alias="DueDate", default=None)
    total: Decimal = Field(alias="Total", default=Decimal(0), allow_inf_nan=False)
    balance: Decimal = Field(alias="AmountDue", default=Decimal(0), allow_inf_nan=False)
    currency: Text | None = Field(alias="CurrencyCode", default=None)
    updated_at: XeroInstant = Field(alias="UpdatedDateUTC")

    def row(self) -> InvoiceRow:
        """The invoice as the mirror keeps it, created at its issue date until something better is known."""
        issued = self.issue_date or self.issue_instant
        return InvoiceRow(
            invoice_id=self.invoice_id,
            contact_id=self.contact.contact_id,
            type=self.type,
            status=self.status,
            number=self.number or None,
            issue_date=issued,
            due_date=self.due_date or self.due_instant,
            total=self.total,
            balance=self.balance,
            currency=self.currency or None,
            created_at=datetime.combine(issued, time(), UTC) if issued else self.updated_at,
            created_source="issue_date" if issued else "updated_date",
            updated_at=self.updated_at,
        )


class WireContactPerson(BaseModel):
    """One of at most five further people of a contact."""

    email: Text | None = Field(alias="EmailAddress", default=None)


class WireContact(BaseModel):
    """A contact as `GET /Contacts` lists it (OpenAPI 16.1, schema Contact)."""

    contact_id: UUID = Field(alias="ContactID")
    name: Text = Field(alias="Name", default="")
    status: Text = Field(alias="ContactStatus", default="ACTIVE")
    email: Text | None = Field(alias="EmailAddress", default=None)
    people: list[WireContactPerson] = Field(alias="ContactPersons", default_factory=list)
    merged_to: UUID | None = Field(alias="MergedToContactID", default=None)
    updated_at: XeroInstant = Field(alias="UpdatedDateUTC")

    def row(self) -> ContactRow:
        """The contact as the mirror keeps it."""
        return ContactRow(
            contact_id=self.contact_id,
            name=self.name,
            status=self.status,
            merged_to=self.merged_to,
            updated_at=self.updated_at,
            emails=all_of(self.email, *(person.email for person in self.people)),
        )


class WireHistory(BaseModel):
    """One line of `GET /Invoices/{id}/History` (OpenAPI 16.1, schema HistoryRecord)."""

    at: XeroInstant = Field(alias="DateUTC")


class WireOrganisation(BaseModel):
    """The organisation itself (OpenAPI 16.1, schema Organisation)."""

    name: Text = Field(alias="Name")
    short_code: Text | None = Field(alias="ShortCode", default=None)
    base_currency: Text | None = Field(alias="BaseCurrency", default=None)


class WireConnection(BaseModel):
    """One connection of an authorisation (`GET /connections`)."""

    id: UUID
    tenant_id: UUID = Field(alias="tenantId")
    tenant_type: str = Field(alias="tenantType")
    name: Text = Field(alias="tenantName", default="")
    auth_event_id: str | None = Field(alias="authEventId", default=None)


class WireEvent(BaseModel):
    """One event of a webhook; `resourceUrl` is never followed."""

    tenant_id: str = Field(alias="tenantId", max_length=100, pattern=PRINTABLE)
    resource_id: str = Field(alias="resourceId", max_length=100, pattern=PRINTABLE)
    category: str = Field(alias="eventCategory", max_length=50, pattern=PRINTABLE)
    type: str = Field(alias="eventType", max_length=50, pattern=PRINTABLE)
    occurred_at: XeroInstant = Field(alias="eventDateUtc")


class WireDelivery(BaseModel):
    """A webhook's body; `events` is empty or null in Xero's intent to receive."""

    events: list[WireEvent] | None = None
    first_sequence: int | None = Field(alias="firstEventSequence", default=None, ge=0, lt=2**63)
    last_sequence: int | None = Field(alias="lastEventSequence", default=None, ge=0, lt=2**63)
