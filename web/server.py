"""The web process's server: uvicorn, which first ends the requests that panels hold open when it is to stop."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from typing_extensions import override


class Server(uvicorn.Server):
    """Serves the app. Without the early end, stopping would wait for the held requests' twenty seconds."""

    def __init__(self, app: FastAPI, **options: Any) -> None:
        super().__init__(uvicorn.Config(app, **options))
        self._app = app

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.record_views.close()
        await super().shutdown(sockets)
