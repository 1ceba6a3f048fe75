"""How long reads and deliveries are away, and when a new leader accepts writes: measured from outside, under load."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx
import psycopg

from tests.support.world import World

INTERVAL_SECONDS = 0.1
READ_TIMEOUT_SECONDS = 5.0
STOP_SECONDS = 10.0
STATEMENT = "INSERT INTO failover_probe DEFAULT VALUES"


def longest_gap(times: Sequence[float], start: float, end: float) -> float:
    """The longest time between two successes in a period; its ends count as successes."""
    within = [start, *(moment for moment in times if start < moment < end), end]
    return max(later - earlier for earlier, later in itertools.pairwise(within))


@dataclass
class Availability:
    """The moments (monotonic) at which a read was answered, and at which a delivery was acknowledged."""

    world: World
    people: Sequence[int]
    reads: list[float] = field(default_factory=list)
    deliveries: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """What failed reads returned."""

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Read and count deliveries until the block ends."""
        stop = threading.Event()
        threads = [threading.Thread(target=work, args=(stop,), daemon=True) for work in (self._read, self._count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(STOP_SECONDS)

    def _read(self, stop: threading.Event) -> None:
        """Read one record after the other, as a single client that waits for each answer."""
        rng = random.Random(0)
        while not stop.wait(INTERVAL_SECONDS):
            try:
                response = self.world.read("people", rng.choice(self.people) if self.people else 1)
                if response.status_code == 200:
                    self.reads.append(time.monotonic())
                else:
                    self.failures.append(str(response.status_code))
            except httpx.HTTPError as error:
                self.failures.append(type(error).__name__)

    def _count(self, stop: threading.Event) -> None:
        """Ask the sandbox how many deliveries were acknowledged."""
        last_count = -1
        with httpx.Client(base_url=self.world.sandbox.url, timeout=READ_TIMEOUT_SECONDS, trust_env=False) as client:
            while not stop.wait(INTERVAL_SECONDS / 2):
                with suppress(httpx.HTTPError):
                    counts = client.get("/control/state").json()["deliveries"]
                    count = counts["xero_sent"] + counts["copper_sent"]
                    if count > last_count >= 0:
                        self.deliveries.append(time.monotonic())
                    last_count = count


class PromotionWatch:
    """Tries to write on data hosts directly, and notes when the first one accepts it."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.accepted_at: float | None = None
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._try, args=(url,), daemon=True) for url in urls]
        for thread in self._threads:
            thread.start()

    def _try(self, url: str) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            with suppress(psycopg.Error), psycopg.connect(url, autocommit=True) as connection:
                connection.execute("SET statement_timeout = '2s'")
                connection.execute(STATEMENT)
                if self.accepted_at is None:
                    self.accepted_at = time.monotonic()
                self._stop.set()

    def close(self) -> None:
        """Stop trying."""
        self._stop.set()
        for thread in self._threads:
            thread.join(STOP_SECONDS)


def create_probe_table(url: str) -> None:
    """Create the table that `PromotionWatch` writes to."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS failover_probe (written_at timestamptz DEFAULT now())")


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition is true, at most some seconds; whether it became true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(INTERVAL_SECONDS)
    return True
