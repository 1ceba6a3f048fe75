"""Webhooks as the two vendors send them: Xero signed and retried, Copper once and never again."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import ssl
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import httpx
import orjson

from sandbox.faults import Faults, WebhookFault
from sandbox.world import CopperAccount, Subscription, World

BATCH_SECONDS = 0.02
BATCH_EVENTS = 100
ANSWER_SECONDS = 5.0
RETRY_SECONDS = (10, 30, 60, 300, 900, 1_800, 3_600)
GIVE_UP_SECONDS = 24 * 3_600
COPPER_IDS = 30
KEPT_ACKNOWLEDGED = 100_000
COPPER_WINDOWS = ((60, 600), (600, 1_800))


@dataclass
class Delivered:
    """What became of the webhooks, for tests and for whoever looks."""

    xero_sent: int = 0
    xero_failed: int = 0
    xero_events: int = 0
    copper_sent: int = 0
    copper_failed: int = 0
    copper_unsent: int = 0
    lost: int = 0
    last_answers: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep the last 20 answers."""
        self.last_answers = [*self.last_answers[-19:], text]


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted, read once: tests make a sandbox each."""
    return ssl.create_default_context()


class Delivery:
    """Sends both vendors' webhooks; at work until everything is delivered or given up."""

    def __init__(self, world: World, faults: Faults) -> None:
        self.world = world
        self.faults = faults
        self.counts = Delivered()
        self.acknowledged: deque[tuple[str, str, str, str, str]] = deque(maxlen=KEPT_ACKNOWLEDGED)
        self._xero: list[dict[str, Any]] = []
        self._copper: dict[tuple[int, str, str], list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        self._sent: dict[int, deque[float]] = defaultdict(deque)
        self._at_work: set[asyncio.Task[None]] = set()
        self._client = httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False, verify=_trusted())
        self._flush: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Deliveries that are neither done nor given up."""
        return len(self._xero) + sum(map(len, self._copper.values())) + len(self._at_work)

    def _soon(self) -> None:
        if self._flush is None or self._flush.done():
            self._flush = asyncio.create_task(self._send_batches())

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    async def _send_batches(self) -> None:
        await asyncio.sleep(BATCH_SECONDS)
        events, self._xero = self._xero, []
        for start in range(0, len(events), BATCH_EVENTS):
            self._spawn(self._xero_batch(events[start : start + BATCH_EVENTS]))
        notices, self._copper = self._copper, defaultdict(list)
        for (account_id, kind, event), changes in notices.items():
            account = self.world.accounts.get(account_id)
            for one in list(account.subscriptions.values()) if account else []:
                if (one.type, one.event) == (kind, event) and account:
                    self._notify(account, one, changes)

    def xero_event(self, tenant: UUID, category: str, kind: str, resource: UUID, at: datetime) -> None:
        """Have Xero tell of one change."""
        plural = {"INVOICE": "Invoices", "CONTACT": "Contacts"}.get(category, category.title())
        self._xero.append(
            {
                "resourceUrl": f"https://api.xero.com/api.xro/2.0/{plural}/{resource}",
                "resourceId": str(resource),
                "eventDateUtc": at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}",
                "eventType": kind,
                "eventCategory": category,
                "tenantId": str(tenant),
                "tenantType": "ORGANISATION",
            }
        )
        self._soon()

    def xero_body(self, events: list[dict[str, Any]], first: int, last: int) -> bytes:
        """A delivery as Xero writes it."""
        entropy = "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(20))
        body = {
            "events": events,
            "firstEventSequence": first,
            "lastEventSequence": last,
            "entropy": entropy,
        }
        return orjson.dumps(body)

    async def _xero_batch(self, events: list[dict[str, Any]]) -> None:
        app = self.world.app
        if not app.webhook_url or app.webhook_status != "ok":
            self.counts.lost += len(events)
            return
        first, app.sequence = app.sequence + 1, app.sequence + len(events)
        body = self.xero_body(events, first, app.sequence)
        self.counts.xero_events += len(events)
        copies = await self._fate("xero")
        if copies == 0:
            self.counts.lost += len(events)
        for _ in range(copies):
            await self._until_taken(body)

    async def _until_taken(self, body: bytes) -> None:
        """At least once: retried ever more rarely for 24 of the sandbox's hours, then switched off."""
        spent, tries = 0.0, 0
        while self.world.app.webhook_status == "ok":
            if await self.post_to_xero_receiver(body, self.sign(body)) == 200:
                self.counts.xero_sent += 1
                self._acknowledge_xero(body)
                return
            self.counts.xero_failed += 1
            wait = RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)]
            tries += 1
            spent += wait
            if spent >= GIVE_UP_SECONDS:
                self.world.app.webhook_status = "disabled"
                return
            await asyncio.sleep(self.world.clock.seconds(wait))

    def _acknowledge_xero(self, body: bytes) -> None:
        for one in orjson.loads(body)["events"]:
            told = (one["eventCategory"], one["eventType"], one["resourceId"], one["eventDateUtc"])
            self.acknowledged.append(("xero", *told))

    def sign(self, body: bytes, key: str | None = None) -> str:
        """`x-xero-signature`: base64 of the HMAC-SHA256 of the raw body."""
        secret = (key or self.world.app.webhook_key).encode()
        return base64.b64encode(hmac.new(secret, body, hashlib.sha256).digest()).decode()

    async def post_to_xero_receiver(self, body: bytes, signature: str) -> int:
        """One POST; 0 unless the answer came in 5 s and keeps the rules: no body, no cookie."""
        headers = {"x-xero-signature": signature, "content-type": "application/json"}
        try:
            answer = await self._client.post(self.world.app.webhook_url, content=body, headers=headers)
        except httpx.HTTPError as error:
            self.counts.note(f"xero: {type(error).__name__}")
            return 0
        self.counts.note(f"xero: {answer.status_code}")
        if answer.content or answer.headers.get("set-cookie"):
            return 0
        return answer.status_code

    async def intent_to_receive(self) -> bool:
        """Four POSTs without events, two of them wrongly signed; the webhook is on if all are answered right."""
        right = True
        for number in range(4):
            body = self.xero_body([], 0, 0)
            good = number % 2 == 0
            signature = self.sign(body, None if good else "not the key")
            right &= await self.post_to_xero_receiver(body, signature) == (200 if good else 401)
        self.world.app.webhook_status = "ok" if right else "failed"
        return right

    def copper_event(
        self, account: CopperAccount, kind: str, event: str, record_id: int, changed: dict[str, Any]
    ) -> None:
        """Have Copper tell of one change, where somebody subscribed."""
        self._copper[(account.id, kind, event)].append((record_id, changed))
        self._soon()

    def _notify(self, account: CopperAccount, one: Subscription, changes: list[tuple[int, dict[str, Any]]]) -> None:
        alike: dict[bytes, list[int]] = defaultdict(list)
        for record_id, changed in changes:
            alike[orjson.dumps(changed)].append(record_id)
        for changed_json, ids in alike.items():
            for start in range(0, len(ids), COPPER_IDS):
                body = {
                    "subscription_id": one.id,
                    "ids": ids[start : start + COPPER_IDS],
                    "type": one.type,
                    "event": one.event,
                    "timestamp": self.world.clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                    "updated_attributes": orjson.loads(changed_json),
                    **one.secret,
                }
                self._spawn(self._copper_once(account.id, one, body))

    async def _copper_once(self, account_id: int, one: Subscription, body: dict[str, Any]) -> None:
        """At most once: whatever the receiver answers, it is not sent again."""
        for _ in range(await self._fate("copper")):
            if not self._within_limits(account_id):
                self.counts.copper_unsent += 1
                return
            try:
                answer = await self._client.post(one.target, json=body, headers=one.headers)
                self.counts.note(f"copper: {answer.status_code}")
                self.counts.copper_sent += 1
                if answer.is_success:
                    whole = hashlib.sha256(answer.request.content).hexdigest()
                    told = [("copper", one.type, one.event, str(key), whole) for key in body["ids"]]
                    self.acknowledged.extend(told)
            except httpx.HTTPError as error:
                self.counts.note(f"copper: {type(error).__name__}")
                self.counts.copper_failed += 1

    def _within_limits(self, account_id: int) -> bool:
        now, sent = time.monotonic(), self._sent[account_id]
        while sent and now - sent[0] > COPPER_WINDOWS[-1][0]:
            sent.popleft()
        for seconds, most in COPPER_WINDOWS:
            if sum(now - at < seconds for at in sent) >= most:
                return False
        sent.append(now)
        return True

    async def _fate(self, vendor: str) -> int:
        """How many copies are sent, after whatever delay the faults say."""
        fault = self.faults.webhooks.get(vendor) or WebhookFault.model_validate({"vendor": vendor})
        dice = self.faults.random
        if dice.random() < fault.lose:
            self.counts.lost += 1
            return 0
        if dice.random() < fault.reorder:
            await asyncio.sleep(dice.uniform(0, fault.delay))
        return 2 if dice.random() < fault.double else 1

    async def close(self) -> None:
        """Stop sending."""
        for task in list(self._at_work):
            task.cancel()
        await self._client.aclose()
