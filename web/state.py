"""What all requests of one web process share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

if TYPE_CHECKING:  # these modules read the state themselves
    from store.accounts.api_keys import Panel
    from store.db.batching import RequestBatcher
    from store.db.database import Pool
    from store.db.read_replica import ReadPools
    from store.read_model.invoice_queries import Page, PageRequest
    from web.admin.page_limits import PageRates
    from web.api.health import Readiness
    from web.api.key_usage import KeyUsage
    from web.api.recent_views import RecentViews
    from web.middleware.concurrency import Capacity
    from web.panel.long_polls import LongPollLimiter
    from web.panel.record_views import RecordViews


@dataclass(frozen=True)
class WebState:
    """Connection pools, batchers, limits and caches; made when the process starts (`web.app`)."""

    pool: Pool
    export_pools: ReadPools
    panels: RequestBatcher[bytes, Panel | None]
    invoice_pages: RequestBatcher[PageRequest, Page | None]
    capacity: Capacity
    page_rates: PageRates
    readiness: Readiness
    key_usage: KeyUsage
    recent_views: RecentViews
    record_views: RecordViews
    long_polls: LongPollLimiter


def web_state(connection: HTTPConnection) -> WebState:
    """The state of the process that serves a request."""
    state: WebState = connection.app.state.web
    return state
