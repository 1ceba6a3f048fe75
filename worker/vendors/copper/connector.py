"""An account's Copper as a connector: records are fetched by id, opportunities with their relations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from store.accounts import copper_credentials
from store.accounts.connection_status import COPPER
from store.db.database import Session
from store.db.enums import RecordType
from store.ingest import inbox
from store.ingest.inbox import LeasedEvent, SyncSource
from store.mirror import mirror
from store.mirror.rows import RelationRow
from store.sync.runs import Run
from worker.vendors.connector import RunRequest, SyncCoverage
from worker.vendors.copper import stages as copper_stages
from worker.vendors.copper.client import PAGE_SIZE, CopperClient, RecordPage, client_for_account
from worker.vendors.errors import EndpointRefusedError, UnexpectedResponseError
from worker.vendors.rate_limit.budget import Budget, Priority
from worker.vendors.sync_types import PageResult, RunKind, run_kind_of

# Each opportunity costs one more call, for its relations.
OPPORTUNITIES_PER_BATCH = 20


@dataclass
class CopperFetchResult:
    """The records of some events by type, and the relations of the opportunities among them."""

    account_id: int
    records: list[tuple[RecordType, RecordPage]] = field(default_factory=list)
    related: dict[int, list[RelationRow]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def write(self, session: Session) -> None:
        """Write all rows to the mirror: records before their relations."""
        for record_type, records in self.records:
            copper_stages.write_records(session, self.account_id, record_type, records)
            if record_type is RecordType.OPPORTUNITY:
                mirror.replace_opportunity_relations(session, self.account_id, dict(self.related), records.fetched_at)


@dataclass
class CopperConnector:
    """The Copper of an account."""

    source: SyncSource
    _run_client: CopperClient | None = field(default=None, init=False, repr=False, compare=False)

    def budget(self, session: Session) -> Budget:
        """The budget of the account's calls."""
        return Budget.for_copper(self.source.account_id)

    def ping(self) -> bool:
        """Fetch the account's details."""
        client_for_account(self.source.account_id, Priority.EVENTS).get_account()
        return True

    def batch_size(self, category: str) -> int:
        """A page of records, but fewer opportunities."""
        return OPPORTUNITIES_PER_BATCH if category == RecordType.OPPORTUNITY.value else PAGE_SIZE

    def fetch_events(self, events: Sequence[LeasedEvent]) -> CopperFetchResult:
        """Fetch the records of the events, and the relations of the opportunities among them."""
        result = CopperFetchResult(self.source.account_id)
        client = client_for_account(self.source.account_id, Priority.EVENTS)
        for record_type in RecordType:
            ids = [int(event.resource_id) for event in events if event.category == record_type.value]
            if not ids:
                continue
            records = client.records_by_id(record_type, ids)
            if record_type is RecordType.OPPORTUNITY:
                _fetch_relations(client, records, result)
            result.records.append((record_type, records))
            result.unreadable.update(records.unreadable)
        return result

    def run_requests(self) -> Sequence[RunRequest]:
        """A reconciliation, which covers catch-ups as well, and a catch-up, which cannot see deletions."""
        return (
            RunRequest(RunKind.RECONCILIATION, inbox.RECONCILIATION),
            RunRequest(RunKind.CATCH_UP, inbox.CATCH_UP),
        )

    def stages(self, run_kind: RunKind) -> tuple[str, ...]:
        """The stages of a run of this kind."""
        return copper_stages.stages(run_kind)

    def fetch_page(self, run: Run) -> PageResult:
        """Fetch the run's next page."""
        if self._run_client is None:
            self._run_client = client_for_account(run.account_id, run_kind_of(run).priority)
        return copper_stages.fetch(run, self._run_client)

    def coverage(self, session: Session) -> SyncCoverage:
        """FULL once all record types were read. A run leaves out the types that Copper refuses, and counts as full."""
        connection = copper_credentials.find_connection(session, self.source.account_id)
        was_read = connection is not None and connection.records_synced_through is not None
        return SyncCoverage.FULL if was_read else SyncCoverage.INCOMPLETE


def list_sources(session: Session, account_id: int) -> list[SyncSource]:
    """The account's Copper, if it is connected."""
    is_connected = copper_credentials.find_connection(session, account_id) is not None
    return [SyncSource(account_id, COPPER)] if is_connected else []


def _fetch_relations(client: CopperClient, opportunities: RecordPage, result: CopperFetchResult) -> None:
    for opportunity in opportunities.items:
        try:
            related = client.list_relations(opportunity.id)
        except EndpointRefusedError:
            continue
        except UnexpectedResponseError as error:
            result.unreadable[str(opportunity.id)] = str(error)
            continue
        if related is not None:
            result.related[opportunity.id] = related
