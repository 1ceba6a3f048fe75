"""The web process: webhook endpoints, API, pages and panel in one ASGI app."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from anyio import to_thread
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from runtime import logs, tracing
from runtime.settings import settings
from store.db import read_replica
from store.db.database import AccountClosedError, Pool, Role, create_owner_pool
from store.db.read_replica import ReadPools, create_read_pools
from store.read_model import exports
from web import admin
from web.admin.page_limits import PageRates
from web.admin.render import (
    account_closed_response,
    error_response,
    invalid_parameters_response,
    redirect_to_sign_in,
    server_error_response,
    timeout_response,
)
from web.api import account_invoices, contact_links, customer_links, health, invoices, matches, metrics, receivables
from web.api import exports as exports_api
from web.api.health import Readiness
from web.api.key_usage import KeyUsage
from web.api.recent_views import RecentViews
from web.auth.browser import SignInRequiredError
from web.middleware import refusals
from web.middleware.client_address import WATCH, ClientAddressMiddleware
from web.middleware.compression import CompressionMiddleware
from web.middleware.concurrency import Capacity
from web.middleware.request_limits import PageDeadlineMiddleware, RequestLimitMiddleware
from web.middleware.request_metrics import RequestMetricsMiddleware
from web.middleware.security_headers import SecurityHeadersMiddleware
from web.panel import change_listener
from web.panel import pages as panel
from web.panel.authorization import PanelAccessDeniedError, panel_batcher
from web.panel.long_polls import LongPollLimiter
from web.panel.record_views import RecordViews
from web.presentation import problems
from web.state import WebState
from webhooks import endpoints
from webhooks.endpoints import WebhookIngest
from worker.jobs import scheduler

log = structlog.get_logger()
# Threads for pages without limits of their own. Many busy threads would keep the event loop from the GIL.
PAGE_THREADS = 8
# Connections that look up panel keys; a batch of look-ups needs one.
PANEL_POOL_SIZE = 2
# A garbage collection stalls every request. Collections of young objects are frequent, so that each frees little: after
# a wave of 1,500 requests, one that waits for 20,000 objects takes up to 80 ms. Full ones, which take 100 ms with 1,500
# connections, run on a timer only.
GC_THRESHOLDS, GC_SECONDS = (500, 4, 1_000_000), 300.0


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    invoice_pools, panel_pools = create_read_pools(role=Role.READS), create_read_pools(role=None, size=PANEL_POOL_SIZE)
    state = app.state.web = _web_state(create_owner_pool(), invoice_pools, panel_pools, exports.create_pools())
    ingest = app.state.webhooks = endpoints.create_ingest(state.pool)
    pools = (state.pool, *invoice_pools.pools, *panel_pools.pools, *state.export_pools.pools)
    for pool in pools:
        await pool.open()
    stopping = asyncio.Event()
    write_task = asyncio.create_task(_run_periodic_writes(state, ingest, stopping))
    listen_task = asyncio.create_task(change_listener.listen(state.record_views.notify))
    replica_task = asyncio.create_task(read_replica.watch())
    tracing.start("web")
    to_thread.current_default_thread_limiter().total_tokens = PAGE_THREADS
    # The objects that exist now are permanent. Repeated full collections of them stall requests by 60 ms each.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc_task = asyncio.create_task(_collect_garbage())
    yield
    stopping.set()
    gc_task.cancel()
    listen_task.cancel()
    replica_task.cancel()
    await write_task
    await ingest.intake.close()
    for pool in reversed(pools):
        await pool.close(timeout=5)
    await asyncio.to_thread(tracing.stop)


def _web_state(pool: Pool, invoice_pools: ReadPools, panel_pools: ReadPools, export_pools: ReadPools) -> WebState:
    capacity = Capacity()
    return WebState(
        pool=pool,
        export_pools=export_pools,
        panels=panel_batcher(panel_pools),
        invoice_pages=invoices.invoice_page_batcher(invoice_pools),
        capacity=capacity,
        page_rates=PageRates(),
        readiness=Readiness(),
        key_usage=KeyUsage(),
        recent_views=RecentViews(),
        record_views=RecordViews(capacity.panel),
        long_polls=LongPollLimiter(),
    )


async def _collect_garbage() -> None:
    while True:
        await asyncio.sleep(GC_SECONDS)
        gc.collect()


async def _run_periodic_writes(state: WebState, ingest: WebhookIngest, stopping: asyncio.Event) -> None:
    """Every few seconds, write the heartbeat of the webhook endpoints and whatever the process has buffered.

    The heartbeat shows for how long they were down, because Copper never redelivers.
    """
    writes = (
        *(scheduler.record_web_heartbeat, state.key_usage.flush, ingest.dropped.flush),
        *(refusals.SAMPLES.flush, WATCH.flush),
    )
    while True:
        for write in writes:
            try:
                await asyncio.to_thread(write)
            except Exception as error:
                log.warning("heartbeat.failed", error=type(error).__name__)
        if stopping.is_set():
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), scheduler.WEB_HEARTBEAT_SECONDS)


def create() -> FastAPI:
    """The app; raises `SettingsError` that names the missing settings."""
    settings().require("xero_webhook_keys")
    logs.configure("web")
    app = FastAPIOffline(
        title="Patina",
        version="1",
        description="The Xero invoices of Copper's leads, people, companies and opportunities.",
        lifespan=_lifespan,
        # FastAPI's own telemetry would record whole URLs, and the panel's URL contains its token.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        redoc_url=None,
        # FastAPI would redirect to the host in the request, whatever it is.
        redirect_slashes=False,
    )
    problems.install(app, error_response, invalid_parameters_response)
    app.add_exception_handler(SignInRequiredError, redirect_to_sign_in)
    app.add_exception_handler(AccountClosedError, account_closed_response)
    app.add_exception_handler(PanelAccessDeniedError, panel.access_denied_response)
    app.add_exception_handler(Exception, server_error_response)
    # Routes are tried in order. These come before those of the documentation, and panels send the most requests.
    app.router.routes[:0] = [invoices.FastInvoicesRoute(), panel.LongPollRejection(), *endpoints.routes]
    app.include_router(panel.router)
    app.include_router(invoices.router)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(exports_api.router)
    app.include_router(account_invoices.router)
    app.include_router(contact_links.router)
    app.include_router(receivables.router)
    app.include_router(matches.router)
    app.include_router(customer_links.router)
    app.include_router(admin.router)
    _complete_openapi(app)
    app.add_middleware(CompressionMiddleware)
    app.add_middleware(PageDeadlineMiddleware, timeout_response=timeout_response)
    app.add_middleware(RequestLimitMiddleware, error_response=error_response)
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(ClientAddressMiddleware)
    app.add_middleware(RequestMetricsMiddleware)
    return app


def _complete_openapi(app: FastAPI) -> None:
    """Add the bearer authentication to the OpenAPI document, and remove the 422 responses: Patina answers 400."""
    document = app.openapi()
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    for name in ("HTTPValidationError", "ValidationError"):
        components.get("schemas", {}).pop(name, None)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
