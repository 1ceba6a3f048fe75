"""`/metrics` for Prometheus: budgets, bytes, drift and what waits, read from PostgreSQL when scraped; and what this
process counted of its own requests and events.

Account and organisation ids are its labels, so it is served to whoever holds METRICS_TOKEN alone.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from runtime.settings import settings
from store.inbox import NOBODY
from web.problems import ProblemError
from worker import overview
from worker.overview import AccountOverview, InstallationOverview

router = APIRouter(include_in_schema=False)
PLACE = ("account", "organisation", "purpose")


class Overview(Collector):
    """The installation's overview as metrics."""

    def __init__(self, accounts: Iterable[AccountOverview], installation: InstallationOverview) -> None:
        self._accounts, self._installation = list(accounts), installation

    @override
    def collect(self) -> Iterator[Metric]:
        """Each family once, a sample an account (and organisation)."""
        yield from self._calls()
        yield from self._state()
        yield from self._drift()

    def _calls(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "patina_vendor_calls", "calls to Xero and Copper (organisation 0), this month", labels=(*PLACE, "outcome")
        )
        read = CounterMetricFamily(
            "patina_vendor_bytes", "bytes pulled from vendors, this month", labels=(*PLACE, "form")
        )
        left = GaugeMetricFamily("patina_budget_left", "calls left", labels=("account", "organisation", "window"))
        for account in self._accounts:
            for one in account.metered:
                place = (str(one.account_id), str(one.organisation_id), one.purpose)
                calls.add_metric((*place, "answered"), one.calls - one.failed)
                calls.add_metric((*place, "refused"), one.refused)
                calls.add_metric((*place, "failed"), one.failed - one.refused)
                read.add_metric((*place, "wire"), one.bytes_wire)
                read.add_metric((*place, "plain"), one.bytes_plain)
            for source in account.sources:
                for window, number in (("minute", source.minute_left), ("day", source.day_left)):
                    if number is not None:
                        left.add_metric((str(account.id), str(source.organisation_id), window), number)
        yield from (calls, read, left)

    def _state(self) -> Iterator[Metric]:
        figures: tuple[tuple[str, str, str], ...] = (
            ("patina_egress_month_bytes", "bytes pulled from Xero this month, uncompressed", "egress_plain"),
            ("patina_inbox_waiting", "events that are not applied yet", "events_waiting"),
            ("patina_inbox_oldest_seconds", "how long the oldest of them has waited", "oldest_waiting"),
            ("patina_inbox_quarantined", "failed events; account 0: those of no account", "events_quarantined"),
            (
                "patina_unknown_time_zones",
                "organisations that go by UTC for want of a zone",
                "unknown_time_zones",
            ),
            ("patina_connections_lost", "connections that an admin must renew", "lost_count"),
        )
        for name, meaning, attribute in figures:
            family = GaugeMetricFamily(name, meaning, labels=("account",))
            for account in self._accounts:
                family.add_metric((str(account.id),), getattr(account, attribute) or 0)
            if attribute == "events_quarantined":
                family.add_metric((str(NOBODY),), self._installation.events_quarantined)
            yield family

    def _drift(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "patina_drift_rows", "rows found by the latest reconciliation", labels=("account", "kind", "drift")
        )
        for account in self._accounts:
            for kind, found in account.drift.items():
                for drift, rows in found.items():
                    family.add_metric((str(account.id), kind, drift), rows)
        yield family


def _page() -> bytes:
    registry = CollectorRegistry()
    registry.register(Overview(overview.everything(), overview.installation()))
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
