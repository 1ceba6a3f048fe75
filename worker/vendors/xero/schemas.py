"""Schemas of Xero's API (OpenAPI 16.1). Responses are parsed once, at the edge."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from store.db.enums import CREDIT_TYPES, CreditResource, InvoiceType
from store.mirror.rows import ContactRow, InvoiceRow
from worker.vendors.addresses import extract_addresses
from worker.vendors.parsing import (
    Amount,
    Boolean,
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
from worker.vendors.phones import normalise_phones

# Created dates are shown in the viewer's time zone, so they must not be at the ends of the calendar.
MIN_CREATED, MAX_CREATED = date(1900, 1, 1), date(2999, 12, 31)
TimeZoneName = Annotated[str, BeforeValidator(text_parser(100)), AfterValidator(str.strip)]
MAX_ONLINE_URL = 500
# No user name, no port, no IP address, nothing that a browser would read differently.
ONLINE_URL = re.compile(r"https://(?:[a-z0-9-]+\.)*xero\.com/[A-Za-z0-9/_.~?=&%+-]+", re.IGNORECASE | re.ASCII)
CLOSED_STATUSES = {"PAID", "VOIDED", "DELETED"}
# Other names that Xero has used for these types (OpenAPI 16.1 and its history).
CREDIT_TYPE_SYNONYMS = {
    "ARPREPAYMENT": InvoiceType.PREPAYMENT,
    "APPREPAYMENT": InvoiceType.BILL_PREPAYMENT,
    "AROVERPAYMENT": InvoiceType.OVERPAYMENT,
    "APOVERPAYMENT": InvoiceType.BILL_OVERPAYMENT,
}


class XeroContactReference(BaseModel):
    """The contact of an invoice or a credit. In a list it has no e-mail address."""

    contact_id: RelatedUuid = Field(alias="ContactID", default=None)


class XeroDocument(VersionedRow):
    """What invoices and credits have in common."""

    type: ShortText = Field(alias="Type", default="")
    status: ShortText = Field(alias="Status", default="")
    contact: XeroContactReference | None = Field(alias="Contact", default=None)
    issue_date: CalendarDate = Field(alias="DateString", default=None)
    issue_instant: CalendarDate = Field(alias="Date", default=None)
    total: Amount = Field(alias="Total", default=None)
    currency: Currency = Field(alias="CurrencyCode", default="")
    currency_rate: Amount = Field(alias="CurrencyRate", default=None)
    reference: DocumentNumber = Field(alias="Reference", default="")
    paid_on: CalendarDate = Field(alias="FullyPaidOnDate", default=None)
    sent: Boolean = Field(alias="SentToContact", default=None)
    updated_at: Instant = Field(alias="UpdatedDateUTC", default=None)

    @property
    def contact_id(self) -> UUID | None:
        """The id of the contact, if one was given."""
        return self.contact.contact_id if self.contact else None

    def _to_row(
        self,
        invoice_id: UUID,
        invoice_type: str,
        number: str,
        amounts: tuple[Decimal | None, Decimal | None],
        due_date: date | None = None,
    ) -> InvoiceRow:
        """The row in the mirror. Its created date is the issue date until a better one is known."""
        issued = self.issue_date or self.issue_instant
        has_valid_date = issued is not None and MIN_CREATED <= issued <= MAX_CREATED
        total, balance = amounts
        return InvoiceRow(
            invoice_id=invoice_id,
            contact_id=self.contact_id,
            type=invoice_type,
            status=self.status,
            number=number or None,
            issue_date=issued,
            due_date=due_date,
            total=total,
            balance=balance,
            currency=self.currency or None,
            currency_rate=self.currency_rate if self.currency_rate and self.currency_rate > 0 else None,
            reference=self.reference or None,
            paid_on=self.paid_on,
            is_sent=self.sent,
            created_at=datetime.combine(issued, time(), UTC) if issued and has_valid_date else self.version,
            created_source="issue_date" if has_valid_date else "updated_date",
            updated_at=self.version,
            has_version=self.has_version,
        )


class XeroInvoice(XeroDocument):
    """An invoice as `GET /Invoices` lists it (OpenAPI 16.1, schema Invoice)."""

    invoice_id: RowUuid = Field(alias="InvoiceID")
    number: DocumentNumber = Field(alias="InvoiceNumber", default="")
    due_date: CalendarDate = Field(alias="DueDateString", default=None)
    due_instant: CalendarDate = Field(alias="DueDate", default=None)
    balance: Amount = Field(alias="AmountDue", default=None)
    paid: Amount = Field(alias="AmountPaid", default=None)
    credited: Amount = Field(alias="AmountCredited", default=None)
    expected_payment: CalendarDate = Field(alias="ExpectedPaymentDate", default=None)
    planned_payment: CalendarDate = Field(alias="PlannedPaymentDate", default=None)

    def to_row(self) -> InvoiceRow:
        """The invoice as the mirror stores it. Xero calls the expected payment of a bill planned."""
        due_date = self.due_date or self.due_instant
        row = self._to_row(self.invoice_id, self.type, self.number, self._amounts(), due_date)
        row.amount_paid, row.amount_credited = self.paid, self.credited
        row.expected_payment_date = self.expected_payment or self.planned_payment
        return row

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


class XeroAllocation(BaseModel):
    """An amount of a credit that was applied to an invoice."""

    amount: Amount = Field(alias="Amount", default=None)


Allocations = Annotated[list[XeroAllocation | None], BeforeValidator(as_list)]


class XeroCredit(XeroDocument):
    """What credit notes, prepayments and overpayments have in common. A credit is never due."""

    resource: ClassVar[CreditResource]

    credit_id: RowUuid
    number: DocumentNumber = ""
    remaining: Amount = Field(alias="RemainingCredit", default=None)
    allocations: Allocations = Field(alias="Allocations", default_factory=list)

    def to_row(self) -> InvoiceRow:
        """The credit as the mirror stores it."""
        credit_type = _credit_type(self.type, self.resource)
        return self._to_row(self.credit_id, credit_type, self.number, (self.total, self._balance()))

    def _balance(self) -> Decimal | None:
        """What is left. If it is missing, it is computed from the total and the allocations; None if it is unknown."""
        if self.remaining is not None:
            return self.remaining
        if self.status in CLOSED_STATUSES:
            return Decimal(0)
        applied = [allocation.amount for allocation in self.allocations if allocation]
        if self.total is None or None in applied:
            return None
        return self.total - sum((amount for amount in applied if amount is not None), Decimal(0))


class XeroCreditNote(XeroCredit):
    """A credit note as `GET /CreditNotes` lists it (OpenAPI 16.1, schema CreditNote)."""

    resource = CreditResource.CREDIT_NOTES

    credit_id: RowUuid = Field(alias="CreditNoteID")
    number: DocumentNumber = Field(alias="CreditNoteNumber", default="")


class XeroPrepayment(XeroCredit):
    """A prepayment as `GET /Prepayments` lists it (OpenAPI 16.1, schema Prepayment)."""

    resource = CreditResource.PREPAYMENTS

    credit_id: RowUuid = Field(alias="PrepaymentID")
    number: DocumentNumber = Field(alias="InvoiceNumber", default="")


class XeroOverpayment(XeroCredit):
    """An overpayment as `GET /Overpayments` lists it (OpenAPI 16.1, schema Overpayment). It has no number."""

    resource = CreditResource.OVERPAYMENTS

    credit_id: RowUuid = Field(alias="OverpaymentID")


def _credit_type(name: str, resource: CreditResource) -> InvoiceType:
    """The type of a credit by its name in Xero; the resource's unknown type if the name does not belong to it."""
    upper_name = name.strip().upper()
    types = CREDIT_TYPES[resource]
    return next(
        (credit_type for credit_type in types if credit_type == CREDIT_TYPE_SYNONYMS.get(upper_name, upper_name)),
        types[-1],
    )


class XeroContactPerson(BaseModel):
    """An additional person of a contact; Xero allows five."""

    email: LongText = Field(alias="EmailAddress", default="")


ContactPersons = Annotated[list[XeroContactPerson | None], BeforeValidator(as_list)]


class XeroPhone(BaseModel):
    """A phone number of a contact, in up to three parts (OpenAPI 16.1, schema Phone)."""

    number: LongText = Field(alias="PhoneNumber", default="")
    area_code: LongText = Field(alias="PhoneAreaCode", default="")
    country_code: LongText = Field(alias="PhoneCountryCode", default="")

    @property
    def full_number(self) -> str:
        """The parts in one number. Callers from abroad leave out the zeros before the area code."""
        area_code = self.area_code.lstrip("0 ") if self.country_code else self.area_code
        return f"{self.country_code} {area_code} {self.number}" if self.number else ""


Phones = Annotated[list[XeroPhone | None], BeforeValidator(as_list)]


class XeroContact(VersionedRow):
    """A contact as `GET /Contacts` lists it (OpenAPI 16.1, schema Contact).

    A listing may leave out the lists of a contact, so `phones` that are not given are not "none".
    """

    contact_id: RowUuid = Field(alias="ContactID")
    name: Name = Field(alias="Name", default="")
    status: ShortText = Field(alias="ContactStatus", default="")
    email: LongText = Field(alias="EmailAddress", default="")
    people: ContactPersons = Field(alias="ContactPersons", default_factory=list)
    phones: Phones | None = Field(alias="Phones", default=None)
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
            phones=self._normalised_phones(),
        )

    def _normalised_phones(self) -> tuple[str, ...] | None:
        return None if self.phones is None else normalise_phones(*(phone.full_number for phone in self.phones if phone))


class XeroHistoryRecord(BaseModel):
    """An entry of `GET /Invoices/{id}/History` (OpenAPI 16.1, schema HistoryRecord)."""

    recorded_at: Instant = Field(alias="DateUTC", default=None)


def _check_online_url(url: str) -> str:
    """The address of an online invoice, '' if none was given; raises `ValueError` if it is not an https URL of Xero's.

    The link is passed on to customers, so it must not lead anywhere else.
    """
    url = url.strip()
    if not url:
        return ""
    if len(url) > MAX_ONLINE_URL or not ONLINE_URL.fullmatch(url):
        raise ValueError("not an address of Xero's")
    return url


class XeroOnlineInvoice(BaseModel):
    """The answer of `GET /Invoices/{id}/OnlineInvoice` (OpenAPI 16.1, schema OnlineInvoice)."""

    url: Annotated[LongText, AfterValidator(_check_online_url)] = Field(alias="OnlineInvoiceUrl", default="")


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
