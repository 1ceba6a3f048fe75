"""`/metrics` for Prometheus: budgets, bytes, drift and what waits, read from PostgreSQL when scraped; and what this
process counted of its own requests and events.

Account and organisation ids are its labels, so it is served to whoever holds METRICS_TOKEN alone.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from runtime.settings import settings
from store import accounts, inbox, meters, runs
from store.accounts import Connection
from store.database import transaction
from store.drift import Report, added
from store.inbox import NOBODY, Backlog
from store.meters import Metered
from web.problems import ProblemError
from worker.budget import Budget
from worker.overview import month_start

router = APIRouter(include_in_schema=False)
PLACE = ("account", "organisation", "purpose")
QUARANTINED = "patina_inbox_quarantined"


@dataclass(frozen=True)
class Figures:
    """What is exported of all accounts, read in a number of statements that does not grow with theirs."""

    account_ids: tuple[int, ...]
    connections: tuple[Connection, ...]
    calls_left: tuple[tuple[int, int | None] | None, ...]
    usage: tuple[Metered, ...]
    backlogs: Mapping[int, Backlog]
    drift: Mapping[int, Report]


def read_figures() -> Figures:
    """Read them: one statement each, and one round trip to Redis for some hundred budgets."""
    with transaction() as session:
        account_ids = tuple(account.id for account in accounts.accounts(session))
        connections = tuple(accounts.connections(session))
        usage = tuple(meters.since(session, month_start()))
        backlogs = inbox.backlogs(session)
        reports = runs.latest_drift(session)
    drift: dict[int, Report] = {}
    for account_id, report in reports:
        drift[account_id] = added(drift.get(account_id), report)
    budgets = [Budget(one.account_id, one.source_id, one.tenant_id) for one in connections]
    return Figures(account_ids, connections, tuple(Budget.all_left(budgets)), usage, backlogs, drift)


class FiguresCollector(Collector):
    """The installation's figures as metrics."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    @override
    def collect(self) -> Iterator[Metric]:
        """Each family once, a sample an account (and organisation)."""
        yield from self._calls()
        yield self._budgets()
        yield from self._state()
        yield self._drift()

    def _calls(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "patina_vendor_calls", "calls to Xero and Copper (organisation 0), this month", labels=(*PLACE, "outcome")
        )
        read = CounterMetricFamily(
            "patina_vendor_bytes", "bytes pulled from vendors, this month", labels=(*PLACE, "form")
        )
        for usage in self._figures.usage:
            place = (str(usage.account_id), str(usage.organisation_id), usage.purpose)
            calls.add_metric((*place, "answered"), usage.calls - usage.failed)
            calls.add_metric((*place, "refused"), usage.refused)
            calls.add_metric((*place, "failed"), usage.failed - usage.refused)
            read.add_metric((*place, "wire"), usage.bytes_wire)
            read.add_metric((*place, "plain"), usage.bytes_plain)
        yield from (calls, read)

    def _budgets(self) -> Metric:
        family = GaugeMetricFamily("patina_budget_left", "calls left", labels=("account", "organisation", "window"))
        for connection, left in zip(self._figures.connections, self._figures.calls_left, strict=True):
            for window, number in zip(("minute", "day"), left or (), strict=False):
                if number is not None:
                    family.add_metric((str(connection.account_id), str(connection.source_id), window), number)
        return family

    def _state(self) -> Iterator[Metric]:
        figures, nothing = self._figures, Backlog(0, 0.0, 0)
        egress: Counter[int] = Counter()
        for usage in figures.usage:
            egress[usage.account_id] += usage.bytes_plain if usage.organisation_id else 0
        needs_admin = [one for one in figures.connections if one.is_lost or one.lacks_permission]
        lost = Counter(connection.account_id for connection in needs_admin)
        unknown = Counter(one.account_id for one in figures.connections if one.has_unknown_time_zone)
        backlogs = {account_id: figures.backlogs.get(account_id, nothing) for account_id in figures.account_ids}
        families: tuple[tuple[str, str, Callable[[int], float]], ...] = (
            ("patina_egress_month_bytes", "bytes pulled from Xero this month, uncompressed", egress.__getitem__),
            ("patina_inbox_waiting", "events that are not applied yet", lambda one: backlogs[one].waiting),
            (
                "patina_inbox_oldest_seconds",
                "how long the oldest of them has waited",
                lambda one: backlogs[one].oldest_seconds,
            ),
            (QUARANTINED, "failed events; account 0: those of no account", lambda one: backlogs[one].quarantined),
            ("patina_unknown_time_zones", "organisations that go by UTC for want of a zone", unknown.__getitem__),
            ("patina_connections_lost", "connections that an admin must renew", lost.__getitem__),
        )
        for name, meaning, value in families:
            family = GaugeMetricFamily(name, meaning, labels=("account",))
            for account_id in figures.account_ids:
                family.add_metric((str(account_id),), value(account_id))
            if name == QUARANTINED:
                family.add_metric((str(NOBODY),), figures.backlogs.get(NOBODY, nothing).quarantined)
            yield family

    def _drift(self) -> Metric:
        family = GaugeMetricFamily(
            "patina_drift_rows", "rows found by the latest reconciliation", labels=("account", "kind", "drift")
        )
        for account_id, report in self._figures.drift.items():
            for kind, counts in report.items():
                for drift, rows in counts.items():
                    family.add_metric((str(account_id), kind, drift), rows)
        return family


def _page() -> bytes:
    registry = CollectorRegistry()
    registry.register(FiguresCollector(read_figures()))
    return generate_latest(registry) + generate_latest(REGISTRY)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """The metrics page; 404 where no token is set, 401 for a wrong one."""
    token = settings().metrics_token
    if token is None:
        raise ProblemError(404, "Metrics are served once METRICS_TOKEN is set.")
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise ProblemError(401, "Metrics are for whoever holds METRICS_TOKEN.")
    return Response(await asyncio.to_thread(_page), media_type=CONTENT_TYPE_LATEST)
