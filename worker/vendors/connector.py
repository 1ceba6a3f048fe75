"""What the sync engine needs from a vendor, in the engine's own terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from store.db.database import Session
from store.ingest.inbox import LeasedEvent
from store.sync.runs import Run
from worker.vendors.rate_limit.budget import Budget
from worker.vendors.sync_types import PageResult, RunKind


class FetchResult(Protocol):
    """What a vendor returned for the resources of some events, ready to be written."""

    @property
    def unreadable(self) -> Mapping[str, str]:
        """An error message for each resource id, in lower case, whose data could not be parsed."""

    def write(self, session: Session) -> None:
        """Write all rows to the mirror, in the caller's transaction: parents before their children."""


@dataclass(frozen=True)
class RunRequest:
    """A kind of run that events can request, and the category of these events (None: any that is not fetched by id)."""

    run_kind: RunKind
    category: str | None


class SyncCoverage(Enum):
    """How much of a source was ever read."""

    INCOMPLETE = auto()
    # All but an endpoint that has been refused from the beginning.
    EXCEPT_REFUSED = auto()
    FULL = auto()


class Connector(Protocol):
    """One source of events and runs at its vendor, for one piece of work, of seconds: a lease of events, a run's step.

    Each call reads the current connection, but `fetch_page` reads it once. Where a method calls the vendor, it raises
    the errors of `worker.vendors.errors`, and holds no transaction.
    """

    def budget(self, session: Session) -> Budget | None:
        """The budget of the source's calls; None if its organisation no longer exists."""

    def ping(self) -> bool:
        """Make the cheapest call there is, with the priority of events; False if the organisation no longer exists."""

    def batch_size(self, category: str) -> int:
        """How many resources of a category are fetched together, so that a batch costs about one call or few."""

    def fetch_events(self, events: Sequence[LeasedEvent]) -> FetchResult:
        """Fetch the current state of what the events name, and of what depends on it.

        There is nothing to write if the organisation no longer exists.
        """

    def run_requests(self) -> Sequence[RunRequest]:
        """The runs that events can request. A run covers the requests of those after it."""

    def stages(self, run_kind: RunKind) -> tuple[str, ...]:
        """The stages of a run of this kind, in order, at least one. `VERIFY_STAGE` is carried out by the engine."""

    def fetch_page(self, run: Run) -> PageResult:
        """Fetch a page of a run of this source, always of the same kind.

        An empty last page if the organisation no longer exists.
        """

    def coverage(self, session: Session) -> SyncCoverage:
        """How much of the source was ever read; INCOMPLETE if it is not connected."""
