"""`/metrics` for Prometheus: budgets, API usage, drift and backlogs, read from PostgreSQL at each scrape, and the
counters of this process.

Labels contain account and organisation ids, so the page requires METRICS_TOKEN.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from runtime.settings import settings
from services.account_status import month_start
from store.accounts import accounts, connection_status
from store.accounts.connection_status import ConnectionStatus
from store.db.database import transaction
from store.db.enums import INSTALLATION
from store.ingest import inbox
from store.ingest.inbox import Backlog
from store.mirror.drift import Report, merge_reports
from store.sync import api_usage, runs
from store.sync.api_usage import ApiUsage
from web.presentation.problems import ProblemError
from worker.vendors.rate_limit.budget import Budget

router = APIRouter(include_in_schema=False)
USAGE_LABELS = ("account", "organisation", "priority")
QUARANTINED_EVENTS = "patina_inbox_quarantined_events"


@dataclass(frozen=True)
class MetricsSnapshot:
    """The figures of all accounts, read by a number of statements that does not depend on the number of accounts."""

    account_ids: tuple[int, ...]
    connections: tuple[ConnectionStatus, ...]
    calls_left: tuple[tuple[int, int | None] | None, ...]
    usage: tuple[ApiUsage, ...]
    backlogs: Mapping[int, Backlog]
    drift: Mapping[int, Report]


def read_snapshot() -> MetricsSnapshot:
    """Read the figures: one statement each, and one round trip to Redis for several hundred budgets."""
    with transaction() as session:
        account_ids = tuple(account.id for account in accounts.list_accounts(session))
        connections = tuple(connection_status.list_statuses(session))
        usage = tuple(api_usage.usage_since(session, month_start()))
        backlogs = inbox.backlogs(session)
        reports = runs.latest_drift(session)
    drift: dict[int, Report] = {}
    for account_id, report in reports:
        drift[account_id] = merge_reports(drift.get(account_id), report)
    budgets = [
        Budget(connection.account_id, connection.organisation_id, connection.tenant_id) for connection in connections
    ]
    return MetricsSnapshot(account_ids, connections, tuple(Budget.remaining_of_all(budgets)), usage, backlogs, drift)


class SnapshotCollector(Collector):
    """Exports a snapshot as metrics."""

    def __init__(self, snapshot: MetricsSnapshot) -> None:
        self._snapshot = snapshot

    @override
    def collect(self) -> Iterator[Metric]:
        """Each metric family once, with one sample per account (and organisation)."""
        yield from self._calls()
        yield self._budgets()
        yield from self._state()
        yield self._drift()

    def _calls(self) -> Iterator[Metric]:
        calls = GaugeMetricFamily(
            "patina_vendor_calls_month",
            "calls to Xero and Copper (organisation 0) this month",
            labels=(*USAGE_LABELS, "outcome"),
        )
        downloaded = GaugeMetricFamily(
            "patina_vendor_download_month_bytes",
            "bytes downloaded from Xero and Copper (organisation 0) this month",
            labels=(*USAGE_LABELS, "encoding"),
        )
        for usage in self._snapshot.usage:
            labels = (str(usage.account_id), str(usage.organisation_id), usage.priority)
            calls.add_metric((*labels, "ok"), usage.calls - usage.failed)
            calls.add_metric((*labels, "rate_limited"), usage.rate_limited)
            calls.add_metric((*labels, "error"), usage.failed - usage.rate_limited)
            downloaded.add_metric((*labels, "compressed"), usage.bytes_compressed)
            downloaded.add_metric((*labels, "uncompressed"), usage.bytes_uncompressed)
        yield from (calls, downloaded)

    def _budgets(self) -> Metric:
        family = GaugeMetricFamily(
            "patina_api_calls_remaining",
            "API calls remaining in the current window",
            labels=("account", "organisation", "window"),
        )
        for connection, calls_left in zip(self._snapshot.connections, self._snapshot.calls_left, strict=True):
            for window, number in zip(("minute", "day"), calls_left or (), strict=False):
                if number is not None:
                    family.add_metric((str(connection.account_id), str(connection.organisation_id), window), number)
        return family

    def _state(self) -> Iterator[Metric]:
        snapshot, empty = self._snapshot, Backlog(0, 0.0, 0)
        downloaded: Counter[int] = Counter()
        for usage in snapshot.usage:
            downloaded[usage.account_id] += usage.bytes_uncompressed if usage.organisation_id else 0
        broken_connections = [
            connection for connection in snapshot.connections if connection.needs_reauth or connection.lacks_permission
        ]
        broken = Counter(connection.account_id for connection in broken_connections)
        unknown_time_zones = Counter(
            connection.account_id for connection in snapshot.connections if connection.has_unknown_time_zone
        )
        backlogs = {account_id: snapshot.backlogs.get(account_id, empty) for account_id in snapshot.account_ids}
        families: tuple[tuple[str, str, Callable[[int], float]], ...] = (
            (
                "patina_xero_download_month_bytes",
                "bytes downloaded from Xero this month, uncompressed",
                downloaded.__getitem__,
            ),
            ("patina_inbox_pending_events", "events not yet applied", lambda account_id: backlogs[account_id].pending),
            (
                "patina_inbox_oldest_event_age_seconds",
                "age of the oldest pending event",
                lambda account_id: backlogs[account_id].oldest_seconds,
            ),
            (
                QUARANTINED_EVENTS,
                "quarantined events; account 0: events that belong to no account",
                lambda account_id: backlogs[account_id].quarantined,
            ),
            (
                "patina_unknown_time_zones",
                "organisations without a known time zone, which use UTC",
                unknown_time_zones.__getitem__,
            ),
            ("patina_connections_broken", "connections that an admin must reconnect", broken.__getitem__),
        )
        for name, documentation, value_of in families:
            family = GaugeMetricFamily(name, documentation, labels=("account",))
            for account_id in snapshot.account_ids:
                family.add_metric((str(account_id),), value_of(account_id))
            if name == QUARANTINED_EVENTS:
                family.add_metric((str(INSTALLATION),), snapshot.backlogs.get(INSTALLATION, empty).quarantined)
            yield family

    def _drift(self) -> Metric:
        family = GaugeMetricFamily(
            "patina_drift_rows", "drifted rows found by the latest reconciliation", labels=("account", "type", "drift")
        )
        for account_id, report in self._snapshot.drift.items():
            for record_type, counts in report.items():
                for drift, rows in counts.items():
                    family.add_metric((str(account_id), record_type, drift), rows)
        return family


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
