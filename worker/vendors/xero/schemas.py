"""Schemas of Xero's API (OpenAPI 16.1). Responses are parsed once, at the edge."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from store.mirror.mirror import ContactRow, InvoiceRow
from worker.vendors.addresses import extract_addresses
from worker.vendors.parsing import (
    Amount,
    CalendarDate,
    Currency,
    DocumentNumber,
    Instant,
    Integer,
    LongText,
    Name,
    RelatedUuid,
    RowUuid,
    ShortText,
    VersionedRow,
    as_list,
    text_parser,
)

# Created dates are shown in the viewer's time zone, so they must not be at the ends of the calendar.
MIN_CREATED, MAX_CREATED = date(1900, 1, 1), date(2999, 12, 31)
TimeZoneName = Annotated[str, BeforeValidator(text_parser(100)), AfterValidator(str.strip)]
CLOSED_STATUSES = {"PAID", "VOIDED", "DELETED"}


class XeroContactReference(BaseModel):
    """The contact of an invoice. In a list it has no e-mail address."""

    contact_id: RelatedUuid = Field(alias="ContactID", default=None)


class XeroInvoice(VersionedRow):
    """An invoice as `GET /Invoices` lists it (OpenAPI 16.1, schema Invoice)."""

    invoice_id: RowUuid = Field(alias="InvoiceID")
    type: ShortText = Field(alias="Type", default="")
    status: ShortText = Field(alias="Status", default="")
    number: DocumentNumber = Field(alias="InvoiceNumber", default="")
    contact: XeroContactReference | None = Field(alias="Contact", default=None)
    issue_date: CalendarDate = Field(alias="DateString", default=None)
    issue_instant: CalendarDate = Field(alias="Date", default=None)
    due_date: CalendarDate = Field(alias="DueDateString", default=None)
    due_instant: CalendarDate = Field(alias="DueDate", default=None)
    total: Amount = Field(alias="Total", default=None)
    balance: Amount = Field(alias="AmountDue", default=None)
    paid: Amount = Field(alias="AmountPaid", default=None)
    credited: Amount = Field(alias="AmountCredited", default=None)
    currency: Currency = Field(alias="CurrencyCode", default="")
    updated_at: Instant = Field(alias="UpdatedDateUTC", default=None)

    @property
    def contact_id(self) -> UUID | None:
        """The id of the invoice's contact, if one was given."""
        return self.contact.contact_id if self.contact else None

    def to_row(self) -> InvoiceRow:
        """The invoice as the mirror stores it. Its created date is the issue date until a better one is known."""
        issued = self.issue_date or self.issue_instant
        has_valid_date = issued is not None and MIN_CREATED <= issued <= MAX_CREATED
        total, balance = self._amounts()
        return InvoiceRow(
            invoice_id=self.invoice_id,
            contact_id=self.contact_id,
            type=self.type,
            status=self.status,
            number=self.number or None,
            issue_date=issued,
            due_date=self.due_date or self.due_instant,
            total=total,
            balance=balance,
            currency=self.currency or None,
            created_at=datetime.combine(issued, time(), UTC) if issued and has_valid_date else self.version,
            created_source="issue_date" if has_valid_date else "updated_date",
            updated_at=self.version,
            has_version=self.has_version,
        )

    def _amounts(self) -> tuple[Decimal | None, Decimal | None]:
        """Total and balance. If one is missing, it is computed from the other and the paid and credited amounts.

        Nothing is left to pay of a closed invoice. Otherwise, if both are missing, neither is known.
        """
        settled = (self.paid or Decimal(0)) + (self.credited or Decimal(0))
        total, balance = self.total, self.balance
        if total is None and balance is not None:
            total = balance + settled
        elif balance is None and self.status in CLOSED_STATUSES:
            balance = Decimal(0)
        elif balance is None and total is not None:
            balance = total - settled
        return total, balance


class XeroContactPerson(BaseModel):
    """An additional person of a contact; Xero allows five."""

    email: LongText = Field(alias="EmailAddress", default="")


ContactPersons = Annotated[list[XeroContactPerson | None], BeforeValidator(as_list)]


class XeroContact(VersionedRow):
    """A contact as `GET /Contacts` lists it (OpenAPI 16.1, schema Contact)."""

    contact_id: RowUuid = Field(alias="ContactID")
    name: Name = Field(alias="Name", default="")
    status: ShortText = Field(alias="ContactStatus", default="")
    email: LongText = Field(alias="EmailAddress", default="")
    people: ContactPersons = Field(alias="ContactPersons", default_factory=list)
    merged_to: RelatedUuid = Field(alias="MergedToContactID", default=None)
    updated_at: Instant = Field(alias="UpdatedDateUTC", default=None)

    def to_row(self) -> ContactRow:
        """The contact as the mirror stores it."""
        return ContactRow(
            contact_id=self.contact_id,
            name=self.name,
            status=self.status,
            merged_to=self.merged_to if self.merged_to != self.contact_id else None,
            updated_at=self.version,
            has_version=self.has_version,
            emails=extract_addresses(self.email, *(person.email for person in self.people if person)),
        )


class XeroHistoryRecord(BaseModel):
    """An entry of `GET /Invoices/{id}/History` (OpenAPI 16.1, schema HistoryRecord)."""

    recorded_at: Instant = Field(alias="DateUTC", default=None)


class XeroOrganisation(BaseModel):
    """An organisation (OpenAPI 16.1, schema Organisation)."""

    name: Name = Field(alias="Name", default="")
    short_code: ShortText = Field(alias="ShortCode", default="")
    base_currency: Currency = Field(alias="BaseCurrency", default="")
    time_zone: TimeZoneName = Field(alias="Timezone", default="")


class XeroPagination(BaseModel):
    """The position of a page in its listing (OpenAPI 16.1, schema Pagination)."""

    page_size: Integer = Field(alias="pageSize", default=None)
    page_count: Integer = Field(alias="pageCount", default=None)
    item_count: Integer = Field(alias="itemCount", default=None)


class XeroConnection(BaseModel):
    """A connection of an authorisation (`GET /connections`)."""

    id: RowUuid
    tenant_id: RowUuid = Field(alias="tenantId")
    tenant_type: ShortText = Field(alias="tenantType", default="")
    name: Name = Field(alias="tenantName", default="")
    auth_event_id: Name = Field(alias="authEventId", default="")

    @property
    def is_organisation(self) -> bool:
        """Whether the tenant is an organisation, not an accountant's practice."""
        return (self.tenant_type or "ORGANISATION").upper() == "ORGANISATION"
