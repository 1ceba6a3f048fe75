"""Account status: data held, backlog, API usage and problems, for the status page, the CLI and metrics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from runtime.settings import settings
from services import health
from services.health import AccountSnapshot, Finding
from store.accounts import accounts, attention, connection_status, copper_fields, refused_endpoints, xero_organisations
from store.accounts.accounts import AccountSummary
from store.accounts.connection_status import ConnectionStatus
from store.accounts.xero_organisations import Organisation
from store.db.database import account_transaction, database_now, transaction
from store.db.enums import INSTALLATION, FieldWriting, RunState
from store.ingest import event_latency, inbox, webhook_quotas
from store.ingest.event_latency import HourlyLatency, quantile
from store.ingest.inbox import MAX_MALFORMED_KEPT
from store.ingest.webhook_quotas import DroppedEvents
from store.mirror import mirror, unreadable_fields
from store.mirror.drift import merge_reports
from store.mirror.unreadable_fields import UnreadableField
from store.read_model import field_values, projection
from store.read_model.field_values import Progress
from store.sync import api_usage, heartbeats, runs
from store.sync.api_usage import ApiUsage
from store.sync.runs import Run
from worker.jobs import heartbeat
from worker.vendors.rate_limit.budget import Budget
from worker.vendors.sync_types import RunKind

GIGABYTE = 10**9
MAX_LISTED_ACCOUNTS = 20
"""With more accounts than this, only those that need a person are listed, as many of them at most."""


@dataclass(frozen=True)
class SourceStatus:
    """A Xero organisation or (organisation 0) the account's Copper, with its remaining calls (None: unknown).

    `needs_reauth`: only an admin can restore the connection. `missing_scopes` were not granted. `time_zone` is the one
    used for the organisation's dates; `unknown_time_zone` is Xero's name for a time zone that could not be mapped.
    """

    organisation_id: int
    name: str
    minute_calls_left: int | None
    day_calls_left: int | None
    synced_through: datetime | None
    needs_reauth: bool
    time_zone: str | None = None
    unknown_time_zone: str | None = None
    missing_scopes: tuple[str, ...] = ()


@dataclass(frozen=True)
class AccountStatus:
    """The status of one account.

    `usage` is this month's API usage, `xero_bytes_*` the part that Xero bills, `latency_by_hour` covers the last 24
    hours. `optional_findings` are endpoints that Copper refuses and the account can do without. `field_progress` is
    None unless fields in Copper are written.
    """

    id: int
    name: str
    sources: tuple[SourceStatus, ...]
    records: int
    invoices: int
    records_with_invoices: int
    rows: int
    events_pending: int
    oldest_pending_seconds: float | None
    events_quarantined: int
    synced_at: datetime | None
    runs: tuple[Run, ...]
    usage: tuple[ApiUsage, ...]
    findings: tuple[Finding, ...]
    last_event_at: datetime | None
    latency_by_hour: tuple[HourlyLatency, ...]
    unreadable_fields: tuple[UnreadableField, ...] = ()
    optional_findings: tuple[Finding, ...] = ()
    dropped_events: tuple[DroppedEvents, ...] = ()
    field_progress: Progress | None = None

    @property
    def dropped_events_summary(self) -> list[str]:
        """Events of the last 7 days that were not stored: a sentence for each vendor and reason."""
        return webhook_quotas.summary(self.dropped_events, MAX_MALFORMED_KEPT)

    @property
    def unreadable_fields_summary(self) -> list[str]:
        """Vendor data of the last 7 days that could not be parsed: a sentence for each resource."""
        return unreadable_fields.summarise(self.unreadable_fields)

    @property
    def events_last_day(self) -> int:
        """Number of events that became visible in the last 24 hours."""
        return sum(hour.events for hour in self.latency_by_hour)

    @property
    def median_latency(self) -> float | None:
        """Median latency of the last 24 hours in seconds; None without events."""
        return quantile(self.latency_by_hour, 0.5)

    @property
    def p99_latency(self) -> float | None:
        """99th percentile of the last 24 hours' latency in seconds; None without events."""
        return quantile(self.latency_by_hour, 0.99)

    @property
    def is_healthy(self) -> bool:
        """Whether the account is connected, imported and up to date, with no quarantined events."""
        return not self.findings

    @property
    def active_runs(self) -> tuple[Run, ...]:
        """The running runs of connections that work."""
        connected_ids = {source.organisation_id for source in self.sources if not source.needs_reauth}
        return tuple(run for run in self.runs if run.state == RunState.RUNNING and run.organisation_id in connected_ids)

    @property
    def xero_bytes_compressed(self) -> int:
        """Bytes downloaded from Xero this month, as transferred."""
        return sum(usage.bytes_compressed for usage in self.usage if usage.organisation_id)

    @property
    def xero_bytes_uncompressed(self) -> int:
        """Bytes downloaded from Xero this month, uncompressed."""
        return sum(usage.bytes_uncompressed for usage in self.usage if usage.organisation_id)

    @property
    def drift(self) -> dict[str, dict[str, int]]:
        """Sum of the drift, by type, that the latest reconciliation of each source found."""
        return merge_reports(
            *[run.drift for run in self.runs if run.kind == RunKind.RECONCILIATION and run.state == RunState.DONE]
        )


def month_start(now: datetime | None = None) -> datetime:
    """Return the start of this month in UTC, because Xero bills by month."""
    return (now or datetime.now(UTC)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class InstallationStatus:
    """The status of an installation: of all its accounts, or of those that need a person if it has many.

    `account_count` counts all accounts. `unchecked_count` is how many more may need a person, beyond those in
    `accounts`. `processes_down` have no recent heartbeat; that is a finding of every account as well.
    """

    accounts: tuple[AccountStatus, ...]
    account_count: int
    unchecked_count: int
    processes_down: tuple[str, ...]
    events_quarantined: int
    xero_bytes_uncompressed: int

    @property
    def is_healthy(self) -> bool:
        """Whether nothing needs a person."""
        needs_person = self.unchecked_count or self.processes_down or self.events_quarantined
        return not needs_person and all(account.is_healthy for account in self.accounts)

    @property
    def is_complete(self) -> bool:
        """Whether `accounts` has all of them."""
        return len(self.accounts) == self.account_count

    @property
    def download_allowance_left(self) -> float:
        """Gigabytes left of this month's download allowance, which all accounts share; negative if exceeded."""
        return settings().xero_download_allowance_gb - self.xero_bytes_uncompressed / GIGABYTE


def for_installation(account_id: int | None = None, *, max_accounts: int = MAX_LISTED_ACCOUNTS) -> InstallationStatus:
    """Return the status of one account, or (None) of all up to `max_accounts`, otherwise of those that need a person.

    Of these, too, `max_accounts` at most are checked.
    """
    with transaction() as session:
        account_count, unchecked_count = accounts.count(session), 0
        if account_id is not None:
            summaries = accounts.find_accounts(session, [account_id])
        elif account_count > max_accounts:
            candidates = attention.list_candidates(session, health.stale_seconds())
            unchecked_count = max(len(candidates) - max_accounts, 0)
            summaries = accounts.find_accounts(session, candidates[:max_accounts])
        else:
            summaries = accounts.list_accounts(session)
        ages = heartbeats.heartbeat_ages(session)
        xero_bytes = api_usage.xero_bytes_since(session, month_start().date())
        events_quarantined = inbox.quarantined_count(session, INSTALLATION)
    statuses = [for_account(summary) for summary in summaries]
    if account_id is None and account_count > max_accounts:
        statuses = [status for status in statuses if not status.is_healthy]
    return InstallationStatus(
        tuple(statuses),
        account_count,
        unchecked_count,
        tuple(process for process in heartbeat.PROCESSES if health.is_process_down(process, ages)),
        events_quarantined,
        xero_bytes,
    )


def list_all() -> list[AccountStatus]:
    """Return the status of every account, oldest first."""
    with transaction() as session:
        summaries = accounts.list_accounts(session)
    return [for_account(summary) for summary in summaries]


def for_account(account: AccountSummary) -> AccountStatus:
    """Return the status of one account."""
    with account_transaction(account.id) as session:
        records, invoices = mirror.count_rows(session, account.id)
        records_with_invoices, rows = projection.count_rows(session, account.id)
        quarantined = inbox.quarantined_count(session, account.id)
        pending, oldest_seconds = (
            inbox.count_unfinished(session, account.id),
            inbox.oldest_pending_seconds(session, account.id),
        )
        latest_runs = runs.latest(session, account.id)
        usage = api_usage.usage_since(session, month_start(), account.id)
        connections = connection_status.list_statuses(session, account.id)
        last_event_at = inbox.last_received(session, account.id)
        latency_by_hour = event_latency.latency_since(session, account.id, 24)
        organisations = xero_organisations.list_connected(session, account.id)
        unreadable = unreadable_fields.list_recent(session, account.id)
        dropped = webhook_quotas.recently_dropped(session, account.id)
        field_settings = copper_fields.get_settings(session, account.id)
        has_fields = field_settings.state is not FieldWriting.OFF
        field_progress = field_values.count(session, account.id) if has_fields else None
        refusals = [
            refusal
            for refusal in refused_endpoints.list_refusals(session, account.id, refused_endpoints.COPPER)
            if not refusal.parameter
        ]
        snapshot = AccountSnapshot(
            database_now(session),
            connections,
            latest_runs,
            runs.last_success(session, account.id),
            quarantined,
            account.synced_at,
            heartbeats.heartbeat_ages(session),
            organisations,
            refusals,
            field_settings.error if has_fields else None,
        )
    by_id = {organisation.id: organisation for organisation in organisations}
    sources = [_source(connection, by_id.get(connection.organisation_id)) for connection in connections]
    return AccountStatus(
        id=account.id,
        name=account.name,
        sources=tuple(sources),
        records=records,
        invoices=invoices,
        records_with_invoices=records_with_invoices,
        rows=rows,
        events_pending=pending,
        oldest_pending_seconds=oldest_seconds,
        events_quarantined=quarantined,
        synced_at=account.synced_at,
        runs=tuple(latest_runs),
        usage=tuple(usage),
        findings=health.check_account(snapshot),
        last_event_at=last_event_at,
        latency_by_hour=tuple(latency_by_hour),
        unreadable_fields=tuple(unreadable),
        optional_findings=health.optional_findings(refusals),
        dropped_events=tuple(dropped),
        field_progress=field_progress,
    )


def _source(connection: ConnectionStatus, organisation: Organisation | None) -> SourceStatus:
    budget = Budget(connection.account_id, connection.organisation_id, connection.tenant_id)
    minute, day = budget.remaining() or (None, None)
    status = SourceStatus(
        connection.organisation_id,
        connection.name,
        minute,
        day,
        connection.synced_through,
        needs_reauth=connection.needs_reauth,
    )
    if organisation is None:
        return status
    unknown_time_zone = organisation.xero_time_zone if organisation.has_unknown_time_zone else None
    return replace(
        status,
        time_zone=organisation.time_zone,
        unknown_time_zone=unknown_time_zone,
        missing_scopes=health.missing_scopes(organisation),
    )


def describe_drift(drift: dict[str, dict[str, int]]) -> str:
    """Return a summary of drift by type; `none` without drift."""
    summaries = [
        f"{record_type}: " + ", ".join(f"{rows} {name}" for name, rows in counts.items() if rows)
        for record_type, counts in drift.items()
        if any(counts.values())
    ]
    return "; ".join(summaries) or "none"


def format_bytes(count: int) -> str:
    """Return a number of bytes with a unit."""
    for unit, size in (("GB", GIGABYTE), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
