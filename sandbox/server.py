"""One server for both vendors: `/xero/…`, `/copper/…`, and `/control/…` for whoever plays the user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.actions import Actions
from sandbox.control import Control
from sandbox.copper_api import COMPUTED, PAGING, CopperApi, CopperOAuth
from sandbox.copper_app import CopperApp
from sandbox.delivery import Delivery
from sandbox.faults import FaultMiddleware, Faults
from sandbox.generate import Generator
from sandbox.limits import Limits, Meter
from sandbox.query import BadQueryError, bad_query
from sandbox.world import Clock, World, load, save
from sandbox.xero_api import XeroApi, not_played
from sandbox.xero_oauth import XeroOAuth

COPPER = "/copper/developer_api/v1"
SAVE_SECONDS = 1.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LISTS = ("pipelines", "pipeline_stages", "contact_types", "custom_field_definitions")
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def environment(base: str) -> dict[str, str]:
    """The settings with which a client of Xero and Copper speaks to the sandbox at `base`.

    Any account of the sandbox may connect without a set-up code: there is nobody here to keep out.
    """
    return {
        "XERO_LOGIN_URL": f"{base}/xero",
        "XERO_IDENTITY_URL": f"{base}/xero",
        "XERO_API_URL": f"{base}/xero",
        "XERO_CLIENT_ID": World().app.client_id,
        "XERO_CLIENT_SECRET": World().app.client_secret,
        "XERO_WEBHOOK_KEYS": World().app.webhook_key,
        "COPPER_API_URL": f"{base}{COPPER}",
        "COPPER_LOGIN_URL": f"{base}/copper",
        "COPPER_CLIENT_ID": "sandbox-copper-client",
        "COPPER_CLIENT_SECRET": "sandbox-copper-secret",
        "COPPER_ACCOUNTS": "*",
    }


def _xero_routes(oauth: XeroOAuth, api: XeroApi) -> list[Route]:
    books = "/xero/api.xro/2.0"
    return [
        Route("/xero/identity/connect/authorize", oauth.authorise, methods=["GET"]),
        Route("/xero/identity/connect/authorize", oauth.decide, methods=["POST"]),
        Route("/xero/connect/token", oauth.token, methods=["POST"]),
        Route("/xero/connect/revocation", oauth.revoke, methods=["POST"]),
        Route("/xero/.well-known/openid-configuration", oauth.discovery, methods=["GET"]),
        Route("/xero/.well-known/openid-configuration/jwks", oauth.key_set, methods=["GET"]),
        Route("/xero/connect/userinfo", oauth.user_info, methods=["GET", "POST"]),
        Route("/xero/connections", oauth.connections, methods=["GET"]),
        Route("/xero/connections/{id}", oauth.disconnect, methods=["DELETE"]),
        Route(f"{books}/Invoices", api.endpoint(api.invoices, "invoices")),
        Route(f"{books}/Invoices/{{id}}", api.endpoint(api.invoice, "invoices")),
        Route(f"{books}/Invoices/{{id}}/History", api.endpoint(api.history, "invoices")),
        Route(f"{books}/Contacts", api.endpoint(api.contacts, "contacts")),
        Route(f"{books}/Contacts/{{id}}", api.endpoint(api.contact, "contacts")),
        Route(f"{books}/Organisation", api.endpoint(api.organisation, "settings")),
        Route("/xero/{path:path}", not_played, methods=METHODS),
    ]


def _copper_routes(api: CopperApi, oauth: CopperOAuth) -> list[Route]:
    route, serve = Route, api.endpoint
    return [
        route("/copper/oauth/authorize", oauth.authorise),
        route("/copper/oauth/token", oauth.token, methods=["POST"]),
        route(f"{COPPER}/account", serve(api.account)),
        route(f"{COPPER}/users/me", serve(api.me)),
        route(f"{COPPER}/users/search", serve(api.users, *PAGING), methods=["POST"]),
        route(f"{COPPER}/users/{{id:int}}", serve(api.user)),
        route(f"{COPPER}/webhooks", serve(api.subscriptions), methods=["GET"]),
        route(f"{COPPER}/webhooks", serve(api.subscribe), methods=["POST"]),
        route(f"{COPPER}/webhooks/{{id:int}}", serve(api.subscription), methods=["GET", "PUT", "DELETE"]),
        route(f"{COPPER}/people/fetch_by_email", serve(api.by_email), methods=["POST"]),
        *[route(f"{COPPER}/{name}", serve(api.listing), methods=["GET"]) for name in LISTS],
        route(f"{COPPER}/{{plural}}/search", serve(api.search, *PAGING, COMPUTED), methods=["POST"]),
        route(f"{COPPER}/{{plural}}/{{id:int}}", serve(api.record, COMPUTED), methods=["GET"]),
        route(f"{COPPER}/{{plural}}/{{id:int}}/related", serve(api.related), methods=["GET"]),
        route(f"{COPPER}/{{plural}}/{{id:int}}/related/{{of}}", serve(api.related), methods=["GET"]),
        route(f"{COPPER}/{{path:path}}", serve(api.not_played), methods=METHODS),
    ]


def create(world: World, *, state: Path | None = None, limits: Limits | None = None) -> Starlette:
    """The sandbox as an ASGI app; with `state`, the world is kept in that file."""
    faults, meter = Faults(), Meter(limits or Limits(), world.clock)
    delivery = Delivery(world, faults)
    oauth = XeroOAuth(world)
    copper = CopperApi(world, meter, faults)
    control = Control(world, Actions(world, delivery, copper), delivery, faults, meter)

    async def root(_: Request) -> Response:
        return JSONResponse({"sandbox": "Xero and Copper", "control": "/control/state"})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        saving = asyncio.create_task(_keep(world, state)) if state else None
        yield
        if saving and state:
            saving.cancel()
            save(world, state)
        await delivery.close()

    return Starlette(
        routes=[
            Route("/", root),
            *_xero_routes(oauth, XeroApi(world, oauth, meter)),
            *_copper_routes(copper, CopperOAuth(world)),
            *CopperApp(world).routes(),
            *control.routes(),
        ],
        middleware=[
            Middleware(OwnPagesOnly),
            Middleware(VendorDate, clock=world.clock),
            Middleware(FaultMiddleware, faults=faults, meter=meter),
            Middleware(GZipMiddleware, minimum_size=500, compresslevel=3),
            Middleware(XeroPaths),
        ],
        exception_handlers={BadQueryError: _bad_query},
        lifespan=lifespan,
    )


async def _bad_query(_: Request, error: Exception) -> Response:
    assert isinstance(error, BadQueryError)
    return bad_query(error)


class XeroPaths:
    """Xero's paths in any case, with a slash at the end, in the singular or the plural."""

    SEGMENTS = {
        "api.xro": "api.xro",
        "invoice": "Invoices",
        "invoices": "Invoices",
        "contact": "Contacts",
        "contacts": "Contacts",
        "organisation": "Organisation",
        "organisations": "Organisation",
        "history": "History",
        "connection": "connections",
        "connections": "connections",
    }
    # "/xero/api.xro/2.0/Invoices/{id}/History": the segment of an id stays as it is.
    ID_AT = {"api.xro": 5, "connections": 3}

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request under the path as the sandbox writes it."""
        if scope["type"] == "http" and scope["path"].startswith("/xero/"):
            scope = {**scope, "path": self.canonical(scope["path"])}
        await self.app(scope, receive, send)

    def canonical(self, path: str) -> str:
        """The path as the sandbox's routes write it."""
        segments = path.rstrip("/").split("/")
        root = self.SEGMENTS.get(segments[2].lower(), "") if len(segments) > 2 else ""
        if not root:
            return "/".join(segments)
        kept = self.ID_AT[root]
        return "/".join(
            segment if place == kept else self.SEGMENTS.get(segment.lower(), segment)
            for place, segment in enumerate(segments)
        )


def _host_name(host: str) -> str | None:
    """The name or address in a `Host` header, without its port; None where it is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _refusal(scope: Scope) -> tuple[int, str] | None:
    """Status and reason where a request to `/control` may come from another site's page in somebody's browser.

    Browsers name the page that sends (`Origin`, `Sec-Fetch-Site`), send JSON to another site only once that agreed,
    and keep a name that leads here by trickery in `Host`.
    """
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get(b"host", "")
    served = (scope.get("server") or ("", None))[0]
    if _host_name(host) not in {*LOOPBACK, served}:
        return 403, f"{host[:100]!r} is not this machine"
    origin = headers.get(b"origin")
    if origin is not None and origin.partition("://")[2] != host:
        return 403, "another site's page may not control the sandbox"
    if scope["method"] in {"GET", "HEAD"}:
        return None
    if headers.get(b"sec-fetch-site", "none") not in {"none", "same-origin"}:
        return 403, "another site's page may not control the sandbox"
    has_body = headers.get(b"content-length", "0") != "0" or b"transfer-encoding" in headers
    if has_body and headers.get(b"content-type", "").partition(";")[0].strip().lower() != "application/json":
        return 415, "send JSON, as Content-Type: application/json"
    return None


class OwnPagesOnly:
    """Keeps the pages of other sites away from `/control`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"].startswith("/control"):
            refused = _refusal(scope)
            if refused is not None:
                status, reason = refused
                await JSONResponse({"error": reason}, status)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class VendorDate:
    """The `Date` header by the sandbox's own clock, as clients of a vendor go by it."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self.app = app
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = format_datetime(self.clock.now(), usegmt=True).encode()
                message = {**message, "headers": [*message.get("headers", ()), (b"date", date)]}
            await send(message)

        await self.app(scope, receive, dated)


async def _keep(world: World, path: Path) -> None:
    while True:
        await asyncio.sleep(SAVE_SECONDS)
        save(world, path)


def prepare(seed: int, size: int, state: Path | None) -> World:
    """The saved world, or a generated one."""
    known = load(state) if state else None
    if known is not None:
        return known
    world = World()
    return Generator(world, seed, size).fill() if size else world


def serve(*, host: str, port: int, seed: int, size: int, state: Path | None, limits: bool) -> None:
    """Run the sandbox until Ctrl-C."""
    if state:
        state.parent.mkdir(parents=True, exist_ok=True)
    app = create(prepare(seed, size, state), state=state, limits=Limits(on=limits))
    uvicorn.run(
        app, host=host, port=port, log_level="warning", access_log=False, date_header=False, timeout_graceful_shutdown=2
    )
