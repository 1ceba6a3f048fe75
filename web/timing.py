"""How long requests take, by route and outcome: a histogram for Prometheus, and a span when somebody traces."""

from __future__ import annotations

import time
from functools import lru_cache

from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime import tracing
from web import refusals

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30)
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}
REQUESTS = Histogram(
    "patina_request_seconds",
    "requests by route (its pattern, never what was asked for) and status; the panel holds some of its own open",
    ("route", "method", "status"),
    buckets=SECONDS,
)


@lru_cache(maxsize=1_000)
def _series(route: str, method: str, status: int) -> Histogram:
    return REQUESTS.labels(route, method, str(status))


class Timed:
    """Times every request of the app."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with tracing.span("request") as span:
            try:
                await self.app(scope, receive, watched)
            finally:
                route = getattr(scope.get("route"), "path", "elsewhere")
                method = scope["method"] if scope["method"] in METHODS else "OTHER"
                _series(route, method, status).observe(time.perf_counter() - began)
                if status >= 400:
                    refusals.note(scope, route, status)
                if span is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.response.status_code", status)
