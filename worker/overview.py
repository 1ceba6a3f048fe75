"""How every account stands: what it holds, what waits, what it cost, what is wrong. For status and metrics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from runtime.settings import settings
from store import (
    accounts,
    chores,
    freshness,
    inbox,
    meters,
    mirror,
    projection,
    refusals,
    runs,
    unreadable_fields,
    webhook_quotas,
)
from store.accounts import AccountSummary, Connection, Organisation
from store.database import bound, now, transaction
from store.drift import added
from store.freshness import Hour, quantile
from store.inbox import MAX_MALFORMED_KEPT, NOBODY
from store.meters import Metered
from store.runs import Run
from store.unreadable_fields import UnreadableField
from store.webhook_quotas import DroppedEvents
from worker import health
from worker.budget import Budget
from worker.health import AccountState, Finding
from worker.steps import Kind

GIGABYTE = 10**9


@dataclass(frozen=True)
class SourceOverview:
    """A Xero organisation or (organisation 0) the account's Copper, with the calls it has left (None: not known).

    `is_lost` says that only an admin can bring the connection back, `missing` are the permissions (scopes) that were
    not granted. `time_zone` is the one that an organisation's days go by, `unknown_time_zone` Xero's name of one that
    is unknown.
    """

    organisation_id: int
    name: str
    minute_left: int | None
    day_left: int | None
    seen_to: datetime | None
    is_lost: bool
    time_zone: str | None = None
    unknown_time_zone: str | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class AccountOverview:
    """One account. `metered` is this month's, `egress_*` the bytes of it that Xero bills, `hours` its last 24.

    `lost` are the organisations (0: Copper) whose connection only an admin can renew; `notes` is what Copper leaves
    out, though nothing is wrong.
    """

    id: int
    name: str
    sources: tuple[SourceOverview, ...]
    records: int
    invoices: int
    showing: int
    rows: int
    events_waiting: int
    oldest_waiting: float | None
    events_quarantined: int
    synced_at: datetime | None
    runs: tuple[Run, ...]
    metered: tuple[Metered, ...]
    findings: tuple[Finding, ...]
    last_event_at: datetime | None
    hours: tuple[Hour, ...]
    unreadable: tuple[UnreadableField, ...] = ()
    notes: tuple[Finding, ...] = ()
    dropped: tuple[DroppedEvents, ...] = ()

    @property
    def dropped_summary(self) -> list[str]:
        """What was not kept of the last 7 days' events, a sentence for each vendor and reason."""
        return webhook_quotas.summary(self.dropped, MAX_MALFORMED_KEPT)

    @property
    def unreadable_summary(self) -> list[str]:
        """What could not be read of the vendors' answers in the last 7 days, a sentence for each resource."""
        return unreadable_fields.summary(self.unreadable)

    @property
    def events_day(self) -> int:
        """How many events became visible in the last 24 hours."""
        return sum(hour.events for hour in self.hours)

    @property
    def median(self) -> float | None:
        """Seconds from an event to its rows, half of the day's events; None without any."""
        return quantile(self.hours, 0.5)

    @property
    def slowest(self) -> float | None:
        """The same of 99 in 100 of them."""
        return quantile(self.hours, 0.99)

    @property
    def is_well(self) -> bool:
        """Whether the account is connected, imported and fresh, with nothing put aside."""
        return not self.findings

    @property
    def running(self) -> tuple[Run, ...]:
        """The runs under way for connections that work."""
        connected = {source.organisation_id for source in self.sources if not source.is_lost}
        return tuple(run for run in self.runs if run.state == "running" and run.organisation_id in connected)

    @property
    def egress_wire(self) -> int:
        """Bytes of this month as sent over the wire."""
        return sum(one.bytes_wire for one in self.metered if one.organisation_id)

    @property
    def egress_plain(self) -> int:
        """Bytes of this month, uncompressed."""
        return sum(one.bytes_plain for one in self.metered if one.organisation_id)

    @property
    def drift(self) -> dict[str, dict[str, int]]:
        """What the latest reconciliation of each source found, by kind, added up."""
        return added(*[run.drift for run in self.runs if run.kind == Kind.RECONCILIATION and run.state == "done"])


def unclaimed_events() -> int:
    """How many failed events belong to no account: bodies and events that could not be read, and name nobody."""
    with transaction() as session:
        return inbox.quarantined_count(session, NOBODY)


def month_start(now: datetime | None = None) -> datetime:
    """The first moment of this month, UTC: Xero bills by month."""
    return (now or datetime.now(UTC)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def everything() -> list[AccountOverview]:
    """Every account, oldest first."""
    with transaction() as session:
        known = accounts.accounts(session)
    return [of(account) for account in known]


def of(account: AccountSummary) -> AccountOverview:
    """One account's overview."""
    with bound(account.id) as session:
        records, invoices = mirror.count(session, account.id)
        showing, rows = projection.count(session, account.id)
        quarantined = inbox.quarantined_count(session, account.id)
        waiting, oldest = inbox.open_count(session, account.id), inbox.oldest_waiting(session, account.id)
        latest = runs.latest(session, account.id)
        metered = meters.since(session, month_start(), account.id)
        connections = accounts.connections(session, account.id)
        last_event_at = inbox.last_received(session, account.id)
        hours = freshness.since(session, account.id, 24)
        organisations = accounts.organisations(session, account.id)
        unreadable = unreadable_fields.recent(session, account.id)
        dropped = webhook_quotas.recently_dropped(session, account.id)
        refused = [one for one in refusals.of_account(session, account.id, refusals.COPPER) if not one.parameter]
        state = AccountState(
            now(session),
            connections,
            latest,
            runs.last_success(session, account.id),
            quarantined,
            account.synced_at,
            chores.heartbeat_ages(session),
            organisations,
            refused,
        )
    by_id = {organisation.id: organisation for organisation in organisations}
    sources = [_source(connection, by_id.get(connection.source_id)) for connection in connections]
    return AccountOverview(
        id=account.id,
        name=account.name,
        sources=tuple(sources),
        records=records,
        invoices=invoices,
        showing=showing,
        rows=rows,
        events_waiting=waiting,
        oldest_waiting=oldest,
        events_quarantined=quarantined,
        synced_at=account.synced_at,
        runs=tuple(latest),
        metered=tuple(metered),
        findings=health.examine(state),
        last_event_at=last_event_at,
        hours=tuple(hours),
        unreadable=tuple(unreadable),
        notes=health.notes(refused),
        dropped=tuple(dropped),
    )


def _source(connection: Connection, organisation: Organisation | None) -> SourceOverview:
    budget = Budget(connection.account_id, connection.source_id, connection.tenant_id)
    minute, day = budget.left() or (None, None)
    source = SourceOverview(
        connection.source_id, connection.name, minute, day, connection.seen_to, is_lost=connection.is_lost
    )
    if organisation is None:
        return source
    unknown = organisation.xero_time_zone if organisation.has_unknown_time_zone else None
    return replace(
        source,
        time_zone=organisation.time_zone,
        unknown_time_zone=unknown,
        missing=health.permissions(organisation),
    )


def allowance_left(accounts_: list[AccountOverview]) -> float:
    """Gigabytes left of the month's egress allowance, which all accounts of the app share; below 0 it costs."""
    return settings().egress_allowance_gb - sum(one.egress_plain for one in accounts_) / GIGABYTE


def drift_words(drift: dict[str, dict[str, int]]) -> str:
    """Drift in words, by kind; `none` where everything was right."""
    said = [
        f"{kind}: " + ", ".join(f"{rows} {name}" for name, rows in found.items() if rows)
        for kind, found in drift.items()
        if any(found.values())
    ]
    return "; ".join(said) or "none"


def bytes_in_words(count: int) -> str:
    """A number of bytes in words."""
    for unit, least in (("GB", GIGABYTE), ("MB", 10**6), ("kB", 10**3)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count} bytes"
