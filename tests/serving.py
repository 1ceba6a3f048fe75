"""Running ASGI apps in a thread of the test process, over real HTTP."""

from __future__ import annotations

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

from web.server import Server

MOST_BETWEEN_LOOKS = 0.2


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The app's address, served until the block ends."""
    options: dict[str, Any] = {"port": 0, "log_level": "error", "access_log": False, "date_header": False}
    # What uvicorn logs goes where all else does: its own set-up would hold for every server of this process.
    options |= {"timeout_graceful_shutdown": 1, "log_config": None}
    ours = isinstance(app, FastAPI)
    server = Server(app, **options) if ours else uvicorn.Server(uvicorn.Config(app, **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        if not thread.is_alive() or time.monotonic() > until:
            raise RuntimeError("the server did not start")
        time.sleep(0.002)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """Reading the certificates anew for each client costs a test more than all that it asks."""
    return ssl.create_default_context()


def http_client(base_url: str | httpx.URL, **options: Any) -> httpx.Client:
    """A client of a server on this machine, which no proxy of the environment stands before."""
    return httpx.Client(base_url=base_url, timeout=30, trust_env=False, verify=_trusted(), **options)


def answers(url: str) -> bool:
    """Whether an address answers with a 200."""
    try:
        return httpx.get(url, trust_env=False, timeout=2, verify=_trusted()).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(true: Any, *, seconds: float = 30, what: str = "the condition") -> None:
    """Wait for a condition, within a bound; the longer it lasts, the rarer the looks."""
    began = time.monotonic()
    while not true():
        waited = time.monotonic() - began
        if waited > seconds:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(min(0.01 + waited / 50, MOST_BETWEEN_LOOKS))
