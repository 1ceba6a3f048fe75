"""A realistic data set from a seed and a size; the same seed and size always give the same data."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sandbox.world import (
    TIMEZONES,
    Allocation,
    Contact,
    CopperAccount,
    Credit,
    HistoryEntry,
    Invoice,
    Organisation,
    Payment,
    Record,
    User,
    World,
)

FIRST_NAMES = [
    "Ana",
    "Ben",
    "Chloe",
    "David",
    "Ella",
    "Finn",
    "Grace",
    "Hemi",
    "Isla",
    "Jack",
    "Kiri",
    "Liam",
    "Mia",
    "Noah",
    "Olivia",
    "Priya",
    "Quinn",
    "Ruby",
]
LAST_NAMES = [
    "Adams",
    "Brown",
    "Chen",
    "Davis",
    "Evans",
    "Fraser",
    "Gupta",
    "Harris",
    "Ihaka",
    "Jones",
    "Kim",
    "Lee",
    "Moana",
    "Novak",
    "Patel",
    "Singh",
]
COMPANY_WORDS = [
    "Kauri",
    "Harbour",
    "Summit",
    "Coastal",
    "Pioneer",
    "Silver",
    "Fern",
    "Meridian",
    "Copperfield",
    "Lakeside",
    "Union",
    "Beacon",
]
TRADES = [
    "Electrical",
    "Joinery",
    "Logistics",
    "Foods",
    "Design",
    "Roofing",
    "Dental",
    "Partners",
    "Brewing",
    "Print",
    "Studio",
    "Motors",
]
DEALS = ["Fit-out", "Annual service", "Website", "New warehouse", "Fleet lease", "Support plan", "Renewal", "Extension"]
HISTORY_DAYS = 540
CITIES = {"NZ": ("Auckland", "Wellington", "Christchurch"), "GB": ("London", "Leeds", "Bristol")}
STREETS = ("Queen Street", "Station Road", "Harbour View", "High Street", "Mill Lane")
TITLES = ("Owner", "Office manager", "Accounts payable", "Operations lead", "Buyer")
TAGS = ("Key account", "Newsletter", "Trade show", "Referral")
# The credits that contacts have, by their position among the contacts modulo 16. An open credit has not been applied.
OPEN_CREDITS = {
    1: ("ACCRECCREDIT",),
    3: ("RECEIVE-PREPAYMENT",),
    6: ("RECEIVE-OVERPAYMENT",),
    9: ("ACCRECCREDIT",),
    12: ("ACCPAYCREDIT", "SPEND-PREPAYMENT"),
}
APPLIED_CREDITS = {5: "ACCRECCREDIT", 13: "ACCRECCREDIT", 15: "RECEIVE-PREPAYMENT"}


class Generator:
    """Fills an empty world with `size` companies and their people, opportunities, contacts, invoices and credits.

    Additions draw from a random sequence of their own, so that what a seed gave before them does not change.
    """

    def __init__(self, world: World, seed: int, size: int) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.details_rng = random.Random(f"{seed} looks")
        self.credits_rng = random.Random(f"{seed} credits")
        self.invoice_details_rng = random.Random(f"{seed} invoice details")
        self.size = size
        self.now = world.clock.now().replace(microsecond=0)

    def _uuid(self) -> UUID:
        return UUID(int=self.rng.getrandbits(128), version=4)

    def _random_past(self, days: int) -> datetime:
        return self.now - timedelta(seconds=self.rng.randrange(60, days * 86_400))

    def fill(self) -> World:
        """Create two organisations and a Copper account; three in four companies are contacts, and some walk-ins."""
        nz = Organisation(self._uuid(), "Demo Company (NZ)", "!DEMO1", "NZD")
        uk = Organisation(self._uuid(), "Demo Company (UK)", "!DEMO2", "GBP", "GB", TIMEZONES["GB"])
        account = CopperAccount(40_001, "Demo Sales", next_id=9_600_000)
        admin = User(501, "Sam Admin", "sam@demo.copper.test", "sandbox-copper-key", True, [(11, "Sales")])
        viewer = User(502, "Vic Viewer", "vic@demo.copper.test", "", False, [(12, "Service")])
        account.users = [admin, viewer]
        self.world.organisations = {nz.tenant_id: nz, uk.tenant_id: uk}
        self.world.accounts = {account.id: account}
        for number in range(self.size):
            organisation = uk if number % 8 == 7 else nz
            self._create_company(account, organisation, number)
        for number in range(max(1, self.size // 10)):
            contact = self._create_contact(nz, f"Walk-in {number + 1}", f"walkin{number + 1}@mail.test")
            company = list(account.records["company"].values())[number % self.size]
            contact.phones = [phone.replace("+64 9 ", "(09) ") for phone in company.phones]
            self._create_invoices(nz, contact)
        for record_type, add_details in (
            ("person", self._add_person_details),
            ("lead", self._add_lead_details),
            ("opportunity", self._add_opportunity_details),
        ):
            for record in account.records[record_type].values():
                add_details(record)
        self._create_credits()
        return self.world

    def _add_address(self, record: Record, country: str) -> None:
        rng = self.details_rng
        street = f"{rng.randrange(1, 200)} {rng.choice(STREETS)}"
        record.address = {"street": street, "city": rng.choice(CITIES[country]), "country": country}
        prefix = "+64 9 555" if country == "NZ" else "+44 20 7946"
        record.phones = [f"{prefix} {rng.randrange(1_000, 10_000)}"]

    def _add_person_details(self, record: Record) -> None:
        rng = self.details_rng
        record.title = rng.choice(TITLES)
        record.tags = rng.sample(TAGS, rng.choice((0, 0, 1, 2)))
        record.assignee_id = rng.choice((501, 501, 502, None))
        record.contact_type_id = rng.choice((451_490, 451_492))
        self._add_address(record, "NZ")

    def _add_lead_details(self, record: Record) -> None:
        rng = self.details_rng
        record.title, record.status = rng.choice(TITLES), rng.choice(("New", "Contacted", "Qualified"))
        record.company_name = f"{rng.choice(COMPANY_WORDS)} {rng.choice(TRADES)}"
        record.assignee_id = 501
        self._add_address(record, "NZ")

    def _add_opportunity_details(self, record: Record) -> None:
        rng = self.details_rng
        record.stage_id = rng.choice((987_790, 987_791, 987_792))
        record.monetary_value = Decimal(rng.randrange(10, 800) * 100)
        record.close_date = (self.now + timedelta(days=rng.randrange(10, 200))).date()
        record.priority, record.assignee_id = rng.choice(("Low", "Medium", "High")), 501

    def _create_record(self, account: CopperAccount, record_type: str, name: str, **fields: object) -> Record:
        created = int(self._random_past(HISTORY_DAYS).timestamp())
        record = Record(account.allocate_id(), record_type, name, created, created)
        for field, value in fields.items():
            setattr(record, field, value)
        account.records[record_type][record.id] = record
        return record

    def _create_company(self, account: CopperAccount, organisation: Organisation, number: int) -> None:
        rng = self.rng
        name = f"{rng.choice(COMPANY_WORDS)} {rng.choice(TRADES)}" + (f" {number}" if number >= 20 else "")
        domain = f"{name.lower().replace(' ', '')}{number}.test"
        company = self._create_record(account, "company", name, email_domain=domain, websites=[f"https://www.{domain}"])
        company.assignee_id, company.tags = 501, self.details_rng.sample(TAGS, self.details_rng.choice((0, 1, 2)))
        self._add_address(company, organisation.country)
        people: list[Record] = []
        for _ in range(rng.choice((1, 2, 2, 3, 4))):
            first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
            email = f"{first}.{last}{len(people) or ''}@{domain}".lower()
            people.append(
                self._create_record(account, "person", f"{first} {last}", emails=[email], company_id=company.id)
            )
        for _ in range(rng.choice((0, 1, 1, 2))):
            deal = self._create_record(
                account,
                "opportunity",
                f"{rng.choice(DEALS)} for {name}",
                company_id=company.id,
                primary_contact_id=people[0].id,
            )
            if len(people) > 2:
                account.relations.append(("opportunity", deal.id, "person", people[-1].id))
        if rng.random() < 0.4:
            first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
            email = f"{first}.{last}@{rng.choice(COMPANY_WORDS)}{number}.test".lower()
            self._create_record(account, "lead", f"{first} {last}", emails=[email])
            if rng.random() < 0.3:
                self._create_invoices(organisation, self._create_contact(organisation, f"{first} {last}", email))
        if rng.random() < 0.75:
            person_emails = [person.emails[0] for person in people[1:] if rng.random() < 0.5]
            contact = self._create_contact(organisation, name, people[0].emails[0].upper(), person_emails)
            self._create_invoices(organisation, contact)

    def _create_contact(
        self, organisation: Organisation, name: str, email: str, person_emails: list[str] | None = None
    ) -> Contact:
        contact = Contact(self._uuid(), name, email, self._random_past(HISTORY_DAYS), person_emails or [])
        organisation.contacts[contact.id] = contact
        return contact

    def _create_invoices(self, organisation: Organisation, contact: Contact) -> None:
        for _ in range(self.rng.choice((1, 2, 3, 4, 5, 7, 12))):
            self._create_invoice(organisation, contact)

    def _create_invoice(self, organisation: Organisation, contact: Contact) -> None:
        rng = self.rng
        is_bill = rng.random() < 0.1
        created = self._random_past(HISTORY_DAYS)
        status = rng.choices(("PAID", "AUTHORISED", "DRAFT", "SUBMITTED", "VOIDED"), (60, 28, 6, 3, 3))[0]
        currency = organisation.currency if rng.random() < 0.9 else rng.choice(("USD", "AUD", "JPY"))
        total = Decimal(rng.randrange(5_000, 900_000)) / 100
        total = total.quantize(Decimal(1)) if currency == "JPY" else total
        number = "" if is_bill or status == "DRAFT" else f"INV-{organisation.next_number:04d}"
        organisation.next_number += 1
        invoice = Invoice(
            self._uuid(),
            "ACCPAY" if is_bill else "ACCREC",
            contact.id,
            status,
            total,
            currency,
            created.astimezone(UTC).date(),
            created,
            number=number,
        )
        invoice.history = [HistoryEntry("Created", created)]
        if status != "DRAFT":
            invoice.due_date = invoice.issue_date + timedelta(days=rng.choice((7, 14, 20, 30, 60)))
        if status == "PAID":
            paid_on = invoice.issue_date + timedelta(days=rng.randrange(40))
            invoice.paid, invoice.paid_on = total, min(paid_on, self.now.date())
            invoice.updated = min(created + timedelta(days=20), self.now)
        elif status == "AUTHORISED" and rng.random() < 0.2:
            invoice.paid = (total / 2).quantize(Decimal(1) if currency == "JPY" else Decimal("0.01"))
        if invoice.paid:
            day = invoice.paid_on or invoice.issue_date + timedelta(days=1)
            invoice.payments = [Payment(UUID(int=invoice.id.int ^ 2), invoice.paid, day)]
        self._add_invoice_details(invoice)
        organisation.invoices[invoice.id] = invoice

    def _add_invoice_details(self, invoice: Invoice) -> None:
        """References on half of the sales invoices, and dates on which some that await payment are expected to be."""
        rng = self.invoice_details_rng
        if invoice.is_sale and rng.random() < 0.5:
            invoice.reference = f"PO {rng.randrange(1_000, 9_999)}"
        if invoice.status == "AUTHORISED" and invoice.due_date and rng.random() < 0.3:
            invoice.expected_payment = invoice.due_date + timedelta(days=rng.randrange(1, 30))

    def _create_credits(self) -> None:
        """Create credits of some contacts. Those that are applied replace payments: what is due does not change."""
        contacts = [
            (organisation, contact)
            for organisation in self.world.organisations.values()
            for contact in organisation.contacts.values()
        ]
        for position, (organisation, contact) in enumerate(contacts):
            for credit_type in OPEN_CREDITS.get(position % 16, ()):
                self._create_credit(organisation, contact, credit_type)
            applied_type = APPLIED_CREDITS.get(position % 16)
            if applied_type:
                self._create_applied_credit(organisation, contact, applied_type)

    def _create_credit(self, organisation: Organisation, contact: Contact, credit_type: str) -> Credit:
        rng = self.credits_rng
        created = self.now - timedelta(seconds=rng.randrange(60, 90 * 86_400))
        credit = Credit(
            UUID(int=rng.getrandbits(128), version=4),
            credit_type,
            contact.id,
            "AUTHORISED",
            Decimal(rng.randrange(2_000, 60_000)) / 100,
            organisation.currency,
            created.date(),
            created,
        )
        if credit_type == "ACCRECCREDIT":
            credit.number = organisation.allocate_credit_number()
        organisation.credits[credit.id] = credit
        return credit

    def _create_applied_credit(self, organisation: Organisation, contact: Contact, credit_type: str) -> None:
        """Create a credit that paid a part of a sales invoice of the contact, if there is such an invoice."""
        invoice = next(
            (
                invoice
                for invoice in organisation.invoices.values()
                if invoice.contact_id == contact.id
                and (invoice.status, invoice.is_sale, invoice.currency) == ("PAID", True, organisation.currency)
            ),
            None,
        )
        if invoice is None:
            return
        credit = self._create_credit(organisation, contact, credit_type)
        credit.total = (invoice.total / 4).quantize(Decimal("0.01"))
        credit.issue_date, credit.updated, credit.reference = invoice.issue_date, invoice.updated, invoice.number
        (payment,) = invoice.payments
        payment.amount = invoice.paid = invoice.total - credit.total
        allocation = Allocation(UUID(int=credit.id.int ^ 2), invoice.id, credit.total, payment.date)
        organisation.allocate(credit, invoice, allocation)
