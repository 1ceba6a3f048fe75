"""One HTTP server for both vendors: `/xero/…`, `/copper/…`, and the control API under `/control/…`."""

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
from sandbox.copper_api import COMPUTED_VALUES, PAGING, CopperApi, CopperOAuth
from sandbox.copper_app import CopperApp
from sandbox.copper_changes import RecordChanges
from sandbox.copper_writes import CopperWrites
from sandbox.delivery import Delivery
from sandbox.faults import FaultMiddleware, Faults
from sandbox.generate import Generator
from sandbox.limits import Limits, RateLimiter
from sandbox.query import BadQueryError, bad_query
from sandbox.world import Clock, CreditResource, World, load, save
from sandbox.xero_api import XeroApi, not_supported
from sandbox.xero_oauth import XeroOAuth

COPPER = "/copper/developer_api/v1"
SAVE_SECONDS = 1.0
# Longer than a client pauses between two calls of one job: a call that meets a closing connection is sent twice.
KEEP_ALIVE_SECONDS = 30
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LISTINGS = ("pipelines", "pipeline_stages", "contact_types", "custom_field_definitions")
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def environment(base: str) -> dict[str, str]:
    """The settings that make a client of Xero and Copper use the sandbox at `base`.

    Any account of the sandbox may connect without a set-up code, because there is nothing to protect.
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


def _credit_routes(base: str, api: XeroApi) -> list[Route]:
    routes = []
    for resource in CreditResource:
        scope = "invoices" if resource is CreditResource.CREDIT_NOTES else "payments"
        routes += [
            Route(f"{base}/{resource.value}", api.endpoint(api.credits(resource), scope)),
            Route(f"{base}/{resource.value}/{{id}}", api.endpoint(api.credit(resource), scope)),
        ]
    return routes


def _xero_routes(oauth: XeroOAuth, api: XeroApi) -> list[Route]:
    accounting = "/xero/api.xro/2.0"
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
        Route(f"{accounting}/Invoices", api.endpoint(api.invoices, "invoices")),
        Route(f"{accounting}/Invoices/{{id}}", api.endpoint(api.invoice, "invoices")),
        Route(f"{accounting}/Invoices/{{id}}/History", api.endpoint(api.history, "invoices")),
        Route(f"{accounting}/Invoices/{{id}}/OnlineInvoice", api.endpoint(api.online_invoice, "invoices")),
        *_credit_routes(accounting, api),
        Route(f"{accounting}/Contacts", api.endpoint(api.contacts, "contacts")),
        Route(f"{accounting}/Contacts/{{id}}", api.endpoint(api.contact, "contacts")),
        Route(f"{accounting}/Organisation", api.endpoint(api.organisation, "settings")),
        Route("/xero/{path:path}", not_supported, methods=METHODS),
    ]


def _copper_routes(api: CopperApi, writes: CopperWrites, oauth: CopperOAuth) -> list[Route]:
    route, endpoint = Route, api.endpoint
    definitions = f"{COPPER}/custom_field_definitions"
    return [
        route("/copper/oauth/authorize", oauth.authorise),
        route("/copper/oauth/token", oauth.token, methods=["POST"]),
        route(f"{COPPER}/account", endpoint(api.account)),
        route(f"{COPPER}/users/me", endpoint(api.me)),
        route(f"{COPPER}/users/search", endpoint(api.users, *PAGING), methods=["POST"]),
        route(f"{COPPER}/users/{{id:int}}", endpoint(api.user)),
        route(f"{COPPER}/webhooks", endpoint(api.subscriptions), methods=["GET"]),
        route(f"{COPPER}/webhooks", endpoint(api.subscribe), methods=["POST"]),
        route(f"{COPPER}/webhooks/{{id:int}}", endpoint(api.subscription), methods=["GET", "PUT", "DELETE"]),
        route(f"{COPPER}/people/fetch_by_email", endpoint(api.by_email), methods=["POST"]),
        *[route(f"{COPPER}/{name}", endpoint(api.listing), methods=["GET"]) for name in LISTINGS],
        route(definitions, endpoint(writes.create_definition), methods=["POST"]),
        route(f"{definitions}/{{id:int}}", endpoint(writes.change_definition), methods=["PUT"]),
        route(f"{COPPER}/{{plural}}/bulk_update", endpoint(writes.bulk_update), methods=["POST"]),
        route(f"{COPPER}/{{plural}}/search", endpoint(api.search, *PAGING, COMPUTED_VALUES), methods=["POST"]),
        route(f"{COPPER}/{{plural}}/{{id:int}}", endpoint(api.record, COMPUTED_VALUES), methods=["GET"]),
        route(f"{COPPER}/{{plural}}/{{id:int}}", endpoint(writes.update), methods=["PUT"]),
        route(f"{COPPER}/{{plural}}/{{id:int}}/related", endpoint(api.related), methods=["GET"]),
        route(f"{COPPER}/{{plural}}/{{id:int}}/related/{{of}}", endpoint(api.related), methods=["GET"]),
        route(f"{COPPER}/{{path:path}}", endpoint(api.not_supported), methods=METHODS),
    ]


def create(world: World, *, state: Path | None = None, limits: Limits | None = None) -> Starlette:
    """The sandbox as an ASGI app; with `state`, its data is saved to that file."""
    faults, limiter = Faults(), RateLimiter(limits or Limits(), world.clock)
    delivery = Delivery(world, faults)
    oauth = XeroOAuth(world)
    changes = RecordChanges(world, delivery)
    copper = CopperApi(world, limiter, faults, changes)
    control = Control(world, Actions(world, delivery, changes), delivery, faults, limiter)

    async def root(_: Request) -> Response:
        return JSONResponse({"sandbox": "Xero and Copper", "control": "/control/state"})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        saving = asyncio.create_task(_save_periodically(world, state)) if state else None
        yield
        if saving and state:
            saving.cancel()
            save(world, state)
        await delivery.close()

    return Starlette(
        routes=[
            Route("/", root),
            *_xero_routes(oauth, XeroApi(world, oauth, limiter)),
            *_copper_routes(copper, CopperWrites(changes, limiter), CopperOAuth(world)),
            *CopperApp(world).routes(),
            *control.routes(),
        ],
        middleware=[
            Middleware(ControlAccessMiddleware),
            Middleware(DateMiddleware, clock=world.clock),
            Middleware(FaultMiddleware, faults=faults, limiter=limiter),
            Middleware(GZipMiddleware, minimum_size=500, compresslevel=3),
            Middleware(XeroPathMiddleware),
        ],
        exception_handlers={BadQueryError: _bad_query},
        lifespan=lifespan,
    )


async def _bad_query(_: Request, error: Exception) -> Response:
    assert isinstance(error, BadQueryError)
    return bad_query(error)


class XeroPathMiddleware:
    """Accepts Xero's paths in any case, with a trailing slash, in the singular or the plural."""

    SEGMENTS = {
        "api.xro": "api.xro",
        "invoice": "Invoices",
        "invoices": "Invoices",
        "creditnote": "CreditNotes",
        "creditnotes": "CreditNotes",
        "prepayment": "Prepayments",
        "prepayments": "Prepayments",
        "overpayment": "Overpayments",
        "overpayments": "Overpayments",
        "contact": "Contacts",
        "contacts": "Contacts",
        "organisation": "Organisation",
        "organisations": "Organisation",
        "history": "History",
        "onlineinvoice": "OnlineInvoice",
        "connection": "connections",
        "connections": "connections",
    }
    # The position of the id in "/xero/api.xro/2.0/Invoices/{id}/History": ids keep their case.
    ID_POSITIONS = {"api.xro": 5, "connections": 3}

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request under its canonical path."""
        if scope["type"] == "http" and scope["path"].startswith("/xero/"):
            scope = {**scope, "path": self.canonical(scope["path"])}
        await self.app(scope, receive, send)

    def canonical(self, path: str) -> str:
        """The path in the form that the sandbox's routes use."""
        segments = path.rstrip("/").split("/")
        root = self.SEGMENTS.get(segments[2].lower(), "") if len(segments) > 2 else ""
        if not root:
            return "/".join(segments)
        id_position = self.ID_POSITIONS[root]
        return "/".join(
            segment if position == id_position else self.SEGMENTS.get(segment.lower(), segment)
            for position, segment in enumerate(segments)
        )


def _host_name(host: str) -> str | None:
    """The name or address in a `Host` header without its port; None if it is invalid."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _refusal(scope: Scope) -> tuple[int, str] | None:
    """Status and reason if a request to `/control` may come from another site's page in a browser; None otherwise.

    Browsers name the sending page (`Origin`, `Sec-Fetch-Site`), send JSON to another site only after a successful
    preflight request, and reveal DNS rebinding in `Host`.
    """
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get(b"host", "")
    server_name = (scope.get("server") or ("", None))[0]
    if _host_name(host) not in {*LOOPBACK, server_name}:
        return 403, f"{host[:100]!r} is not a name of this machine"
    origin = headers.get(b"origin")
    if origin is not None and origin.partition("://")[2] != host:
        return 403, "pages of other sites may not control the sandbox"
    if scope["method"] in {"GET", "HEAD"}:
        return None
    if headers.get(b"sec-fetch-site", "none") not in {"none", "same-origin"}:
        return 403, "pages of other sites may not control the sandbox"
    has_body = headers.get(b"content-length", "0") != "0" or b"transfer-encoding" in headers
    if has_body and headers.get(b"content-type", "").partition(";")[0].strip().lower() != "application/json":
        return 415, "send JSON, as Content-Type: application/json"
    return None


class ControlAccessMiddleware:
    """Refuses requests to `/control` that come from pages of other sites."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"].startswith("/control"):
            refusal = _refusal(scope)
            if refusal is not None:
                status, reason = refusal
                await JSONResponse({"error": reason}, status)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class DateMiddleware:
    """Sets the `Date` header by the sandbox's clock, because clients rely on it."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self.app = app
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_with_date(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = format_datetime(self.clock.now(), usegmt=True).encode()
                message = {**message, "headers": [*message.get("headers", ()), (b"date", date)]}
            await send(message)

        await self.app(scope, receive, send_with_date)


async def _save_periodically(world: World, path: Path) -> None:
    while True:
        await asyncio.sleep(SAVE_SECONDS)
        save(world, path)


def prepare(seed: int, size: int, state: Path | None) -> World:
    """The saved world, or else a generated one."""
    saved = load(state) if state else None
    if saved is not None:
        return saved
    world = World()
    return Generator(world, seed, size).fill() if size else world


def serve(*, host: str, port: int, seed: int, size: int, state: Path | None, limits: bool) -> None:
    """Run the sandbox until Ctrl-C."""
    if state:
        state.parent.mkdir(parents=True, exist_ok=True)
    app = create(prepare(seed, size, state), state=state, limits=Limits(enabled=limits))
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=2,
    )
