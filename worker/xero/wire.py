"""What Xero sends (its OpenAPI 16.1), parsed once, at the edge."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from store.mirror import ContactRow, InvoiceRow
from worker.addresses import addresses_of
from worker.parsing import (
    Amount,
    CalendarDate,
    Currency,
    LongText,
    Moment,
    Name,
    Number,
    RelatedUuid,
    RowUuid,
    WholeNumber,
    WireRow,
    Word,
    as_list,
    text,
)

# Created dates are shown in the viewer's zone, so they keep clear of the ends of the calendar.
FIRST_CREATED, LAST_CREATED = date(1900, 1, 1), date(2999, 12, 31)
TimeZoneName = Annotated[str, BeforeValidator(text(100)), AfterValidator(str.strip)]
SETTLED_STATUSES = {"PAID", "VOIDED", "DELETED"}


class WireContactReference(BaseModel):
    """The contact inside an invoice: in a list it has no address."""

    contact_id: RelatedUuid = Field(alias="ContactID", default=None)


class WireInvoice(WireRow):
    """An invoice as `GET /Invoices` lists it (OpenAPI 16.1, schema Invoice)."""

    invoice_id: RowUuid = Field(alias="InvoiceID")
    type: Word = Field(alias="Type", default="")
    status: Word = Field(alias="Status", default="")
    number: Number = Field(alias="InvoiceNumber", default="")
    contact: WireContactReference | None = Field(alias="Contact", default=None)
    issue_date: CalendarDate = Field(alias="DateString", default=None)
    issue_instant: CalendarDate = Field(alias="Date", default=None)
    due_date: CalendarDate = Field(alias="DueDateString", default=None)
    due_instant: CalendarDate = Field(alias="DueDate", default=None)
    total: Amount = Field(alias="Total", default=None)
    balance: Amount = Field(alias="AmountDue", default=None)
    paid: Amount = Field(alias="AmountPaid", default=None)
    credited: Amount = Field(alias="AmountCredited", default=None)
    currency: Currency = Field(alias="CurrencyCode", default="")
    updated_at: Moment = Field(alias="UpdatedDateUTC", default=None)

    @property
    def contact_id(self) -> UUID | None:
        """Whose invoice it is, as far as given."""
        return self.contact.contact_id if self.contact else None

    def row(self) -> InvoiceRow:
        """The invoice as the mirror keeps it, created at its issue date until something better is known."""
        issued = self.issue_date or self.issue_instant
        is_dated = issued is not None and FIRST_CREATED <= issued <= LAST_CREATED
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
            created_at=datetime.combine(issued, time(), UTC) if issued and is_dated else self.version,
            created_source="issue_date" if is_dated else "updated_date",
            updated_at=self.version,
            has_version=self.has_version,
        )

    def _amounts(self) -> tuple[Decimal, Decimal]:
        """Total and balance. One that was not given follows from the other, less what was paid and credited."""
        settled = (self.paid or Decimal(0)) + (self.credited or Decimal(0))
        total, balance = self.total, self.balance
        if total is None:
            total = balance + settled if balance is not None else Decimal(0)
        if balance is None:
            balance = Decimal(0) if self.status in SETTLED_STATUSES else total - settled
        return total, balance


class WireContactPerson(BaseModel):
    """One of at most five further people of a contact."""

    email: LongText = Field(alias="EmailAddress", default="")


People = Annotated[list[WireContactPerson | None], BeforeValidator(as_list)]


class WireContact(WireRow):
    """A contact as `GET /Contacts` lists it (OpenAPI 16.1, schema Contact)."""

    contact_id: RowUuid = Field(alias="ContactID")
    name: Name = Field(alias="Name", default="")
    status: Word = Field(alias="ContactStatus", default="")
    email: LongText = Field(alias="EmailAddress", default="")
    people: People = Field(alias="ContactPersons", default_factory=list)
    merged_to: RelatedUuid = Field(alias="MergedToContactID", default=None)
    updated_at: Moment = Field(alias="UpdatedDateUTC", default=None)

    def row(self) -> ContactRow:
        """The contact as the mirror keeps it."""
        return ContactRow(
            contact_id=self.contact_id,
            name=self.name,
            status=self.status,
            merged_to=self.merged_to if self.merged_to != self.contact_id else None,
            updated_at=self.version,
            has_version=self.has_version,
            emails=addresses_of(self.email, *(person.email for person in self.people if person)),
        )


class WireHistory(BaseModel):
    """One line of `GET /Invoices/{id}/History` (OpenAPI 16.1, schema HistoryRecord)."""

    at: Moment = Field(alias="DateUTC", default=None)


class WireOrganisation(BaseModel):
    """The organisation itself (OpenAPI 16.1, schema Organisation)."""

    name: Name = Field(alias="Name", default="")
    short_code: Word = Field(alias="ShortCode", default="")
    base_currency: Currency = Field(alias="BaseCurrency", default="")
    time_zone: TimeZoneName = Field(alias="Timezone", default="")


class WirePagination(BaseModel):
    """Where a page stands in its listing (OpenAPI 16.1, schema Pagination)."""

    page_size: WholeNumber = Field(alias="pageSize", default=None)
    pages: WholeNumber = Field(alias="pageCount", default=None)
    total: WholeNumber = Field(alias="itemCount", default=None)


class WireConnection(BaseModel):
    """One connection of an authorisation (`GET /connections`)."""

    id: RowUuid
    tenant_id: RowUuid = Field(alias="tenantId")
    tenant_type: Word = Field(alias="tenantType", default="")
    name: Name = Field(alias="tenantName", default="")
    auth_event_id: Name = Field(alias="authEventId", default="")

    @property
    def is_organisation(self) -> bool:
        """Whether it leads to an organisation, not to an accountant's practice."""
        return (self.tenant_type or "ORGANISATION").upper() == "ORGANISATION"
