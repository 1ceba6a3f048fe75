"""Load: random actions of users of both vendors."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.world import World
QUICK_RECOVERY = {
    "WORKER_THREADS": "4",
    "CATCH_UP_INTERVAL_SECONDS": "3",
    # Rate limits would hide how fast we recover: the window is five seconds, with many calls.
    "RATE_LIMIT_WINDOW_SECONDS": "5",
    "XERO_CALLS_PER_MINUTE": "500",
    "XERO_MAX_CONCURRENT_CALLS": "20",
    "XERO_CALLS_PER_DAY": "1000000",
    "COPPER_CALLS_PER_MINUTE": "2000",
    "COPPER_WEBHOOK_RECORDS_PER_MINUTE": "1000000",
    "COPPER_WEBHOOK_RECORDS_PER_DAY": "100000000",
    # Each comparison reads every record.
    "API_REQUESTS_PER_MINUTE": "1000000",
    "LOG_FORMAT": "json",
    "CONNECT_TIMEOUT": "2",
    "READ_TIMEOUT": "5",
}
"""Settings of an installation that is to recover within seconds."""

MIN_ADDRESSES = 30


@dataclass
class Load:
    """A steady stream of random actions on one account."""

    world: World
    rng: random.Random
    people: list[int] = field(default_factory=list)
    companies: list[int] = field(default_factory=list)
    invoices: list[str] = field(default_factory=list)
    actions: int = 0

    def act(self) -> None:
        """Simulate one random action."""
        world, rng = self.world, self.rng
        self.actions += 1
        choice = rng.random()
        if len(self.people) < 8 or choice < 0.08:
            company = rng.choice(self.companies) if self.companies else None
            self.people.append(world.person(self._address(), company=company))
        elif len(self.companies) < 4 or choice < 0.12:
            company = world.company()
            self.companies.append(company)
            world.opportunity(company=company)
        elif len(self.invoices) < 10 or choice < 0.4:
            self.invoices.append(world.invoice(self._address()).id)
        elif choice < 0.6:
            world.sandbox.simulate(
                "update_invoice", invoice=rng.choice(self.invoices), total=f"{rng.randrange(500, 900)}.00"
            )
        elif choice < 0.8:
            person = rng.choice(self.people)
            world.simulate_copper("update_record", type="person", id=person, emails=[self._address()])
        else:
            world.simulate_copper("move_person", person=rng.choice(self.people), company=rng.choice(self.companies))

    def _address(self) -> str:
        """One of about as many addresses as people, so that one change affects no more rows in a longer run."""
        return f"p{self.rng.randrange(max(MIN_ADDRESSES, len(self.people)))}@acme.test"

    @contextmanager
    def running(self, max_pause: float) -> Iterator[None]:
        """Apply load until the block ends; raises an error of the sandbox at the end."""
        stop, errors = threading.Event(), []

        def work() -> None:
            try:
                while not stop.wait(self.rng.uniform(0, max_pause)):
                    self.act()
            except Exception as error:
                errors.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        try:
            yield
        finally:
            stop.set()
            worker.join()
        if errors:
            raise errors[0]
