"""Fault injection: latency, errors, timeouts and dropped connections; lost, duplicated and reordered webhooks."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Literal

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox.limits import RateLimiter

HANG_SECONDS = 60.0


class ApiFault(BaseModel):
    """A fault of the API calls whose path contains `path` and whose query contains `query`.

    It hits each such call with `probability`, and ends after `times` hits (None: never).
    """

    vendor: Literal["xero", "copper"]
    type: Literal["latency", "status", "hang", "drop"]
    path: str = ""
    query: str = ""
    seconds: float = Field(0, ge=0, le=600)
    status: int = 500
    retry_after: float | None = None
    probability: float = Field(1.0, ge=0, le=1)
    times: int | None = Field(None, ge=1)


class FilterFault(BaseModel):
    """A filter of Copper's search of `plural` that is refused with 422, or ignored."""

    plural: Literal["leads", "people", "companies", "opportunities"]
    filter: str
    type: Literal["refuse", "ignore"]


class WebhookFault(BaseModel):
    """Probabilities that a vendor's webhook is lost, duplicated, or delayed by up to `max_delay` seconds."""

    vendor: Literal["xero", "copper"]
    loss: float = Field(0, ge=0, le=1)
    duplicate: float = Field(0, ge=0, le=1)
    reorder: float = Field(0, ge=0, le=1)
    max_delay: float = Field(0.2, ge=0, le=600)


class Faults:
    """The active faults, and the number of calls by method and path."""

    def __init__(self, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.api: list[ApiFault] = []
        self.filters: list[FilterFault] = []
        self.webhooks: dict[str, WebhookFault] = {}
        self.calls: Counter[str] = Counter()

    def filters_of(self, plural: str, fault_type: Literal["refuse", "ignore"]) -> set[str]:
        """The filters that a search refuses or ignores."""
        return {fault.filter for fault in self.filters if (fault.plural, fault.type) == (plural, fault_type)}

    def pick(self, vendor: str, path: str, query: str) -> list[ApiFault]:
        """The faults that hit this call."""
        hits = []
        for fault in list(self.api):
            matches = fault.vendor == vendor and fault.path in path and fault.query in query
            if matches and self.random.random() < fault.probability:
                hits.append(fault)
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.api.remove(fault)
        return hits


class FaultMiddleware:
    """Counts every call of a vendor's API and injects the active faults."""

    def __init__(self, app: ASGIApp, faults: Faults, limiter: RateLimiter) -> None:
        self.app = app
        self.faults = faults
        self.limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, with the faults that apply."""
        vendor = str(scope.get("path", "")).strip("/").split("/")[0]
        if scope["type"] != "http" or vendor not in {"xero", "copper"}:
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        caller = (headers.get(b"xero-tenant-id", b"") or headers.get(b"x-pw-accesstoken", b"")).decode("latin-1")
        self.limiter.start_call(caller.lower())
        try:
            await self._inject(vendor, scope, receive, send)
        finally:
            self.limiter.end_call(caller.lower())

    async def _inject(self, vendor: str, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.faults.calls[f"{scope['method']} {path}"] += 1
        for fault in self.faults.pick(vendor, path, scope["query_string"].decode("latin-1")):
            if fault.type in {"latency", "hang"}:
                await asyncio.sleep(fault.seconds or (HANG_SECONDS if fault.type == "hang" else 0))
            elif fault.type == "status":
                headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
                body = {"success": False, "status": fault.status, "message": "fault injected by the sandbox"}
                await JSONResponse(body, fault.status, headers)(scope, receive, send)
                return
            else:
                await _drop_connection(send)
                return
        await self.app(scope, receive, send)


async def _drop_connection(send: Send) -> None:
    """Send fewer bytes than announced, so that the server closes the connection in the middle of the response."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"100000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"Invoices": [', "more_body": True})
    await asyncio.sleep(0.01)
    raise ConnectionResetError("fault injected by the sandbox: the connection is dropped")
