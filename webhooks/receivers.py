"""`POST /webhooks/xero` and `POST /webhooks/copper/{token}`.

The rules are the vendors': an empty body, no cookie, an answer well within Xero's five seconds. Every
event is committed before the answer; workers are woken after it, so Redis is never waited for.
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

from runtime import tracing
from runtime.settings import settings
from store import inbox
from store.database import UNAVAILABLE, Pool, using
from store.inbox import NOBODY, Accepted, MalformedEvent
from store.secrets import digest, unseal
from webhooks import signature
from webhooks.intake import Intake
from webhooks.payloads import Notification, Origin, Secret, parse_json, read_delivery, read_notification
from webhooks.quotas import DroppedCounts, NotificationQuota, Reason, reason_of
from worker import instruments, jobs
from worker.copper.subscriptions import SECRET_KEY

log = structlog.get_logger()
OK, NOT_YOURS = Response(status_code=200), Response(status_code=401)
TRY_AGAIN = Response(status_code=503, headers={"Retry-After": "5"})
POST_ONLY = Response(status_code=405, headers={"Allow": "POST"})
MAX_LOGGED = 5
# A counter that appears with its first event has not risen in Prometheus' eyes: each begins at zero.
for _source in ("xero", "copper"):
    for _outcome in instruments.OUTCOMES:
        instruments.EVENTS.labels(_source, _outcome)


def _correlation() -> str:
    """The id that every line of this delivery's way carries; no secret, so the quick dice do."""
    return tracing.here() or f"{random.getrandbits(64):016x}"


@dataclass(frozen=True)
class Receiving:
    """What the receivers of one web process share."""

    intake: Intake
    quota: NotificationQuota
    dropped: DroppedCounts


def receiving(pool: Pool) -> Receiving:
    """What commits the deliveries of one web process, and counts what is not kept of them."""
    dropped = DroppedCounts()
    intake = Intake(pool, jobs.wake_source, lambda done: _count("xero", done, dropped))
    return Receiving(intake, NotificationQuota(pool), dropped)


def _count(source: str, done: Accepted, dropped: DroppedCounts) -> None:
    dropped.add(NOBODY, source, Reason.NO_ORGANISATION, done.ignored)
    dropped.add_malformed(done.dropped)
    for outcome, number in zip(instruments.OUTCOMES, done.outcomes, strict=True):
        instruments.EVENTS.labels(source, outcome).inc(number)


async def xero(request: Request) -> Response:
    """Xero's events: 200 for a right signature, 401 for a wrong one, 503 when they cannot be kept."""
    body = await request.body()
    signatures = request.headers.getlist("x-xero-signature")
    if len(signatures) != 1 or not signature.xero(body, signatures[0], settings().xero_webhook_keys):
        return NOT_YOURS
    origin = Origin(body, _correlation())
    try:
        return await _accept_xero(request, origin)
    except UNAVAILABLE as error:
        log.error("webhook.not_kept", source="xero", error=type(error).__name__, correlation=origin.correlation)
        return TRY_AGAIN


async def _accept_xero(request: Request, origin: Origin) -> Response:
    delivery = read_delivery(origin)
    if delivery.events or delivery.malformed:
        await request.app.state.receiving.intake.accept(delivery)
        _tell("xero", origin, len(delivery.events), delivery.malformed)
    return OK


async def copper(request: Request) -> Response:
    """An account's Copper notifications: the path is unguessable, and the body carries the secret.

    A wrong path and a wrong secret look the same from outside.
    """
    token = digest(request.path_params["token"])
    origin = Origin(await request.body(), _correlation())
    try:
        found = await using(request.app.state.pool, lambda connection: inbox.copper_credential(connection, token))
        if found is None:
            return NOT_YOURS
        return await _accept_copper(request, found, origin)
    except UNAVAILABLE as error:
        log.error("webhook.not_kept", source="copper", error=type(error).__name__, correlation=origin.correlation)
        return TRY_AGAIN


async def _accept_copper(request: Request, found: tuple[int, bytes], origin: Origin) -> Response:
    account_id, sealed = found
    try:
        payload = parse_json(origin.body)
    except ValueError:
        return NOT_YOURS
    if not isinstance(payload, dict):
        return NOT_YOURS
    secret = Secret(SECRET_KEY, unseal(sealed)["webhook_secret"])
    if not signature.copper(payload.pop(SECRET_KEY, None), secret.value):
        return NOT_YOURS
    receiving: Receiving = request.app.state.receiving
    notification = read_notification(payload, account_id, origin, secret)
    if notification.ignored_type:
        _count_ignored(receiving, account_id, notification)
    elif notification.size:
        await _keep(request, account_id, notification, origin)
    return OK


def _count_ignored(receiving: Receiving, account_id: int, notification: Notification) -> None:
    receiving.dropped.add(account_id, "copper", reason_of(notification.ignored_type), notification.ignored)
    instruments.EVENTS.labels("copper", "ignored").inc(notification.ignored)


async def _keep(request: Request, account_id: int, notification: Notification, origin: Origin) -> None:
    """Commit a notification; beyond what the account may have kept, commit that everything is to be fetched."""
    receiving: Receiving = request.app.state.receiving
    if not await receiving.quota.admit(account_id, notification, origin.correlation):
        receiving.dropped.add(account_id, "copper", Reason.OVER_LIMIT, notification.size)
        return
    events, malformed = notification.events, notification.malformed
    pool = request.app.state.pool
    done = await using(pool, lambda connection: inbox.accept_copper(connection, account_id, events, malformed))
    _count("copper", done, receiving.dropped)
    _tell("copper", origin, len(events), malformed, account=account_id)
    receiving.intake.wake(done.sources)


def _tell(source: str, origin: Origin, events: int, malformed: Sequence[MalformedEvent], **account: int) -> None:
    """Log what became of a request; of what could not be read where that is, never what it said."""
    about = {"source": source, **account, "correlation": origin.correlation}
    if events:
        log.info("webhook.accepted", events=events, **about)
    if malformed:
        problems = [each.error for each in malformed[:MAX_LOGGED]]
        log.error("webhook.malformed", malformed=len(malformed), bytes=len(origin.body), problems=problems, **about)


class Receiver(Route):
    """A plain route, as nothing of a webhook is for the API's description; metrics and traces know it by its path.

    A slash at the end of the path changes nothing: a vendor follows no redirect. Other methods get an empty answer.
    """

    def __init__(self, path: str, answer: Callable[[Request], Awaitable[Response]]) -> None:
        super().__init__(path, answer)
        self.methods = None
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + "/*$")
        self.app = self._answer

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return match, {**child, "route": self} if child else child

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self.endpoint(Request(scope, receive)) if scope["method"] == "POST" else POST_ONLY
        await answer(scope, receive, send)


routes = [
    Receiver("/webhooks/xero", xero),
    Receiver("/webhooks/copper/{token}", copper),
]
