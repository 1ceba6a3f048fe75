"""Running ASGI apps in a thread of the test process, over real HTTP."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from typing_extensions import override

from web.server import Server

MAX_POLL_INTERVAL = 0.2


def listener() -> socket.socket:
    """A socket that listens on a free port."""
    return socket.create_server(("127.0.0.1", 0), backlog=2048)


def url_of(listening: socket.socket) -> str:
    """The URL of a server on this socket."""
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


class PromptServer(uvicorn.Server):
    """A server that stops when it is told to, and not when it looks next whether it should."""

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await super().startup(sockets)

    @override
    async def main_loop(self) -> None:
        await self._stop.wait()

    def stop(self) -> None:
        """Stop serving; from another thread."""
        self._loop.call_soon_threadsafe(self._stop.set)


class PatinaServer(PromptServer, Server):
    """Patina's own server."""


@contextmanager
def serving(app: Any, listening: socket.socket | None = None) -> Iterator[str]:
    """Serve an app on a socket, by default a new one, until the block ends; yields its URL."""
    listening = listening or listener()
    options: dict[str, Any] = {
        "log_level": "error",
        "access_log": False,
        "date_header": False,
        "timeout_keep_alive": 30,
    }
    # No logging set-up of uvicorn's own: it would apply to every server of this process.
    options |= {"timeout_graceful_shutdown": 1, "log_config": None}
    is_patina = isinstance(app, FastAPI)
    server = PatinaServer(app, **options) if is_patina else PromptServer(uvicorn.Config(app, **options))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the server did not start")
        time.sleep(0.002)
    try:
        yield url_of(listening)
    finally:
        server.stop()
        if is_patina:
            # The next test serves the same app. No other server is used again, and its thread may end later.
            thread.join(10)


async def read_body(receive: Any) -> bytes:
    """The whole body of a request to an ASGI app."""
    body: bytes = b""
    while True:
        part = await receive()
        body += part.get("body", b"")
        if not part.get("more_body"):
            return body


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """A cached TLS context: loading the certificates for each client would take longer than a test's requests."""
    return ssl.create_default_context()


def http_client(base_url: str | httpx.URL, **options: Any) -> httpx.Client:
    """A client of a server on this machine, which ignores the proxy settings of the environment.

    It closes idle connections before the server does (after five seconds), because it could send a request just then.
    """
    limits = httpx.Limits(keepalive_expiry=2)
    return httpx.Client(base_url=base_url, timeout=30, trust_env=False, verify=_tls_context(), limits=limits, **options)


def responds(url: str) -> bool:
    """Whether a URL returns a 200."""
    try:
        return httpx.get(url, trust_env=False, timeout=2, verify=_tls_context()).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(condition: Any, *, seconds: float = 30, description: str = "the condition") -> None:
    """Poll a condition until it is true, with a growing interval; raises `AssertionError` after `seconds`."""
    started = time.monotonic()
    while not condition():
        elapsed = time.monotonic() - started
        if elapsed > seconds:
            raise AssertionError(f"{description} was not met within {seconds} s")
        time.sleep(min(0.01 + elapsed / 50, MAX_POLL_INTERVAL))
