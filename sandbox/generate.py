"""A believable data set from a seed and a size: the same two always make the same world."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sandbox.world import (
    TIMEZONES,
    Contact,
    CopperAccount,
    HistoryLine,
    Invoice,
    Organisation,
    Payment,
    Record,
    User,
    World,
)

FIRST = [
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
LAST = [
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
WORDS = [
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
DAYS = 540
CITIES = {"NZ": ("Auckland", "Wellington", "Christchurch"), "GB": ("London", "Leeds", "Bristol")}
STREETS = ("Queen Street", "Station Road", "Harbour View", "High Street", "Mill Lane")
TITLES = ("Owner", "Office manager", "Accounts payable", "Operations lead", "Buyer")
TAGS = ("Key account", "Newsletter", "Trade show", "Referral")


class Generator:
    """Fills an empty world: `size` companies, and what belongs to them."""

    def __init__(self, world: World, seed: int, size: int) -> None:
        self.world = world
        self.dice = random.Random(seed)
        self.looks = random.Random(f"{seed} looks")
        self.size = size
        self.now = world.clock.now().replace(microsecond=0)

    def _uuid(self) -> UUID:
        return UUID(int=self.dice.getrandbits(128), version=4)

    def _past(self, days: int) -> datetime:
        return self.now - timedelta(seconds=self.dice.randrange(60, days * 86_400))

    def fill(self) -> World:
        """Two organisations, one Copper account, contacts for three companies in four, and some strangers."""
        nz = Organisation(self._uuid(), "Demo Company (NZ)", "!DEMO1", "NZD")
        uk = Organisation(self._uuid(), "Demo Company (UK)", "!DEMO2", "GBP", "GB", TIMEZONES["GB"])
        account = CopperAccount(40_001, "Demo Sales", next_id=9_600_000)
        admin = User(501, "Sam Admin", "sam@demo.copper.test", "sandbox-copper-key", True, [(11, "Sales")])
        viewer = User(502, "Vic Viewer", "vic@demo.copper.test", "", False, [(12, "Service")])
        account.users = [admin, viewer]
        self.world.organisations = {nz.tenant_id: nz, uk.tenant_id: uk}
        self.world.accounts = {account.id: account}
        for number in range(self.size):
            place = uk if number % 8 == 7 else nz
            self._company(account, place, number)
        for number in range(max(1, self.size // 10)):
            self._invoices(nz, self._contact(nz, f"Walk-in {number + 1}", f"walkin{number + 1}@mail.test"))
        for kind, dress in (("person", self._person), ("lead", self._lead), ("opportunity", self._opportunity)):
            for record in account.records[kind].values():
                dress(record)
        return self.world

    def _address(self, record: Record, country: str) -> None:
        looks = self.looks
        street = f"{looks.randrange(1, 200)} {looks.choice(STREETS)}"
        record.address = {"street": street, "city": looks.choice(CITIES[country]), "country": country}
        prefix = "+64 9 555" if country == "NZ" else "+44 20 7946"
        record.phones = [f"{prefix} {looks.randrange(1_000, 10_000)}"]

    def _person(self, record: Record) -> None:
        looks = self.looks
        record.title = looks.choice(TITLES)
        record.tags = looks.sample(TAGS, looks.choice((0, 0, 1, 2)))
        record.assignee_id = looks.choice((501, 501, 502, None))
        record.contact_type_id = looks.choice((451_490, 451_492))
        self._address(record, "NZ")

    def _lead(self, record: Record) -> None:
        looks = self.looks
        record.title, record.status = looks.choice(TITLES), looks.choice(("New", "Contacted", "Qualified"))
        record.company_name = f"{looks.choice(WORDS)} {looks.choice(TRADES)}"
        record.assignee_id = 501
        self._address(record, "NZ")

    def _opportunity(self, record: Record) -> None:
        looks = self.looks
        record.stage_id = looks.choice((987_790, 987_791, 987_792))
        record.monetary_value = Decimal(looks.randrange(10, 800) * 100)
        record.close_date = (self.now + timedelta(days=looks.randrange(10, 200))).date()
        record.priority, record.assignee_id = looks.choice(("Low", "Medium", "High")), 501

    def _record(self, account: CopperAccount, kind: str, name: str, **more: object) -> Record:
        made = int(self._past(DAYS).timestamp())
        record = Record(account.fresh_id(), kind, name, made, made)
        for field, value in more.items():
            setattr(record, field, value)
        account.records[kind][record.id] = record
        return record

    def _company(self, account: CopperAccount, place: Organisation, number: int) -> None:
        dice = self.dice
        name = f"{dice.choice(WORDS)} {dice.choice(TRADES)}" + (f" {number}" if number >= 20 else "")
        domain = f"{name.lower().replace(' ', '')}{number}.test"
        company = self._record(account, "company", name, email_domain=domain, websites=[f"https://www.{domain}"])
        company.assignee_id, company.tags = 501, self.looks.sample(TAGS, self.looks.choice((0, 1, 2)))
        self._address(company, place.country)
        people: list[Record] = []
        for _ in range(dice.choice((1, 2, 2, 3, 4))):
            first, last = dice.choice(FIRST), dice.choice(LAST)
            email = f"{first}.{last}{len(people) or ''}@{domain}".lower()
            people.append(self._record(account, "person", f"{first} {last}", emails=[email], company_id=company.id))
        for _ in range(dice.choice((0, 1, 1, 2))):
            deal = self._record(
                account,
                "opportunity",
                f"{dice.choice(DEALS)} for {name}",
                company_id=company.id,
                primary_contact_id=people[0].id,
            )
            if len(people) > 2:
                account.relations.append(("opportunity", deal.id, "person", people[-1].id))
        if dice.random() < 0.4:
            first, last = dice.choice(FIRST), dice.choice(LAST)
            email = f"{first}.{last}@{dice.choice(WORDS)}{number}.test".lower()
            self._record(account, "lead", f"{first} {last}", emails=[email])
            if dice.random() < 0.3:
                self._invoices(place, self._contact(place, f"{first} {last}", email))
        if dice.random() < 0.75:
            others = [one.emails[0] for one in people[1:] if dice.random() < 0.5]
            contact = self._contact(place, name, people[0].emails[0].upper(), others)
            self._invoices(place, contact)

    def _contact(self, place: Organisation, name: str, email: str, people: list[str] | None = None) -> Contact:
        made = Contact(self._uuid(), name, email, self._past(DAYS), people or [])
        place.contacts[made.id] = made
        return made

    def _invoices(self, place: Organisation, contact: Contact) -> None:
        for _ in range(self.dice.choice((1, 2, 3, 4, 5, 7, 12))):
            self._invoice(place, contact)

    def _invoice(self, place: Organisation, contact: Contact) -> None:
        dice = self.dice
        bill = dice.random() < 0.1
        made = self._past(DAYS)
        status = dice.choices(("PAID", "AUTHORISED", "DRAFT", "SUBMITTED", "VOIDED"), (60, 28, 6, 3, 3))[0]
        currency = place.currency if dice.random() < 0.9 else dice.choice(("USD", "AUD", "JPY"))
        total = Decimal(dice.randrange(5_000, 900_000)) / 100
        total = total.quantize(Decimal(1)) if currency == "JPY" else total
        number = "" if bill or status == "DRAFT" else f"INV-{place.next_number:04d}"
        place.next_number += 1
        invoice = Invoice(
            self._uuid(),
            "ACCPAY" if bill else "ACCREC",
            contact.id,
            status,
            total,
            currency,
            made.astimezone(UTC).date(),
            made,
            number=number,
        )
        invoice.history = [HistoryLine("Created", made)]
        if status != "DRAFT":
            invoice.due_date = invoice.issue_date + timedelta(days=dice.choice((7, 14, 20, 30, 60)))
        if status == "PAID":
            invoice.paid, invoice.paid_on = total, invoice.issue_date + timedelta(days=dice.randrange(40))
            invoice.updated = min(made + timedelta(days=20), self.now)
        elif status == "AUTHORISED" and dice.random() < 0.2:
            invoice.paid = (total / 2).quantize(Decimal(1) if currency == "JPY" else Decimal("0.01"))
        if invoice.paid:
            day = invoice.paid_on or invoice.issue_date + timedelta(days=1)
            invoice.payments = [Payment(UUID(int=invoice.id.int ^ 2), invoice.paid, day)]
        place.invoices[invoice.id] = invoice
