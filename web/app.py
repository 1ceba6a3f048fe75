"""The web process: receivers and read API in one ASGI app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from runtime import logs
from runtime.settings import settings
from store.database import async_pool
from web import health, invoices, problems
from webhooks import receivers


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.pool = async_pool()
    await app.state.pool.open()
    yield
    await app.state.pool.close(timeout=5)


def create() -> FastAPI:
    """The app; raises `SettingsError` naming what it needs and does not have."""
    settings().need("xero_webhook_keys")
    logs.configure("web")
    app = FastAPIOffline(
        title="Patina",
        version="1",
        description="The Xero invoices of Copper's leads, people, companies and opportunities.",
        lifespan=_lifespan,
        redoc_url=None,
    )
    problems.install(app)
    app.include_router(health.router)
    app.include_router(receivers.router)
    app.include_router(invoices.router)
    _describe(app)
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
