"""The web process's server: uvicorn with bounded heads, logging as the rest does, stopping without a wait."""

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
from web.http_protocol import BoundedProtocol

log = structlog.get_logger()
# What its senders decide how often it happens; each is counted and sampled as a refusal.
NOTED_OTHERWISE = (
    "Invalid HTTP request received.",
    "Unsupported upgrade request.",
    "No supported WebSocket library detected.",
)
# The event loop accepts one connection of each listening socket in a turn. Where many come at once, as many sockets of
# one queue are accepted from, or whoever comes next waits for as many turns as there are connections before it.
ACCEPTED_AT_ONCE = 16
# How long a thread that computes may keep the event loop, which serves everybody else, from going on.
SWITCH_SECONDS = 0.0005
# What has a file of its own beside the connections: the database's, Redis's, logs, code.
OTHER_FILES = 200


class Server(uvicorn.Server):
    """Serves the app. Without the early end, stopping would wait for the held requests' twenty seconds, and for pauses.

    What uvicorn logs goes the way of all other lines, through structlog and its scrubbing: it brings no handlers of
    its own. Addresses of clients are the app's to find out, so it looks at no proxy's headers.
    """

    def __init__(self, app: FastAPI, **options: Any) -> None:
        chosen = {"http": BoundedProtocol, "ws": "none", "log_config": None, "proxy_headers": False, **options}
        super().__init__(uvicorn.Config(app, **chosen))
        self._app = app
        logging.getLogger("uvicorn.error").addFilter(_is_ours_to_log)

    @override
    def run(self, sockets: list[socket.socket] | None = None) -> None:
        if sockets is None:
            bound = self.config.bind_socket()
            sockets = [bound, *(bound.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]
        sys.setswitchinterval(SWITCH_SECONDS)
        allow_files(settings().web_connections + OTHER_FILES)
        super().run(sockets)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.record_views.close()
        self._app.state.capacity.pauses.close()
        await super().shutdown(sockets)


def allow_files(count: int) -> None:
    """Let this process have so many open files, as each connection is one; as many as it may, if those are fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < count:
        log.warning("server.few_files", allowed=most, needed=count)


def _is_ours_to_log(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOTED_OTHERWISE)
