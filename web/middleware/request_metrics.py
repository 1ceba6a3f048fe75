"""Request durations by route and status: a Prometheus histogram, and a span if tracing is on."""

from __future__ import annotations

import time
from functools import lru_cache

from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime import tracing
from web.middleware import refusals

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30)
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}
REQUESTS = Histogram(
    "patina_http_request_duration_seconds",
    "HTTP requests by route pattern and status, including panel requests that are held open",
    ("route", "method", "status"),
    buckets=BUCKETS,
)


@lru_cache(maxsize=1_000)
def _series(route: str, method: str, status: int) -> Histogram:
    return REQUESTS.labels(route, method, str(status))


class RequestMetricsMiddleware:
    """Measures every request of the app, and records refusals."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_at, status = time.perf_counter(), 500

        async def send_and_record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with tracing.span("request") as span:
            try:
                await self.app(scope, receive, send_and_record)
            finally:
                route = getattr(scope.get("route"), "path", "elsewhere")
                method = scope["method"] if scope["method"] in METHODS else "OTHER"
                _series(route, method, status).observe(time.perf_counter() - started_at)
                if status >= 400:
                    refusals.record(scope, route, status)
                if span is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.response.status_code", status)
