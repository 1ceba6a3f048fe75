"""`POST /webhooks/xero` and `POST /webhooks/copper/{token}`.

Both follow the vendors' rules: an empty body, no cookie, and a response well within Xero's five seconds. Every event is
committed before the response. Workers are woken after it, so no response waits for Redis.
"""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from runtime import metrics, tracing
from runtime.settings import settings
from store.db.crypto import decrypt, digest
from store.db.database import UNAVAILABLE_ERRORS, Pool, run_with_retry
from store.db.enums import INSTALLATION
from store.ingest import inbox
from store.ingest.inbox import CopperSender, IngestResult, MalformedEvent
from webhooks import signature
from webhooks.intake import Intake
from webhooks.payloads import (
    Notification,
    Origin,
    Secret,
    names_only_fields,
    parse_json,
    read_delivery,
    read_notification,
)
from webhooks.quotas import DropCounts, DropReason, NotificationQuota, drop_reason
from worker.jobs import actors
from worker.vendors.copper.subscriptions import SECRET_KEY

log = structlog.get_logger()
OK, UNAUTHORIZED = Response(status_code=200), Response(status_code=401)
SERVICE_UNAVAILABLE = Response(status_code=503, headers={"Retry-After": "5"})
METHOD_NOT_ALLOWED = Response(status_code=405, headers={"Allow": "POST"})
MAX_LOGGED_ERRORS = 5
# Prometheus sees no increase in a counter that appears with its first event, so each counter starts at zero.
for _vendor in ("xero", "copper"):
    for _outcome in metrics.EVENT_OUTCOMES:
        metrics.EVENTS_RECEIVED.labels(_vendor, _outcome)


def _correlation_id() -> str:
    """The correlation id of a delivery. It is not secret, so a fast PRNG is fine."""
    return tracing.current_traceparent() or f"{random.getrandbits(64):016x}"


@dataclass(frozen=True)
class WebhookIngest:
    """What the webhook endpoints of one web process share."""

    pool: Pool
    intake: Intake
    quota: NotificationQuota
    dropped: DropCounts


def create_ingest(pool: Pool) -> WebhookIngest:
    """Set up the webhook endpoints of one web process."""
    dropped = DropCounts()
    intake = Intake(pool, actors.enqueue_drain, lambda result: _count("xero", result, dropped))
    return WebhookIngest(pool, intake, NotificationQuota(pool), dropped)


def _ingest(request: Request) -> WebhookIngest:
    ingest: WebhookIngest = request.app.state.webhooks
    return ingest


def _count(vendor: str, result: IngestResult, dropped: DropCounts) -> None:
    dropped.add(INSTALLATION, vendor, DropReason.NO_ORGANISATION, result.ignored)
    dropped.add_malformed(result.dropped)
    for outcome, events in zip(metrics.EVENT_OUTCOMES, result.outcomes, strict=True):
        metrics.EVENTS_RECEIVED.labels(vendor, outcome).inc(events)


async def receive_xero(request: Request) -> Response:
    """Receive Xero's events: 200 for a valid signature, 401 for an invalid one, 503 if the events cannot be stored."""
    body = await request.body()
    signatures = request.headers.getlist("x-xero-signature")
    if len(signatures) != 1 or not signature.verify_xero(body, signatures[0], settings().xero_webhook_keys):
        return UNAUTHORIZED
    origin = Origin(body, _correlation_id())
    try:
        return await _accept_xero(request, origin)
    except UNAVAILABLE_ERRORS as error:
        _log_store_failed("xero", origin, error)
        return SERVICE_UNAVAILABLE


async def _accept_xero(request: Request, origin: Origin) -> Response:
    delivery = read_delivery(origin)
    if delivery.events or delivery.malformed:
        await _ingest(request).intake.accept(delivery)
        _log_accepted("xero", origin, len(delivery.events), delivery.malformed)
    return OK


async def receive_copper(request: Request) -> Response:
    """Receive an account's Copper notifications: the path is unguessable, and the body carries the secret.

    The response is the same for a wrong path and for a wrong secret.
    """
    token_digest = digest(request.path_params["token"])
    origin = Origin(await request.body(), _correlation_id())
    try:
        sender = await run_with_retry(
            _ingest(request).pool, lambda connection: inbox.copper_sender(connection, token_digest)
        )
        if sender is None:
            return UNAUTHORIZED
        return await _accept_copper(request, sender, origin)
    except UNAVAILABLE_ERRORS as error:
        _log_store_failed("copper", origin, error)
        return SERVICE_UNAVAILABLE


async def _accept_copper(request: Request, sender: CopperSender, origin: Origin) -> Response:
    account_id = sender.account_id
    try:
        payload = parse_json(origin.body)
    except ValueError:
        return UNAUTHORIZED
    if not isinstance(payload, dict):
        return UNAUTHORIZED
    secret = Secret(SECRET_KEY, decrypt(sender.encrypted_payload)["webhook_secret"])
    if not signature.verify_copper(payload.pop(SECRET_KEY, None), secret.value):
        return UNAUTHORIZED
    ingest = _ingest(request)
    notification = read_notification(payload, account_id, origin, secret)
    if notification.ignored_type:
        _count_ignored(ingest, account_id, notification, drop_reason(notification.ignored_type))
    elif names_only_fields(payload, sender.own_fields):
        # Patina's own write. What somebody changed in these fields by hand is corrected by the next reconciliation.
        _count_ignored(ingest, account_id, notification, DropReason.OWN_FIELDS)
    elif notification.size:
        await _store(ingest, account_id, notification, origin)
    return OK


def _count_ignored(ingest: WebhookIngest, account_id: int, notification: Notification, reason: DropReason) -> None:
    count = notification.ignored or notification.size
    ingest.dropped.add(account_id, "copper", reason, count)
    metrics.EVENTS_RECEIVED.labels("copper", "ignored").inc(count)


async def _store(ingest: WebhookIngest, account_id: int, notification: Notification, origin: Origin) -> None:
    """Commit a notification, or beyond the account's quota a run that fetches everything."""
    if not await ingest.quota.admit(account_id, notification, origin.correlation):
        ingest.dropped.add(account_id, "copper", DropReason.OVER_LIMIT, notification.size)
        return
    events, malformed = notification.events, notification.malformed
    result = await run_with_retry(
        ingest.pool, lambda connection: inbox.accept_copper(connection, account_id, events, malformed)
    )
    _count("copper", result, ingest.dropped)
    _log_accepted("copper", origin, len(events), malformed, account=account_id)
    ingest.intake.wake(result.sources)


def _log_accepted(
    vendor: str, origin: Origin, events: int, malformed: Sequence[MalformedEvent], **account: int
) -> None:
    """Log the result of a request. Of malformed events the errors are logged, never their contents."""
    fields = {"vendor": vendor, **account, "correlation": origin.correlation}
    if events:
        log.info("webhook.accepted", events=events, **fields)
    if malformed:
        errors = [event.error for event in malformed[:MAX_LOGGED_ERRORS]]
        log.error("webhook.malformed", malformed=len(malformed), bytes=len(origin.body), errors=errors, **fields)


def _log_store_failed(vendor: str, origin: Origin, error: Exception) -> None:
    log.error("webhook.store_failed", vendor=vendor, error=type(error).__name__, correlation=origin.correlation)


class WebhookRoute(Route):
    """A plain Starlette route, because webhooks are no part of the API's OpenAPI document.

    A slash at the end of the path makes no difference, because vendors do not follow redirects. Methods other than
    POST get an empty 405. Metrics and traces know the route by its path.
    """

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        super().__init__(path, endpoint)
        self.methods = None
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + "/*$")
        self.app = self._handle

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return match, {**child, "route": self} if child else child

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["method"] == "POST"
        response = await self.endpoint(Request(scope, receive)) if is_post else METHOD_NOT_ALLOWED
        await response(scope, receive, send)


routes = [
    WebhookRoute("/webhooks/xero", receive_xero),
    WebhookRoute("/webhooks/copper/{token}", receive_copper),
]
