"""The data of the sandbox's Xero and Copper: plain dataclasses, kept in memory and saved as JSON."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from pydantic import TypeAdapter

# The usual time zone of a country's organisations, by its name in Xero.
TIMEZONES = {
    "NZ": "NEWZEALANDSTANDARDTIME",
    "GB": "GMTSTANDARDTIME",
    "US": "PACIFICSTANDARDTIME",
    "AU": "AUSEASTERNSTANDARDTIME",
}
RECORD_TYPES = ("lead", "person", "company", "opportunity")
# Units of each currency for a New Zealand dollar.
EXCHANGE_RATES = {
    "NZD": Decimal(1),
    "AUD": Decimal("0.91"),
    "EUR": Decimal("0.55"),
    "GBP": Decimal("0.47"),
    "JPY": Decimal(90),
    "USD": Decimal("0.60"),
}
PLURALS = {"leads": "lead", "people": "person", "companies": "company", "opportunities": "opportunity"}


@dataclass
class Clock:
    """The sandbox's clock: real time plus an offset; waits are `speed` times shorter than in real time."""

    offset_seconds: float = 0.0
    speed: float = 1.0

    def now(self) -> datetime:
        """The current time in UTC, to the millisecond."""
        now = datetime.now(UTC) + timedelta(seconds=self.offset_seconds)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def real_seconds(self, sandbox_seconds: float) -> float:
        """The real time that a wait of `sandbox_seconds` takes, in seconds."""
        return sandbox_seconds / self.speed


@dataclass
class Contact:
    """A Xero contact; `person_emails` are the email addresses of its contact persons (at most five)."""

    id: UUID
    name: str
    email: str
    updated: datetime
    person_emails: list[str] = field(default_factory=list)
    status: str = "ACTIVE"
    merged_to: UUID | None = None
    phones: list[str] = field(default_factory=list)


@dataclass
class HistoryEntry:
    """An entry of an invoice's history."""

    changes: str
    at: datetime
    details: str = ""
    user: str = "System Generated"


@dataclass
class Payment:
    """A payment of an invoice."""

    id: UUID
    amount: Decimal
    date: date


@dataclass
class Invoice:
    """A Xero invoice (ACCREC) or bill (ACCPAY).

    `credited` is the sum of the allocations of credits to it: only `Organisation.allocate` and `deallocate` change it.
    """

    id: UUID
    type: str
    contact_id: UUID
    status: str
    total: Decimal
    currency: str
    issue_date: date
    updated: datetime
    number: str = ""
    due_date: date | None = None
    paid: Decimal = Decimal(0)
    credited: Decimal = Decimal(0)
    paid_on: date | None = None
    reference: str = ""
    expected_payment: date | None = None
    payments: list[Payment] = field(default_factory=list)
    history: list[HistoryEntry] = field(default_factory=list)

    @property
    def is_sale(self) -> bool:
        """Whether it is an invoice to a customer, not a supplier's bill."""
        return self.type == "ACCREC"

    @property
    def is_sent(self) -> bool:
        """Whether it was sent to the contact; in the sandbox, every invoice that is approved counts as sent."""
        return self.status not in {"DRAFT", "SUBMITTED"}

    @property
    def due(self) -> Decimal:
        """The amount due; zero for a voided or deleted invoice."""
        return Decimal(0) if self.status in {"VOIDED", "DELETED"} else self.total - self.paid - self.credited


class CreditResource(StrEnum):
    """The resources of Xero's API that list credits."""

    CREDIT_NOTES = "CreditNotes"
    PREPAYMENTS = "Prepayments"
    OVERPAYMENTS = "Overpayments"

    @property
    def id_element(self) -> str:
        """The element that contains a credit's id (`CreditNoteID`)."""
        return f"{self.removesuffix('s')}ID"


CREDIT_RESOURCES = {
    "ACCRECCREDIT": CreditResource.CREDIT_NOTES,
    "ACCPAYCREDIT": CreditResource.CREDIT_NOTES,
    "RECEIVE-PREPAYMENT": CreditResource.PREPAYMENTS,
    "SPEND-PREPAYMENT": CreditResource.PREPAYMENTS,
    "RECEIVE-OVERPAYMENT": CreditResource.OVERPAYMENTS,
    "SPEND-OVERPAYMENT": CreditResource.OVERPAYMENTS,
}


@dataclass
class Allocation:
    """An amount of a credit that is applied to an invoice."""

    id: UUID
    invoice_id: UUID
    amount: Decimal
    date: date


@dataclass
class Credit:
    """A Xero credit note, prepayment or overpayment, according to its type; only credit notes have a number."""

    id: UUID
    type: str
    contact_id: UUID
    status: str
    total: Decimal
    currency: str
    issue_date: date
    updated: datetime
    number: str = ""
    reference: str = ""
    allocations: list[Allocation] = field(default_factory=list)

    @property
    def resource(self) -> CreditResource:
        """The resource that lists it."""
        return CREDIT_RESOURCES[self.type]

    @property
    def is_sale(self) -> bool:
        """Whether it is a customer's credit, not one from a supplier."""
        return self.type == "ACCRECCREDIT" or self.type.startswith("RECEIVE-")

    @property
    def remaining(self) -> Decimal:
        """The amount that is not applied to invoices; zero for a voided or deleted credit."""
        if self.status in {"VOIDED", "DELETED"}:
            return Decimal(0)
        return self.total - sum((allocation.amount for allocation in self.allocations), Decimal(0))

    def applied_to(self, invoice_id: UUID) -> Decimal:
        """The amount that is applied to an invoice."""
        amounts = (allocation.amount for allocation in self.allocations if allocation.invoice_id == invoice_id)
        return sum(amounts, Decimal(0))


@dataclass
class Organisation:
    """A Xero organisation (a tenant); `timezone` is Xero's name of its time zone (`GMTSTANDARDTIME`)."""

    tenant_id: UUID
    name: str
    short_code: str
    currency: str
    country: str = "NZ"
    timezone: str = TIMEZONES["NZ"]
    contacts: dict[UUID, Contact] = field(default_factory=dict)
    invoices: dict[UUID, Invoice] = field(default_factory=dict)
    credits: dict[UUID, Credit] = field(default_factory=dict)
    next_number: int = 1
    next_credit_number: int = 1
    revision: int = 0

    def touch(self, entity: Contact | Invoice | Credit, now: datetime) -> None:
        """Set a new UpdatedDateUTC, always later than the previous one."""
        entity.updated = max(now, entity.updated + timedelta(milliseconds=1))
        self.revision += 1

    def currency_rate(self, currency: str) -> Decimal:
        """How many units of a currency a unit of the organisation's own costs; 1 for a currency without a rate."""
        if currency not in EXCHANGE_RATES or self.currency not in EXCHANGE_RATES:
            return Decimal(1)
        return round(EXCHANGE_RATES[currency] / EXCHANGE_RATES[self.currency], 6)

    def allocate_credit_number(self) -> str:
        """The number of the next credit note."""
        number = f"CN-{self.next_credit_number:04d}"
        self.next_credit_number += 1
        return number

    def allocate(self, credit: Credit, invoice: Invoice, allocation: Allocation) -> None:
        """Apply an amount of a credit to an invoice; whichever has nothing left becomes PAID."""
        credit.allocations.append(allocation)
        invoice.credited += allocation.amount
        if credit.remaining == 0:
            credit.status = "PAID"
        if invoice.due == 0:
            invoice.status, invoice.paid_on = "PAID", allocation.date

    def deallocate(self, credit: Credit, invoice: Invoice) -> None:
        """Undo all allocations of a credit to an invoice; both are open again."""
        invoice.credited -= credit.applied_to(invoice.id)
        credit.allocations = [allocation for allocation in credit.allocations if allocation.invoice_id != invoice.id]
        credit.status = invoice.status = "AUTHORISED"
        invoice.paid_on = None

    def credits_of(self, invoice: Invoice) -> list[Credit]:
        """The credits that are applied to an invoice."""
        if not invoice.credited:
            return []
        return [credit for credit in self.credits.values() if credit.applied_to(invoice.id)]


@dataclass
class Connection:
    """An organisation that a Xero user has connected to the app.

    `auth_event` is the id of its latest authorisation.
    """

    id: UUID
    user: str
    tenant_id: UUID
    auth_event: UUID
    created: datetime
    updated: datetime


@dataclass
class RefreshToken:
    """A refresh token: `replaced_at` starts its grace period of 30 minutes; `uses` counts its refreshes."""

    issued_at: datetime
    replaced_at: datetime | None = None
    uses: int = 0


@dataclass
class Authorisation:
    """The result of a Xero user's consent: the scope and the tokens. `user` is the user's email address."""

    id: UUID
    user: str
    client_id: str
    scope: str
    created: datetime
    nonce: str = ""
    access: dict[str, datetime] = field(default_factory=dict)
    refresh: dict[str, RefreshToken] = field(default_factory=dict)


@dataclass
class AuthorisationCode:
    """An authorisation code that was not exchanged yet."""

    client_id: str
    redirect_uri: str
    challenge: str
    scope: str
    tenants: list[UUID]
    created_at: datetime
    user: str
    nonce: str = ""


@dataclass
class XeroApp:
    """The only app that the sandbox's Xero knows, and its webhook.

    It has two client ids: a confidential one with a secret, and a public one that uses PKCE. `consent_user` is the
    email address of the Xero user who consents next. `granted_scopes` are all scopes that a consent can grant (empty:
    all that are requested).
    """

    client_id: str = "sandbox-client"
    client_secret: str = "sandbox-secret"
    public_client_id: str = "sandbox-public-client"
    webhook_url: str = ""
    webhook_key: str = "sandbox-webhook-key"
    webhook_status: str = "off"
    last_sequence: int = 0
    auto_consent: bool = True
    consent_tenant_ids: list[UUID] = field(default_factory=list)
    consent_user: str = "sam@demo.xero.test"
    granted_scopes: list[str] = field(default_factory=list)
    authorisations: dict[UUID, Authorisation] = field(default_factory=dict)
    connections: dict[UUID, Connection] = field(default_factory=dict)
    codes: dict[str, AuthorisationCode] = field(default_factory=dict)

    def connect(self, authorisation: Authorisation, tenant_id: UUID, now: datetime) -> None:
        """Connect an organisation for a user; a connection that exists already keeps its id."""
        for connection in self.connections.values():
            if (connection.user, connection.tenant_id) == (authorisation.user, tenant_id):
                connection.auth_event, connection.updated = authorisation.id, now
                return
        created = Connection(uuid4(), authorisation.user, tenant_id, authorisation.id, now, now)
        self.connections[created.id] = created

    def connections_of(self, user: str) -> list[Connection]:
        """All connections of a user, from all authorisations."""
        return [connection for connection in self.connections.values() if connection.user == user]


@dataclass
class User:
    """A Copper user; only the API keys of admins are valid."""

    id: int
    name: str
    email: str
    api_key: str
    admin: bool = True
    groups: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class Record:
    """A Copper lead, person, company or opportunity; fields that its type does not have are empty.

    Only leads have `company_name`, a plain text. `custom_values` are keyed by the id of the custom field.
    """

    id: int
    type: str
    name: str
    created: int
    modified: int
    emails: list[str] = field(default_factory=list)
    company_id: int | None = None
    primary_contact_id: int | None = None
    status: str = "Open"
    title: str | None = None
    company_name: str | None = None
    email_domain: str | None = None
    phones: list[str] = field(default_factory=list)
    websites: list[str] = field(default_factory=list)
    address: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    details: str | None = None
    assignee_id: int | None = None
    contact_type_id: int | None = None
    stage_id: int | None = None
    priority: str | None = None
    monetary_value: Decimal | None = None
    close_date: date | None = None
    custom_values: dict[int, Any] = field(default_factory=dict)


@dataclass
class FieldOption:
    """An option of a custom field of type Dropdown or MultiSelect; `rank` is its position, from 0."""

    id: int
    name: str
    rank: int


@dataclass
class CustomField:
    """The definition of a custom field; `data_type` is Copper's name of the type (Currency, Date, Text …).

    `canonical_name` is the field's key, unique in its account. Only Currency fields have a `currency`.
    """

    id: int
    name: str
    data_type: str
    available_on: list[str]
    currency: str | None = None
    canonical_name: str | None = None
    is_filterable: bool = False
    options: list[FieldOption] = field(default_factory=list)


@dataclass
class WriteRules:
    """How an account responds to writes, where plans and versions of Copper differ.

    `max_definitions` is the number of custom fields that its plan allows (None: any), `bulk_size` the number of records
    in a bulk update. `bulk_for_all_types`: companies and opportunities have bulk updates, too. Without
    `updated_attributes`, notifications of updates do not say what changed. `refused_writes` are the messages that
    refuse every write of a record, by type and id.
    """

    max_definitions: int | None = None
    bulk_size: int = 10
    bulk_for_all_types: bool = False
    updated_attributes: bool = True
    refused_writes: dict[str, dict[int, str]] = field(
        default_factory=lambda: {record_type: {} for record_type in RECORD_TYPES}
    )


@dataclass
class Subscription:
    """A Copper webhook subscription."""

    id: int
    target: str
    type: str
    event: str
    secret: dict[str, Any]
    headers: dict[str, str]
    owner_key: str
    created_at: int = 0
    custom_field_computed_values: bool = False


@dataclass
class CopperAccount:
    """A Copper account with its records, relations and subscriptions; `app_url` is the URL of its embedded app."""

    id: int
    name: str
    users: list[User] = field(default_factory=list)
    records: dict[str, dict[int, Record]] = field(
        default_factory=lambda: {record_type: {} for record_type in RECORD_TYPES}
    )
    relations: list[tuple[str, int, str, int]] = field(default_factory=list)
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    custom_fields: dict[int, CustomField] = field(default_factory=dict)
    write_rules: WriteRules = field(default_factory=WriteRules)
    next_id: int = 1000
    oauth_codes: dict[str, str] = field(default_factory=dict)
    oauth_tokens: dict[str, str] = field(default_factory=dict)
    app_url: str = ""

    def allocate_id(self) -> int:
        """A new id, unique in this account."""
        self.next_id += 1
        return self.next_id


@dataclass
class World:
    """All data of the sandbox: Xero's organisations and app, Copper's accounts, and the clock."""

    organisations: dict[UUID, Organisation] = field(default_factory=dict)
    app: XeroApp = field(default_factory=XeroApp)
    accounts: dict[int, CopperAccount] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)

    def find_owner(self, api_key: str, email: str) -> tuple[CopperAccount, User] | None:
        """The account and user of an API key, if the email address is its owner's; None otherwise."""
        for account in self.accounts.values():
            for user in account.users:
                if user.api_key == api_key and user.email.casefold() == email.casefold():
                    return account, user
        return None


WORLD = TypeAdapter(World)


def load(path: Path) -> World | None:
    """The saved world; None if there is none."""
    return WORLD.validate_json(path.read_bytes()) if path.exists() else None


def save(world: World, path: Path) -> None:
    """Save the world atomically: a crash leaves either the old file or the new one."""
    temporary = path.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}")
    temporary.write_bytes(WORLD.dump_json(world))
    temporary.replace(path)
