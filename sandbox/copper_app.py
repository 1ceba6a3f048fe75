"""Copper's own pages, as far as an embedded app sees them: records to choose, and the app in a frame beside them.

The page plays the parent's side of the App SDK's messages (copper-sdk 0.9.1).
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sandbox.copper_api import record_json
from sandbox.world import RECORD_TYPES, World

HERE = Path(__file__).resolve().parent / "pages"
BASE = "/copper/companies/{account:int}"
SCRIPT = "/copper/copper_app.js"


class CopperApp:
    """The pages of the sandbox's Copper accounts; whoever opens them is the account's first user."""

    def __init__(self, world: World) -> None:
        self.world = world

    def routes(self) -> list[Route]:
        """What it serves."""
        return [
            Route(f"{BASE}/app", self.page),
            Route(f"{BASE}/records", self.records),
            Route(SCRIPT, self.script),
        ]

    async def page(self, _: Request) -> Response:
        """The page."""
        return HTMLResponse((HERE / "copper_app.html").read_text())

    async def script(self, _: Request) -> Response:
        """Its script."""
        return Response((HERE / "copper_app.js").read_text(), media_type="text/javascript")

    async def records(self, request: Request) -> Response:
        """What the page shows: the account's records, its user, and the address of the app that is installed."""
        account = self.world.accounts.get(request.path_params["account"])
        if account is None:
            return JSONResponse({"error": "no such account"}, 404)
        user = account.users[0]
        return JSONResponse(
            {
                "account": account.name,
                "app": account.app_url,
                "user": {"id": user.id, "name": user.name, "email": user.email},
                "records": {
                    kind: [record_json(one, account) for one in account.records[kind].values()] for kind in RECORD_TYPES
                },
            }
        )
