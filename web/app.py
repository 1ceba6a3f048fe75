"""The web process: receivers and read API in one ASGI app."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from runtime import logs, tracing
from runtime.settings import settings
from store import exports
from store.database import AccountClosedError, async_pool, reading_pool
from web import answers, health, invoices, metrics, pages, problems, refusals
from web.bounds import Bounded, PageDeadline
from web.browser import SignInNeededError
from web.client_address import WATCH, ClientAddress
from web.concurrency import Capacity
from web.health import Readiness
from web.looks import Looks
from web.page_limits import PageRates
from web.pages.render import account_closed, failed, malformed, sign_in_first, too_late, trouble
from web.panel import changes
from web.panel import pages as panel
from web.panel.held_requests import HeldRequests
from web.panel.record_views import RecordViews
from web.panel.viewers import NoViewerError, shared_panels
from web.security import SecurityHeaders
from web.timing import Timed
from webhooks import receivers
from worker import schedule

log = structlog.get_logger()
# A full collection runs by the clock alone: with 1,500 connections it stalls every request for 200 ms.
GC_THRESHOLDS, GC_SECONDS = (2_000, 10, 1_000_000), 60.0


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.pool, app.state.reading, app.state.exporting = async_pool(), reading_pool(), exports.pool()
    app.state.panels = shared_panels(app.state.pool)
    app.state.pages = invoices.shared_pages(app.state.reading)
    app.state.receiving = receivers.receiving(app.state.pool)
    app.state.looks, app.state.page_rates = Looks(), PageRates()
    app.state.capacity, app.state.readiness = Capacity(), Readiness()
    app.state.held_requests = HeldRequests()
    app.state.record_views = RecordViews(app.state.capacity.panel)
    pools = (app.state.pool, app.state.reading, app.state.exporting)
    for pool in pools:
        await pool.open()
    stopping = asyncio.Event()
    beating = asyncio.create_task(_beat(app, stopping))
    hearing = asyncio.create_task(changes.listen(app.state.record_views.notify))
    tracing.start("web")
    # What is there now stays: repeated full collections of it would stall requests, by 60 ms each time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    collecting = asyncio.create_task(_collect_garbage())
    yield
    stopping.set()
    collecting.cancel()
    hearing.cancel()
    await beating
    await app.state.receiving.intake.close()
    for pool in reversed(pools):
        await pool.close(timeout=5)
    await asyncio.to_thread(tracing.stop)


async def _collect_garbage() -> None:
    while True:
        await asyncio.sleep(GC_SECONDS)
        gc.collect()


async def _beat(app: FastAPI, stopping: asyncio.Event) -> None:
    """Note every few seconds that the receivers are up (what they miss, nobody sends twice), the keys in use, and how
    many events were not kept."""
    while True:
        noted = (schedule.note_web, app.state.looks.note_keys, app.state.receiving.dropped.flush)
        for note in (*noted, refusals.SAMPLES.flush, WATCH.note):
            try:
                await asyncio.to_thread(note)
            except Exception as error:
                log.warning("beat.failed", error=type(error).__name__)
        if stopping.is_set():
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), schedule.WEB_BEAT_SECONDS)


def create() -> FastAPI:
    """The app; raises `SettingsError` naming what it needs and does not have."""
    settings().need("xero_webhook_keys")
    logs.configure("web")
    app = FastAPIOffline(
        title="Patina",
        version="1",
        description="The Xero invoices of Copper's leads, people, companies and opportunities.",
        lifespan=_lifespan,
        # Ours alone: FastAPI's own would tell whole addresses, and the panel's has its token in it.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        redoc_url=None,
        # It would send browsers on to whatever host they named.
        redirect_slashes=False,
    )
    problems.install(app, trouble, malformed)
    app.add_exception_handler(SignInNeededError, sign_in_first)
    app.add_exception_handler(AccountClosedError, account_closed)
    app.add_exception_handler(NoViewerError, panel.no_viewer)
    app.add_exception_handler(Exception, failed)
    app.router.routes.extend([invoices.OrdinaryRead(), panel.CrowdedRecord(), *receivers.routes])
    # A request is held against the routes in turn, and panels ask most often.
    app.include_router(panel.router)
    app.include_router(invoices.router)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(answers.router)
    app.include_router(pages.router)
    _describe(app)
    app.add_middleware(PageDeadline, late=too_late)
    app.add_middleware(Bounded, answer=trouble)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(ClientAddress)
    app.add_middleware(Timed)
    return app


def _describe(app: FastAPI) -> None:
    """Tell the OpenAPI of the bearer key, and that a malformed parameter is a 400 here, never a 422."""
    made = app.openapi()
    parts = made.setdefault("components", {})
    parts["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    for name in ("HTTPValidationError", "ValidationError"):
        parts.get("schemas", {}).pop(name, None)
    for path in made["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
