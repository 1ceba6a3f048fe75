"""The web process's server: uvicorn with bounded heads, logging as the rest does, stopping without a wait."""

from __future__ import annotations

import logging
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from typing_extensions import override

from web.http_protocol import BoundedProtocol

# What its senders decide how often it happens; each is counted and sampled as a refusal.
NOTED_OTHERWISE = (
    "Invalid HTTP request received.",
    "Unsupported upgrade request.",
    "No supported WebSocket library detected.",
)


class Server(uvicorn.Server):
    """Serves the app. Without the early end, stopping would wait for the held requests' twenty seconds.

    What uvicorn logs goes the way of all other lines, through structlog and its scrubbing: it brings no handlers of
    its own. Addresses of clients are the app's to find out, so it looks at no proxy's headers.
    """

    def __init__(self, app: FastAPI, **options: Any) -> None:
        chosen = {"http": BoundedProtocol, "ws": "none", "log_config": None, "proxy_headers": False, **options}
        super().__init__(uvicorn.Config(app, **chosen))
        self._app = app
        logging.getLogger("uvicorn.error").addFilter(_is_ours_to_log)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.record_views.close()
        await super().shutdown(sockets)


def _is_ours_to_log(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOTED_OTHERWISE)
