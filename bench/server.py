"""Patina's web process with two baseline endpoints: an empty one, and a plain SQLModel read."""

from __future__ import annotations

import sys

from fastapi import Response

from bench import sqlmodel_baseline
from web.app import create
from web.server import Server


async def empty() -> Response:
    """An empty response: the cost of the app and its server."""
    return Response(b"{}", media_type="application/json")


def main() -> None:
    """Serve on a port of this machine."""
    app = create()
    app.add_api_route("/empty", empty, include_in_schema=False)
    # Moved to the front, so that it is matched as fast as a read.
    app.router.routes.insert(0, app.router.routes.pop())
    app.include_router(sqlmodel_baseline.router)
    options = {"log_level": "warning", "access_log": False, "server_header": False, "timeout_keep_alive": 30}
    Server(app, host="127.0.0.1", port=int(sys.argv[1]), **options).run()


if __name__ == "__main__":
    main()
