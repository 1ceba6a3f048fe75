"""A real HTTP server between Patina and the sandbox that modifies the vendors' responses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runtime.settings import override_settings
from sandbox import server
from tests.support.serving import serving

Change = Callable[[Any], Any]
LITERAL = re.compile(r'"<literal>(.*?)</literal>"')
DROPPED_HEADERS = {"content-length", "content-encoding", "transfer-encoding", "connection", "server"}


def literal(text: str) -> str:
    """A value that appears in the JSON exactly as given, such as `1e400`."""
    return f"<literal>{text}</literal>"


class VendorProxy:
    """Forwards requests to the sandbox and modifies the JSON of its responses."""

    def __init__(self, sandbox: str) -> None:
        self.sandbox = sandbox
        self.changes: list[tuple[str, Change]] = []
        self.has_clock = True

    def change(self, path: str, change: Change) -> None:
        """Modify every response whose path contains `path`; if `change` returns bytes, they are sent unchanged."""
        self.changes.append((path, change))

    def change_rows(self, path: str, **fields: Any) -> None:
        """Set fields of every row; `...` removes a field."""

        def changed(payload: Any) -> Any:
            for row in _rows(payload):
                for name, value in fields.items():
                    row.pop(name, None) if value is ... else row.update({name: value})
            return payload

        self.change(path, changed)

    def reset(self) -> None:
        """Stop modifying responses."""
        self.changes.clear()
        self.has_clock = True

    async def forward(self, request: Request) -> Response:
        """Forward a request to the sandbox, and return its response, modified."""
        url = f"{self.sandbox}{request.url.path}" + (f"?{request.url.query}" if request.url.query else "")
        headers = {name: value for name, value in request.headers.items() if name not in {"host", "accept-encoding"}}
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            response = await client.request(request.method, url, headers=headers, content=await request.body())
        body = response.content
        for path, change in self.changes:
            if path in request.url.path and response.status_code == 200:
                body = _encode(change(json.loads(body)))
        response_headers = {name: value for name, value in response.headers.items() if name not in DROPPED_HEADERS}
        if not self.has_clock:
            response_headers.pop("date", None)
        return Response(body, response.status_code, response_headers)


def _rows(payload: Any) -> list[Any]:
    if isinstance(payload, list):
        return payload
    lists = [value for value in payload.values() if isinstance(value, list)]
    return lists[0] if lists and "id" not in payload else [payload]


def _encode(payload: Any) -> bytes:
    if isinstance(payload, bytes):
        return payload
    return LITERAL.sub(lambda match: match[1], json.dumps(payload)).encode()


@contextmanager
def vendor_proxy(sandbox: str) -> Iterator[VendorProxy]:
    """Make Patina call the vendors through a `VendorProxy`, until the block ends."""
    vendor = VendorProxy(sandbox)
    methods = ["GET", "POST", "PUT", "DELETE"]
    with serving(Starlette(routes=[Route("/{path:path}", vendor.forward, methods=methods)])) as url:
        environment = server.environment(url)
        override_settings({name: environment[name] for name in ("XERO_API_URL", "XERO_IDENTITY_URL", "COPPER_API_URL")})
        yield vendor
