"""`POST /webhooks/xero` and `POST /webhooks/copper/{token}`.

The rules are the vendors': an empty body, no cookie, an answer well within Xero's five seconds. Every
event is committed before the answer; workers are woken after it, so Redis is never waited for.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable

import orjson
import structlog
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from runtime import tracing
from runtime.settings import settings
from store import inbox
from store.database import UNAVAILABLE, Pool, using
from store.inbox import NOBODY, Accepted, Delivery, NewEvent
from store.secrets import digest, unseal
from webhooks import signature
from webhooks.bodies import is_json
from webhooks.intake import Intake
from worker import instruments, jobs
from worker.copper.subscriptions import SECRET_KEY
from worker.copper.wire import WireNotification
from worker.xero.wire import WireDelivery, WireEvent

log = structlog.get_logger()
OK, NOT_YOURS, TRY_AGAIN = Response(status_code=200), Response(status_code=401), Response(status_code=503)
KEY_PARTS_JOINED_BY = "\x1f"


def _key(*parts: str) -> str:
    return hashlib.sha256(KEY_PARTS_JOINED_BY.join(parts).encode()).hexdigest()


def key_of_copper(whole: str, record_id: int) -> str:
    """The key of one id of a notification, whose body's SHA-256 is `whole`."""
    return _key("copper", whole, str(record_id))


def _xero_event(event: WireEvent, correlation: str) -> NewEvent:
    """The key is the change itself, so that a delivery sent twice is kept once."""
    occurred = event.occurred_at
    return NewEvent(
        correlation=correlation,
        tenant=event.tenant_id,
        kind=event.category,
        event=event.type,
        resource_id=event.resource_id.lower(),
        occurred_at=occurred,
        dedupe_key=_key("xero", event.tenant_id, event.category, event.type, event.resource_id, occurred.isoformat()),
    )


def xero_delivery(body: bytes, correlation: str = "") -> Delivery:
    """What a delivery of Xero's says; raises `ValueError` (pydantic's too) for what nobody can read."""
    told = WireDelivery.model_validate(parsed(body))
    events = [_xero_event(one, correlation) for one in told.events or ()]
    return Delivery(events, told.first_sequence or 0, told.last_sequence or 0)


def copper_events(notice: WireNotification, body: bytes, correlation: str = "") -> list[NewEvent]:
    """The events of a notification, one for each of its ids."""
    whole = hashlib.sha256(body).hexdigest()
    return [
        NewEvent(
            correlation=correlation,
            tenant="",
            kind=notice.type,
            event=notice.event,
            resource_id=str(one),
            occurred_at=None,
            dedupe_key=key_of_copper(whole, one),
        )
        for one in notice.ids
    ]


def parsed(body: bytes) -> object:
    """The body as JSON; raises `ValueError`. orjson bounds nesting and refuses NaN and bad UTF-8."""
    found: object = orjson.loads(body)
    return found


def _correlation() -> str:
    """The id that every line of this delivery's way carries; no secret, so the quick dice do."""
    return tracing.here() or f"{random.getrandbits(64):016x}"


def intake(pool: Pool) -> Intake:
    """What commits the deliveries of one web process."""
    return Intake(pool, jobs.wake_source, lambda done: _count("xero", done))


def _count(source: str, done: Accepted) -> None:
    for outcome, number in (("kept", done.kept), ("ignored", done.ignored), ("repeated", done.repeated)):
        instruments.EVENTS.labels(source, outcome).inc(number)


async def xero(request: Request) -> Response:
    """Xero's events: 200 for a right signature, 401 for a wrong one, 503 when they cannot be kept."""
    body = await request.body()
    if not signature.xero(body, request.headers.get("x-xero-signature", ""), settings().xero_webhook_keys):
        return NOT_YOURS
    correlation = _correlation()
    try:
        return await _accept_xero(request, body, correlation)
    except UNAVAILABLE as error:
        log.error("webhook.not_kept", source="xero", error=type(error).__name__, correlation=correlation)
        return TRY_AGAIN


async def _accept_xero(request: Request, body: bytes, correlation: str) -> Response:
    try:
        if not is_json(request):
            raise ValueError("the content type is not application/json")
        delivery = xero_delivery(body, correlation)
    except ValueError as error:
        await _keep_malformed(request, NOBODY, "xero", body, error, correlation)
        return OK
    if delivery.events:
        await request.app.state.intake.accept(delivery)
        log.info("webhook.accepted", source="xero", events=len(delivery.events), correlation=correlation)
    return OK


async def copper(request: Request) -> Response:
    """An account's Copper notifications: the path is unguessable, and the body carries the secret.

    A wrong path and a wrong secret look the same from outside.
    """
    body, token = await request.body(), digest(request.path_params["token"])
    correlation = _correlation()
    try:
        found = await using(request.app.state.pool, lambda connection: inbox.copper_credential(connection, token))
        if found is None:
            return NOT_YOURS
        return await _accept_copper(request, found, body, correlation)
    except UNAVAILABLE as error:
        log.error("webhook.not_kept", source="copper", error=type(error).__name__, correlation=correlation)
        return TRY_AGAIN


async def _accept_copper(request: Request, found: tuple[int, bytes], body: bytes, correlation: str) -> Response:
    account_id, sealed = found
    try:
        raw = parsed(body) if is_json(request) else None
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        return NOT_YOURS
    if not signature.copper(raw.get(SECRET_KEY), unseal(sealed)["webhook_secret"]):
        return NOT_YOURS
    try:
        notice = WireNotification.model_validate(raw)
    except ValidationError as error:
        await _keep_malformed(request, account_id, "copper", body, error, correlation)
        return OK
    events = copper_events(notice, body, correlation)
    done = await using(request.app.state.pool, lambda connection: inbox.accept_copper(connection, account_id, events))
    _count("copper", done)
    log.info("webhook.accepted", source="copper", account=account_id, events=len(events), correlation=correlation)
    request.app.state.intake.wake(done.sources)
    return OK


async def _keep_malformed(
    request: Request, account_id: int, source: str, body: bytes, error: Exception, correlation: str
) -> None:
    """Keep what an authentic sender sent and nobody could read; the text says where, never what."""
    if isinstance(error, ValidationError):
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['type']}" for one in error.errors()[:5])
    else:
        said = "not JSON, or not sent as JSON"
    instruments.EVENTS.labels(source, "malformed").inc()
    about = {"source": source, "account": account_id, "bytes": len(body), "correlation": correlation}
    log.error("webhook.malformed", problem=said, **about)
    key = hashlib.sha256(body).digest()
    await using(
        request.app.state.pool,
        lambda connection: inbox.keep_malformed(connection, account_id, source, key, body, said, correlation),
    )


class Receiver(Route):
    """A plain route, as nothing of a webhook is for the API's description; metrics and traces know it by its path."""

    def __init__(self, path: str, answer: Callable[[Request], Awaitable[Response]]) -> None:
        super().__init__(path, answer, methods=["POST"])
        self.app = self._answer

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return match, {**child, "route": self} if child else child

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self.endpoint(Request(scope, receive))
        await answer(scope, receive, send)


routes = [
    Receiver("/webhooks/xero", xero),
    Receiver("/webhooks/copper/{token}", copper),
]
