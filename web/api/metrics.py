"""`/metrics` for Prometheus: budgets, API usage, drift and backlogs, read from PostgreSQL at each scrape, and the
counters of this process.

Figures are sums over all accounts. Only accounts that need a person have samples of their own, the worst of each kind,
so neither the page nor the statements grow with the number of accounts. Labels may contain account and organisation
ids, so the page requires METRICS_TOKEN.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from runtime.process_values import once_per_process
from runtime.settings import settings
from services.account_status import month_start
from store.accounts import accounts, connection_status
from store.accounts.connection_status import ConnectionProblems
from store.db.database import Session, transaction
from store.db.enums import INSTALLATION
from store.ingest import inbox
from store.ingest.inbox import Backlog
from store.mirror.drift import Report, merge_reports
from store.sync import api_usage, runs
from store.sync.api_usage import UsageTotal
from web.presentation.problems import ProblemError
from worker.vendors.rate_limit.budget import Budget, RemainingCalls

router = APIRouter(include_in_schema=False)
T = TypeVar("T")
USAGE_LABELS = ("vendor", "priority")
QUARANTINED_EVENTS = "patina_inbox_quarantined_events"
MAX_ACCOUNTS = 100
"""How many accounts have a sample of their own in one family, the worst first; the sums count all."""
# Beyond this age of its oldest pending event an account has a sample of its own.
LATE_EVENT_SECONDS = 60.0


@dataclass(frozen=True)
class MetricsSnapshot:
    """The figures of the installation, read by a number of statements that does not depend on the number of accounts.

    The mappings and `calls_left` only have the accounts (and organisations) that there is something to say about.
    """

    account_count: int
    problems: Mapping[int, ConnectionProblems]
    calls_left: Mapping[tuple[int, int], RemainingCalls]
    app_calls_left: int | None
    usage: tuple[UsageTotal, ...]
    backlogs: Mapping[int, Backlog]
    drift: Mapping[int, Report]


class MonthUsage:
    """The usage of this month by day. Days that have ended are read once in the life of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: dict[date, tuple[UsageTotal, ...]] = {}

    def read(self, session: Session) -> tuple[UsageTotal, ...]:
        """The totals of this month. Calls of yesterday may still be stored, so it is read again."""
        first_day, yesterday = month_start().date(), datetime.now(UTC).date() - timedelta(days=1)
        with self._lock:
            ended = {day: totals for day, totals in self._ended.items() if day >= first_day}
            since = max(ended, default=first_day - timedelta(days=1)) + timedelta(days=1)
            totals = api_usage.totals_by_day(session, since)
            for number in range((yesterday - since).days):
                day = since + timedelta(days=number)
                ended[day] = tuple(total for total in totals if total.day == day)
            self._ended = ended
        new = [total for total in totals if total.day >= yesterday]
        return (*(total for day in ended.values() for total in day), *new)


@once_per_process
def month_usage() -> MonthUsage:
    """This process's memory of the month."""
    return MonthUsage()


def read_snapshot() -> MetricsSnapshot:
    """Read the figures: one statement each, and a round trip to Redis for the budgets that are half used."""
    with transaction() as session:
        account_count = accounts.count(session)
        problems = connection_status.count_problems(session)
        usage = month_usage().read(session)
        busy = api_usage.busy_organisations(session, max(settings().xero_calls_per_day // 2, 1), MAX_ACCOUNTS)
        backlogs = inbox.backlogs(session)
        reports = runs.latest_drift(session)
    drift: dict[int, Report] = {}
    for account_id, report in reports:
        drift[account_id] = merge_reports(drift.get(account_id), report)
    remaining = Budget.remaining_of_all([Budget(*source) for source in busy])
    calls_left = {
        (account_id, organisation_id): calls
        for (account_id, organisation_id, _), calls in zip(busy, remaining, strict=True)
        if calls is not None
    }
    return MetricsSnapshot(
        account_count, problems, calls_left, Budget.xero_app_calls_remaining(), usage, backlogs, drift
    )


class SnapshotCollector(Collector):
    """Exports a snapshot as metrics."""

    def __init__(self, snapshot: MetricsSnapshot) -> None:
        self._snapshot = snapshot

    @override
    def collect(self) -> Iterator[Metric]:
        """Each metric family once."""
        yield _gauge("patina_accounts", "connected accounts", self._snapshot.account_count)
        yield from self._calls()
        yield from self._budgets()
        yield from self._backlog()
        yield from self._accounts()
        yield self._drift()

    def _calls(self) -> Iterator[Metric]:
        calls = GaugeMetricFamily(
            "patina_vendor_calls_month", "calls to Xero and Copper this month", labels=(*USAGE_LABELS, "outcome")
        )
        downloaded = GaugeMetricFamily(
            "patina_vendor_download_month_bytes",
            "bytes downloaded from Xero and Copper this month",
            labels=(*USAGE_LABELS, "encoding"),
        )
        for labels, usage in sorted(_sum_by_priority(self._snapshot.usage).items()):
            calls.add_metric((*labels, "ok"), usage["calls"] - usage["failed"])
            calls.add_metric((*labels, "rate_limited"), usage["rate_limited"])
            calls.add_metric((*labels, "error"), usage["failed"] - usage["rate_limited"])
            downloaded.add_metric((*labels, "compressed"), usage["bytes_compressed"])
            downloaded.add_metric((*labels, "uncompressed"), usage["bytes_uncompressed"])
        yield from (calls, downloaded)
        xero_bytes = sum(total.bytes_uncompressed for total in self._snapshot.usage if total.vendor == "xero")
        yield _gauge(
            "patina_xero_download_month_bytes", "bytes downloaded from Xero this month, uncompressed", xero_bytes
        )

    def _budgets(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "patina_api_calls_remaining",
            "API calls remaining in the current window, of organisations that have used half of their day",
            labels=("account", "organisation", "window"),
        )
        for (account_id, organisation_id), calls_left in self._snapshot.calls_left.items():
            for window, number in zip(("minute", "day"), calls_left, strict=True):
                if number is not None:
                    family.add_metric((str(account_id), str(organisation_id), window), number)
        yield family
        app_calls = self._snapshot.app_calls_left
        yield _gauge("patina_xero_app_calls_remaining", "calls remaining of the Xero app's current minute", app_calls)

    def _backlog(self) -> Iterator[Metric]:
        backlogs = self._snapshot.backlogs.values()
        pending = sum(backlog.pending for backlog in backlogs)
        oldest = max((backlog.oldest_seconds for backlog in backlogs), default=0.0)
        yield _gauge("patina_inbox_pending_events", "events not yet applied", pending)
        yield _gauge("patina_inbox_oldest_event_age_seconds", "age of the oldest pending event", oldest)

    def _accounts(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        families: tuple[tuple[str, str, str, Mapping[int, float]], ...] = (
            (
                "events_late",
                "patina_account_oldest_event_age_seconds",
                f"age of the oldest pending event of accounts where it is over {LATE_EVENT_SECONDS:.0f} s",
                _values(snapshot.backlogs, lambda backlog: backlog.oldest_seconds, above=LATE_EVENT_SECONDS),
            ),
            (
                "events_quarantined",
                QUARANTINED_EVENTS,
                "quarantined events of accounts that have any; account 0: events that belong to no account",
                _values(snapshot.backlogs, lambda backlog: backlog.quarantined),
            ),
            (
                "time_zone_unknown",
                "patina_unknown_time_zones",
                "organisations without a known time zone, which use UTC, of accounts that have any",
                _values(snapshot.problems, lambda problems: problems.unknown_time_zones),
            ),
            (
                "connection_broken",
                "patina_connections_broken",
                "connections that an admin must reconnect, of accounts that have any",
                _values(snapshot.problems, lambda problems: problems.broken),
            ),
        )
        affected = GaugeMetricFamily(
            "patina_accounts_with_problem", "accounts that need a person, by problem", labels=("problem",)
        )
        for problem, name, documentation, values in families:
            family = GaugeMetricFamily(name, documentation, labels=("account",))
            for account_id, value in _worst(values):
                family.add_metric((str(account_id),), value)
            if name == QUARANTINED_EVENTS and INSTALLATION not in values:
                family.add_metric((str(INSTALLATION),), 0)
            affected.add_metric((problem,), len(values.keys() - {INSTALLATION}))
            yield family
        affected.add_metric(("drift",), len(snapshot.drift))
        yield affected

    def _drift(self) -> Metric:
        family = GaugeMetricFamily(
            "patina_drift_rows",
            "drifted rows found by the latest reconciliation, of accounts where it found any",
            labels=("account", "type", "drift"),
        )
        totals = {account_id: _count_rows(report) for account_id, report in self._snapshot.drift.items()}
        for account_id, _ in _worst(totals):
            for record_type, counts in self._snapshot.drift[account_id].items():
                for drift, rows in counts.items():
                    if rows:
                        family.add_metric((str(account_id), record_type, drift), rows)
        return family


def _gauge(name: str, documentation: str, value: float | None) -> Metric:
    """A family with one sample without labels; with none if the value is unknown."""
    family = GaugeMetricFamily(name, documentation)
    if value is not None:
        family.add_metric((), value)
    return family


def _values(by_account: Mapping[int, T], value_of: Callable[[T], float], above: float = 0.0) -> dict[int, float]:
    """The values of the accounts where it is more than `above`."""
    values = {account_id: value_of(figures) for account_id, figures in by_account.items()}
    return {account_id: value for account_id, value in values.items() if value > above}


def _worst(values: Mapping[int, float]) -> Sequence[tuple[int, float]]:
    """The accounts with the highest values, and the installation itself."""
    ordered = sorted(values.items(), key=lambda item: (item[0] != INSTALLATION, -item[1], item[0]))
    return ordered[:MAX_ACCOUNTS]


def _count_rows(report: Report) -> int:
    return sum(rows for counts in report.values() for rows in counts.values())


def _sum_by_priority(usage: Sequence[UsageTotal]) -> dict[tuple[str, str], Counter[str]]:
    """The fields' sums by vendor and priority."""
    sums: dict[tuple[str, str], Counter[str]] = {}
    for total in usage:
        fields = {name: value for name, value in vars(total).items() if isinstance(value, int)}
        sums.setdefault((total.vendor, total.priority), Counter()).update(fields)
    return sums


def _page() -> bytes:
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(read_snapshot()))
    return generate_latest(registry) + generate_latest(REGISTRY)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """The metrics page; 404 if no token is set, 401 for a wrong token."""
    token = settings().metrics_token
    if token is None:
        raise ProblemError(404, "Metrics are available if METRICS_TOKEN is set.")
    authorization = request.headers.get("authorization", "")
    if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
        raise ProblemError(401, "Send METRICS_TOKEN as: Authorization: Bearer …")
    return Response(await asyncio.to_thread(_page), media_type=CONTENT_TYPE_LATEST)
