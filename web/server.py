"""The server of the web process: uvicorn with limits for request heads, structured logs and a fast shutdown."""

from __future__ import annotations

import logging
import resource
import socket
import sys
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from typing_extensions import override

from runtime.settings import settings
from web.middleware.http_protocol import LimitedHttpProtocol
from web.state import WebState

log = structlog.get_logger()
# Clients can cause these messages at any rate. Each one is counted and sampled as a refusal instead.
SUPPRESSED_MESSAGES = (
    "Invalid HTTP request received.",
    "Unsupported upgrade request.",
    "No supported WebSocket library detected.",
)
# In each iteration the event loop accepts one connection per listening socket. Several sockets of the same queue let it
# accept several, so that in a burst of connections the last one does not wait for as many iterations.
LISTENING_SOCKETS = 16
# How long a busy thread may keep the event loop waiting for the GIL.
SWITCH_SECONDS = 0.0005
# Open files other than client connections: database, Redis, logs, code.
OTHER_FILES = 200


class Server(uvicorn.Server):
    """Serves the app.

    Its shutdown ends held and delayed requests first, because uvicorn waits for open requests, and these may last for
    20 seconds. uvicorn's messages go through structlog and its scrubbing, because it gets no log handlers of its own.
    It ignores proxy headers, because `web.middleware.client_address` evaluates them.
    """

    def __init__(self, app: FastAPI, **options: Any) -> None:
        config = {"http": LimitedHttpProtocol, "ws": "none", "log_config": None, "proxy_headers": False, **options}
        super().__init__(uvicorn.Config(app, **config))
        self._app = app
        logging.getLogger("uvicorn.error").addFilter(_is_logged)

    @override
    def run(self, sockets: list[socket.socket] | None = None) -> None:
        if sockets is None:
            listener = self.config.bind_socket()
            sockets = [listener, *(listener.dup() for _ in range(LISTENING_SOCKETS - 1))]
        sys.setswitchinterval(SWITCH_SECONDS)
        raise_file_limit(settings().web_max_connections + OTHER_FILES)
        super().run(sockets)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        state: WebState = self._app.state.web
        state.record_views.close()
        state.capacity.tarpit.close()
        await super().shutdown(sockets)


def raise_file_limit(count: int) -> None:
    """Raise the soft limit of open files, of which each connection is one, to `count` or to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < count:
        log.warning("server.file_limit_low", allowed=allowed, needed=count)


def _is_logged(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(SUPPRESSED_MESSAGES)
