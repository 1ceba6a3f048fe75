"""Webhook delivery as the vendors do it: Xero signs and retries, Copper sends each notification once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import ssl
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal
from uuid import UUID

import httpx
import orjson

from sandbox.custom_fields import computed_changes
from sandbox.faults import Faults, WebhookFault
from sandbox.world import CopperAccount, Subscription, World

BATCH_DELAY_SECONDS = 0.02
MAX_BATCH_EVENTS = 100
RESPONSE_TIMEOUT_SECONDS = 5.0
RETRY_DELAYS_SECONDS = (10, 30, 60, 300, 900, 1_800, 3_600)
GIVE_UP_SECONDS = 24 * 3_600
MAX_COPPER_IDS = 30
MAX_ACKNOWLEDGED_EVENTS = 100_000
# Copper sends at most this many notifications of an account within a window: (seconds, notifications).
COPPER_LIMITS = ((60, 600), (600, 1_800))

XeroCategory = Literal["INVOICE", "CONTACT", "CREDITNOTE", "PREPAYMENT"]
# The resource of each category of Xero's events.
XERO_RESOURCES: dict[XeroCategory, str] = {
    "INVOICE": "Invoices",
    "CONTACT": "Contacts",
    "CREDITNOTE": "CreditNotes",
    "PREPAYMENT": "Prepayments",
}


@dataclass
class DeliveryCounts:
    """Counts of webhook deliveries, for tests and monitoring."""

    xero_sent: int = 0
    xero_failed: int = 0
    xero_events: int = 0
    copper_sent: int = 0
    copper_failed: int = 0
    copper_rate_limited: int = 0
    lost: int = 0
    recent_responses: list[str] = field(default_factory=list)

    def record_response(self, text: str) -> None:
        """Keep the last 20 responses."""
        self.recent_responses = [*self.recent_responses[-19:], text]


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """The TLS context, created only once: each test creates a sandbox of its own."""
    return ssl.create_default_context()


class Delivery:
    """Sends both vendors' webhooks, until each is delivered or abandoned."""

    def __init__(self, world: World, faults: Faults) -> None:
        self.world = world
        self.faults = faults
        self.counts = DeliveryCounts()
        self.acknowledged_events: deque[tuple[str, str, str, str, str]] = deque(maxlen=MAX_ACKNOWLEDGED_EVENTS)
        self._xero_queue: list[dict[str, Any]] = []
        self._copper_queue: dict[tuple[int, str, str], list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        self._sent_at: dict[int, deque[float]] = defaultdict(deque)
        self._tasks: set[asyncio.Task[None]] = set()
        self._client = httpx.AsyncClient(timeout=RESPONSE_TIMEOUT_SECONDS, trust_env=False, verify=_tls_context())
        self._flush: asyncio.Task[None] | None = None

    @property
    def pending_count(self) -> int:
        """The number of deliveries that are neither completed nor abandoned."""
        return len(self._xero_queue) + sum(map(len, self._copper_queue.values())) + len(self._tasks)

    def _schedule_flush(self) -> None:
        if self._flush is None or self._flush.done():
            self._flush = asyncio.create_task(self._send_batches())

    def _spawn(self, delivery: Any) -> None:
        task = asyncio.create_task(delivery)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_batches(self) -> None:
        await asyncio.sleep(BATCH_DELAY_SECONDS)
        events, self._xero_queue = self._xero_queue, []
        for start in range(0, len(events), MAX_BATCH_EVENTS):
            self._spawn(self._deliver_xero_batch(events[start : start + MAX_BATCH_EVENTS]))
        pending, self._copper_queue = self._copper_queue, defaultdict(list)
        for (account_id, record_type, event), changes in pending.items():
            account = self.world.accounts.get(account_id)
            for subscription in list(account.subscriptions.values()) if account else []:
                if (subscription.type, subscription.event) == (record_type, event) and account:
                    self._notify(account, subscription, changes)

    def xero_event(
        self,
        tenant: UUID,
        category: XeroCategory,
        event_type: str,
        resource: UUID,
        at: datetime,
        data: dict[str, str] | None = None,
    ) -> None:
        """Queue a Xero event; `data` are the details that only some categories have."""
        self._xero_queue.append(
            {
                "resourceUrl": f"https://api.xero.com/api.xro/2.0/{XERO_RESOURCES[category]}/{resource}",
                "resourceId": str(resource),
                "eventDateUtc": at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}",
                "eventType": event_type,
                "eventCategory": category,
                "tenantId": str(tenant),
                "tenantType": "ORGANISATION",
                **({"data": data} if data else {}),
            }
        )
        self._schedule_flush()

    def xero_body(self, events: list[dict[str, Any]], first: int, last: int) -> bytes:
        """The body of a delivery in Xero's format."""
        entropy = "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(20))
        body = {
            "events": events,
            "firstEventSequence": first,
            "lastEventSequence": last,
            "entropy": entropy,
        }
        return orjson.dumps(body)

    async def _deliver_xero_batch(self, events: list[dict[str, Any]]) -> None:
        app = self.world.app
        if not app.webhook_url or app.webhook_status != "ok":
            self.counts.lost += len(events)
            return
        first, app.last_sequence = app.last_sequence + 1, app.last_sequence + len(events)
        body = self.xero_body(events, first, app.last_sequence)
        self.counts.xero_events += len(events)
        copies = await self._apply_faults("xero")
        if copies == 0:
            self.counts.lost += len(events)
        for _ in range(copies):
            await self._send_until_acknowledged(body)

    async def _send_until_acknowledged(self, body: bytes) -> None:
        """Deliver at least once: retry with growing delays for 24 hours (sandbox time), then disable the webhook."""
        elapsed, attempt = 0.0, 0
        while self.world.app.webhook_status == "ok":
            if await self.post_to_xero_receiver(body, self.sign(body)) == 200:
                self.counts.xero_sent += 1
                self._acknowledge_xero(body)
                return
            self.counts.xero_failed += 1
            delay = RETRY_DELAYS_SECONDS[min(attempt, len(RETRY_DELAYS_SECONDS) - 1)]
            attempt += 1
            elapsed += delay
            if elapsed >= GIVE_UP_SECONDS:
                self.world.app.webhook_status = "disabled"
                return
            await asyncio.sleep(self.world.clock.real_seconds(delay))

    def _acknowledge_xero(self, body: bytes) -> None:
        for event in orjson.loads(body)["events"]:
            key = (event["eventCategory"], event["eventType"], event["resourceId"], event["eventDateUtc"])
            self.acknowledged_events.append(("xero", *key))

    def sign(self, body: bytes, key: str | None = None) -> str:
        """`x-xero-signature`: base64 of the HMAC-SHA256 of the raw body."""
        secret = (key or self.world.app.webhook_key).encode()
        return base64.b64encode(hmac.new(secret, body, hashlib.sha256).digest()).decode()

    async def post_to_xero_receiver(self, body: bytes, signature: str) -> int:
        """POST a delivery and return the status; 0 if there is no response within 5 s, or it has a body or a cookie."""
        headers = {"x-xero-signature": signature, "content-type": "application/json"}
        try:
            response = await self._client.post(self.world.app.webhook_url, content=body, headers=headers)
        except httpx.HTTPError as error:
            self.counts.record_response(f"xero: {type(error).__name__}")
            return 0
        self.counts.record_response(f"xero: {response.status_code}")
        if response.content or response.headers.get("set-cookie"):
            return 0
        return response.status_code

    async def intent_to_receive(self) -> bool:
        """Xero's validation of a receiver: four POSTs without events, two of them with a wrong signature.

        Enables the webhook if the receiver answers all four correctly; returns whether it did.
        """
        is_valid = True
        for number in range(4):
            body = self.xero_body([], 0, 0)
            is_signed = number % 2 == 0
            signature = self.sign(body, None if is_signed else "a wrong key")
            is_valid &= await self.post_to_xero_receiver(body, signature) == (200 if is_signed else 401)
        self.world.app.webhook_status = "ok" if is_valid else "failed"
        return is_valid

    def copper_event(
        self, account: CopperAccount, record_type: str, event: str, record_id: int, changed: dict[str, Any]
    ) -> None:
        """Queue a Copper notification for the subscriptions of this type and event."""
        self._copper_queue[(account.id, record_type, event)].append((record_id, changed))
        self._schedule_flush()

    def _notify(
        self, account: CopperAccount, subscription: Subscription, changes: list[tuple[int, dict[str, Any]]]
    ) -> None:
        ids_by_change: dict[tuple[bytes, int], list[int]] = defaultdict(list)
        repetitions: Counter[tuple[bytes, int]] = Counter()
        for record_id, attributes in changes:
            changed_json = orjson.dumps(attributes)
            # Equal changes of a record are separate notifications.
            ids_by_change[changed_json, repetitions[changed_json, record_id]].append(record_id)
            repetitions[changed_json, record_id] += 1
        for (changed_json, _), ids in ids_by_change.items():
            changed = orjson.loads(changed_json)
            if subscription.custom_field_computed_values:
                changed = computed_changes(account, changed)
            for start in range(0, len(ids), MAX_COPPER_IDS):
                body = {
                    "subscription_id": subscription.id,
                    "ids": ids[start : start + MAX_COPPER_IDS],
                    "type": subscription.type,
                    "event": subscription.event,
                    "timestamp": self.world.clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                    "updated_attributes": changed,
                    **subscription.secret,
                }
                self._spawn(self._deliver_copper(account.id, subscription, body))

    async def _deliver_copper(self, account_id: int, subscription: Subscription, body: dict[str, Any]) -> None:
        """Deliver at most once: a notification is never retried, whatever the receiver answers."""
        for _ in range(await self._apply_faults("copper")):
            if not self._within_limits(account_id):
                self.counts.copper_rate_limited += 1
                return
            try:
                response = await self._client.post(subscription.target, json=body, headers=subscription.headers)
                self.counts.record_response(f"copper: {response.status_code}")
                self.counts.copper_sent += 1
                if response.is_success:
                    digest = hashlib.sha256(response.request.content).hexdigest()
                    keys = [("copper", subscription.type, subscription.event, str(key), digest) for key in body["ids"]]
                    self.acknowledged_events.extend(keys)
            except httpx.HTTPError as error:
                self.counts.record_response(f"copper: {type(error).__name__}")
                self.counts.copper_failed += 1

    def _within_limits(self, account_id: int) -> bool:
        now, sent = time.monotonic(), self._sent_at[account_id]
        while sent and now - sent[0] > COPPER_LIMITS[-1][0]:
            sent.popleft()
        for seconds, limit in COPPER_LIMITS:
            if sum(now - at < seconds for at in sent) >= limit:
                return False
        sent.append(now)
        return True

    async def _apply_faults(self, vendor: str) -> int:
        """Apply the webhook faults: wait for the delay and return the number of copies to send."""
        fault = self.faults.webhooks.get(vendor) or WebhookFault.model_validate({"vendor": vendor})
        rng = self.faults.random
        if rng.random() < fault.loss:
            self.counts.lost += 1
            return 0
        if rng.random() < fault.reorder:
            await asyncio.sleep(rng.uniform(0, fault.max_delay))
        return 2 if rng.random() < fault.duplicate else 1

    async def close(self) -> None:
        """Cancel all deliveries."""
        for task in list(self._tasks):
            task.cancel()
        await self._client.aclose()
