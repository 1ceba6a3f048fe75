"""A real HTTP server between Patina and the sandbox that changes what the vendors answer."""

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

from runtime.settings import override
from sandbox import server
from tests.serving import serving

Change = Callable[[Any], Any]
LITERAL = re.compile(r'"<literal>(.*?)</literal>"')
LEFT_OUT = {"content-length", "content-encoding", "transfer-encoding", "connection", "server"}


def literal(text: str) -> str:
    """A value that stands in the JSON exactly as given, such as `1e400`."""
    return f"<literal>{text}</literal>"


class OddVendor:
    """The sandbox, with changes to the JSON that it answers."""

    def __init__(self, sandbox: str) -> None:
        self.sandbox = sandbox
        self.changes: list[tuple[str, Change]] = []
        self.has_clock = True

    def change(self, path: str, change: Change) -> None:
        """From now on, change every answer whose path contains `path`; bytes are sent as they are."""
        self.changes.append((path, change))

    def change_rows(self, path: str, **fields: Any) -> None:
        """Set fields of every row; `...` leaves a field out."""

        def changed(answer: Any) -> Any:
            for row in _rows(answer):
                for name, value in fields.items():
                    row.pop(name, None) if value is ... else row.update({name: value})
            return answer

        self.change(path, changed)

    def behave(self) -> None:
        """Change nothing any more."""
        self.changes.clear()
        self.has_clock = True

    async def answer(self, request: Request) -> Response:
        """Ask the sandbox, and pass its answer on."""
        url = f"{self.sandbox}{request.url.path}" + (f"?{request.url.query}" if request.url.query else "")
        headers = {name: value for name, value in request.headers.items() if name not in {"host", "accept-encoding"}}
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            got = await client.request(request.method, url, headers=headers, content=await request.body())
        body = got.content
        for path, change in self.changes:
            if path in request.url.path and got.status_code == 200:
                body = _dumped(change(json.loads(body)))
        kept = {name: value for name, value in got.headers.items() if name not in LEFT_OUT}
        if not self.has_clock:
            kept.pop("date", None)
        return Response(body, got.status_code, kept)


def _rows(answer: Any) -> list[Any]:
    if isinstance(answer, list):
        return answer
    lists = [value for value in answer.values() if isinstance(value, list)]
    return lists[0] if lists and "id" not in answer else [answer]


def _dumped(answer: Any) -> bytes:
    if isinstance(answer, bytes):
        return answer
    return LITERAL.sub(lambda found: found[1], json.dumps(answer)).encode()


@contextmanager
def between(sandbox: str) -> Iterator[OddVendor]:
    """Have Patina ask the vendors through a server that can change their answers."""
    vendor = OddVendor(sandbox)
    methods = ["GET", "POST", "PUT", "DELETE"]
    with serving(Starlette(routes=[Route("/{path:path}", vendor.answer, methods=methods)])) as url:
        there = server.environment(url)
        override({name: there[name] for name in ("XERO_API_URL", "XERO_IDENTITY_URL", "COPPER_API_URL")})
        yield vendor
