"""Patina's web process with two more endpoints: an empty one, and the read as one writes it first."""

from __future__ import annotations

import sys

from fastapi import Response

from bench import plain
from web.app import create
from web.server import Server


async def empty() -> Response:
    """Nothing: what the app and its server cost."""
    return Response(b"{}", media_type="application/json")


def main() -> None:
    """Serve on a port of this machine."""
    app = create()
    app.add_api_route("/empty", empty, include_in_schema=False)
    # Where it is found as quickly as a read is: the order of routes is not what is measured.
    app.router.routes.insert(0, app.router.routes.pop())
    app.include_router(plain.router)
    options = {"log_level": "warning", "access_log": False, "server_header": False, "timeout_keep_alive": 30}
    Server(app, host="127.0.0.1", port=int(sys.argv[1]), **options).run()


if __name__ == "__main__":
    main()
