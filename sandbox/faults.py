"""Faults on request: latency, errors, time-outs, half answers; and lost, doubled, reordered webhooks."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.limits import Meter

HANG_SECONDS = 60.0


class ApiFault(BaseModel):
    """A fault of the API calls whose path contains `path`, whose query contains `query` and whose body `body`.

    `strip` takes the field that `body` names out of a JSON body: the vendor ignores it.
    """

    vendor: Literal["xero", "copper"]
    kind: Literal["latency", "status", "hang", "drop", "strip"]
    path: str = ""
    query: str = ""
    body: str = ""
    seconds: float = Field(0, ge=0, le=600)
    status: int = 500
    retry_after: float | None = None
    share: float = Field(1.0, ge=0, le=1)
    times: int | None = Field(None, ge=1)


class WebhookFault(BaseModel):
    """Shares of a vendor's webhooks that are lost, sent twice, or held back up to `delay` seconds."""

    vendor: Literal["xero", "copper"]
    lose: float = Field(0, ge=0, le=1)
    double: float = Field(0, ge=0, le=1)
    reorder: float = Field(0, ge=0, le=1)
    delay: float = Field(0.2, ge=0, le=600)


class Faults:
    """The faults that are on now, and what was counted of calls."""

    def __init__(self, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.api: list[ApiFault] = []
        self.webhooks: dict[str, WebhookFault] = {}
        self.calls: Counter[str] = Counter()

    def pick(self, vendor: str, path: str, query: str, body: str = "") -> list[ApiFault]:
        """The faults that strike this call."""
        struck = []
        for fault in list(self.api):
            meant = fault.vendor == vendor and fault.path in path and fault.query in query and fault.body in body
            if meant and self.random.random() < fault.share:
                struck.append(fault)
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.api.remove(fault)
        return struck


class FaultMiddleware:
    """Counts every call of a vendor's API and lets faults strike it."""

    def __init__(self, app: ASGIApp, faults: Faults, meter: Meter) -> None:
        self.app = app
        self.faults = faults
        self.meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, with the faults that apply."""
        vendor = str(scope.get("path", "")).strip("/").split("/")[0]
        if scope["type"] != "http" or vendor not in {"xero", "copper"}:
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        caller = headers.get(b"xero-tenant-id", b"") or headers.get(b"x-pw-accesstoken", b"")
        name = caller.decode("latin-1").lower()
        self.meter.enter(name)
        try:
            await self._strike(vendor, scope, receive, send)
        finally:
            self.meter.leave(name)

    async def _strike(self, vendor: str, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.faults.calls[f"{scope['method']} {path}"] += 1
        body = b""
        if any(fault.body for fault in self.faults.api):
            body = await Request(scope, receive).body()
            receive = _again(body)
        for fault in self.faults.pick(vendor, path, scope["query_string"].decode("latin-1"), body.decode("latin-1")):
            if fault.kind in {"latency", "hang"}:
                await asyncio.sleep(fault.seconds or (HANG_SECONDS if fault.kind == "hang" else 0))
            elif fault.kind == "status":
                headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
                said = {"success": False, "status": fault.status, "message": "fault of the sandbox"}
                await JSONResponse(said, fault.status, headers)(scope, receive, send)
                return
            elif fault.kind == "strip":
                receive = _again(json.dumps({k: v for k, v in json.loads(body).items() if k != fault.body}).encode())
            else:
                await _half(send)
                return
        await self.app(scope, receive, send)


def _again(body: bytes) -> Receive:
    """Hand a body on that was read already."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _half(send: Send) -> None:
    """Promise more bytes than are sent: the server closes the connection under the caller."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"100000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"Invoices": [', "more_body": True})
    await asyncio.sleep(0.01)
    raise ConnectionResetError("fault of the sandbox: the connection is dropped")
