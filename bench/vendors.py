"""The sandbox with data of a given size, as a process of its own, without latency, and usually without rate limits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import uvicorn

from bench import environment
from runtime.settings import override_settings
from sandbox import server
from sandbox.limits import Limits
from sandbox.world import Contact, CopperAccount, Invoice, Organisation, Record, User, World
from services import connect
from tests.chaos import free_port
from tests.support.world import Sandbox
from tests.support.world import World as ConnectedWorld

START = datetime(2024, 1, 1, tzinfo=UTC)
FIRST_RECORD_ID = 1_000
COPPER_KEY, COPPER_EMAIL = "bench-copper-key", "sam@bench.test"
WITH_LIMITS = "with-limits"


@dataclass(frozen=True)
class Shape:
    """The numbers of rows. Invoice n belongs to contact n, contact n has person n's address, and person n works at
    company n, each modulo its number; an opportunity belongs to a company."""

    invoices: int
    contacts: int
    people: int
    companies: int
    leads: int = 0
    opportunities: int = 0

    @property
    def records(self) -> int:
        """All Copper records."""
        return self.people + self.companies + self.leads + self.opportunities

    def __str__(self) -> str:
        """What a backfill fetches."""
        return f"{self.invoices:,} invoices, {self.contacts:,} contacts and {self.records:,} records"


SHAPES = {
    "events": Shape(invoices=20_000, contacts=5_000, people=5_000, companies=500),
    "backfill": Shape(
        invoices=100_000, contacts=20_000, people=36_000, companies=8_000, leads=5_800, opportunities=200
    ),
    "limits": Shape(invoices=100_000, contacts=19_000, people=3_600, companies=800, leads=580, opportunities=20),
    "large": Shape(invoices=5_000, contacts=500, people=500, companies=1, opportunities=1_000),
    "small": Shape(invoices=2_000, contacts=500, people=500, companies=50, opportunities=50),
    "empty": Shape(invoices=0, contacts=0, people=0, companies=0),
}


def invoice_id(number: int) -> UUID:
    """The id of an invoice by its number."""
    return UUID(int=number + 1)


def build_world(shape: Shape) -> World:
    """The sandbox's data with this shape."""
    organisation = Organisation(environment.TENANT, "Bench Company (NZ)", "!BENCH", "NZD")
    account = CopperAccount(40_001, "Bench", next_id=10_000_000)
    account.users = [User(501, "Sam Admin", COPPER_EMAIL, COPPER_KEY)]
    for number in range(shape.contacts):
        contact = Contact(UUID(int=number + 1), f"Contact {number}", f"p{number}@acme.test", START)
        organisation.contacts[contact.id] = contact
    for number in range(shape.invoices):
        created = START + timedelta(seconds=7 * number)
        due = (created + timedelta(days=30)).date()
        contact_id = UUID(int=number % shape.contacts + 1)
        invoice = Invoice(
            invoice_id(number), "ACCREC", contact_id, "AUTHORISED", Decimal(115), "NZD", created.date(), created,
            number=f"INV-{number}", due_date=due,
        )  # fmt: skip
        organisation.invoices[invoice.id] = invoice
    _add_records(account, shape)
    return World(organisations={organisation.tenant_id: organisation}, accounts={account.id: account})


def _add_records(account: CopperAccount, shape: Shape) -> None:
    ids = iter(range(FIRST_RECORD_ID, FIRST_RECORD_ID + shape.records))

    def add(record_type: str, number: int, **attributes: object) -> None:
        created = int(START.timestamp()) + number
        record = Record(next(ids), record_type, f"{record_type} {number}", created, created)
        for name, value in attributes.items():
            setattr(record, name, value)
        account.records[record_type][record.id] = record

    for number in range(shape.companies):
        add("company", number)
    for number in range(shape.people):
        company = FIRST_RECORD_ID + number % shape.companies
        add("person", number, emails=[f"p{number}@acme.test"], company_id=company)
    for number in range(shape.leads):
        add("lead", number, emails=[f"l{number}@acme.test"])
    for number in range(shape.opportunities):
        add("opportunity", number, company_id=FIRST_RECORD_ID + number % shape.companies)


@contextmanager
def run_sandbox(shape: str, *, has_limits: bool = False) -> Iterator[Sandbox]:
    """Run the sandbox, and point this process's settings to it."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    override_settings(server.environment(base))
    arguments = ("bench.vendors", str(port), shape, *([WITH_LIMITS] if has_limits else []))
    with environment.start_process(*arguments, ready_url=f"{base}/control/state"):
        yield Sandbox(base)


def connect_account(sandbox: Sandbox) -> ConnectedWorld:
    """A connected account of Patina, without a backfill."""
    world = ConnectedWorld(sandbox, sandbox.http, workers=True, copper=40_001, tenants=[str(environment.TENANT)])
    world.account = connect.connect_copper(COPPER_KEY, COPPER_EMAIL, by_operator=True)
    world.authorise(world.tenants)
    return world


def main() -> None:
    """Serve a shape on a local port."""
    port, shape = int(sys.argv[1]), SHAPES[sys.argv[2]]
    app = server.create(build_world(shape), limits=Limits(enabled=WITH_LIMITS in sys.argv[3:]))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, date_header=False)


if __name__ == "__main__":
    main()
