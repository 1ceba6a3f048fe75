"""Xero and Copper with as much in them as a measurement wants, in a process of their own, without limits or latency."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import uvicorn

from bench import stage
from runtime.settings import override
from sandbox import server
from sandbox.limits import Limits
from sandbox.world import Contact, CopperAccount, Invoice, Organisation, Record, User, World
from tests.chaos import free_port
from tests.world import Sandbox
from tests.world import World as Connected
from worker import connect

BEGAN = datetime(2024, 1, 1, tzinfo=UTC)
BEFORE_RECORDS = 1_000


@dataclass(frozen=True)
class Shape:
    """How much there is. Invoice n is contact n's, contact n has person n's address, person n works at company n, each
    counted round; an opportunity is a company's."""

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


SHAPES = {
    "events": Shape(invoices=20_000, contacts=5_000, people=5_000, companies=500),
    "backfill": Shape(
        invoices=100_000, contacts=20_000, people=36_000, companies=8_000, leads=5_800, opportunities=200
    ),
    "whale": Shape(invoices=5_000, contacts=500, people=500, companies=1, opportunities=1_000),
    "nothing": Shape(invoices=0, contacts=0, people=0, companies=0),
}


def fill(shape: Shape) -> World:
    """A world of this shape."""
    books = Organisation(stage.TENANT, "Bench Company (NZ)", "!BENCH", "NZD")
    account = CopperAccount(40_001, "Bench", next_id=10_000_000)
    account.users = [User(501, "Sam Admin", "sam@bench.test", "bench-copper-key")]
    for number in range(shape.contacts):
        contact = Contact(UUID(int=number + 1), f"Contact {number}", f"p{number}@acme.test", BEGAN)
        books.contacts[contact.id] = contact
    for number in range(shape.invoices):
        made = BEGAN + timedelta(seconds=7 * number)
        due = (made + timedelta(days=30)).date()
        contact_id = UUID(int=number % shape.contacts + 1)
        one = Invoice(
            UUID(int=number + 1), "ACCREC", contact_id, "AUTHORISED", Decimal(115), "NZD", made.date(), made,
            number=f"INV-{number}", due_date=due,
        )  # fmt: skip
        books.invoices[one.id] = one
    _records(account, shape)
    return World(organisations={books.tenant_id: books}, accounts={account.id: account})


def _records(account: CopperAccount, shape: Shape) -> None:
    ids = iter(range(BEFORE_RECORDS, BEFORE_RECORDS + shape.records))

    def add(kind: str, number: int, **more: object) -> None:
        made = int(BEGAN.timestamp()) + number
        record = Record(next(ids), kind, f"{kind} {number}", made, made)
        for name, value in more.items():
            setattr(record, name, value)
        account.records[kind][record.id] = record

    for number in range(shape.companies):
        add("company", number)
    for number in range(shape.people):
        company = BEFORE_RECORDS + number % shape.companies
        add("person", number, emails=[f"p{number}@acme.test"], company_id=company)
    for number in range(shape.leads):
        add("lead", number, emails=[f"l{number}@acme.test"])
    for number in range(shape.opportunities):
        add("opportunity", number, company_id=BEFORE_RECORDS + number % shape.companies)


@contextmanager
def running(shape: str) -> Iterator[Sandbox]:
    """The vendors' process, and this process's settings pointed at it."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    override(server.environment(base))
    with stage.process("bench.vendors", str(port), shape, ready=f"{base}/control/state"):
        yield Sandbox(base)


def connected(sandbox: Sandbox) -> Connected:
    """An account of Patina connected to them, nothing read yet."""
    world = Connected(sandbox, sandbox.http, workers=True, copper=40_001, tenants=[str(stage.TENANT)])
    world.account = connect.connect_copper("bench-copper-key", "sam@bench.test", by_operator=True)
    world.authorise(world.tenants)
    return world


def main() -> None:
    """Serve a shape on a port of this machine."""
    port, shape = int(sys.argv[1]), SHAPES[sys.argv[2]]
    app = server.create(fill(shape), limits=Limits(on=False))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, date_header=False)


if __name__ == "__main__":
    main()
