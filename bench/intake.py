"""Taking Xero's webhooks in: signed, over HTTP, committed durably before they are answered."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Callable, Iterator
from uuid import UUID

import psycopg

from bench import load, stage
from bench.figures import Figure, at_least, at_most, ratios
from runtime.settings import settings
from store.database import conninfo

GOAL_RATE, GOAL_P99, GOAL_MANY = 0.4, 100.0, 20.0
INSERT = """
    INSERT INTO inbox (account_id, source, organisation_id, tenant, kind, event, resource_id, occurred_at, dedupe_key,
                       correlation_id)
    VALUES (1, 'xero', 1, %s, 'INVOICE', 'UPDATE', %s, now(), %s, '') ON CONFLICT DO NOTHING
"""
# Deliveries a second by their events: more than are taken in.
READY = {1: 6_000, 100: 1_200}
_numbers = itertools.count()


def event() -> dict[str, str]:
    """An event of an invoice that nobody has heard of, at a moment of its own."""
    number = next(_numbers)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(1_700_000_000 + number // 1000))
    return {
        "resourceUrl": "https://api.xero.com/api.xro/2.0/Invoices/x",
        "resourceId": str(UUID(int=number)),
        "tenantId": str(stage.TENANT),
        "tenantType": "ORGANISATION",
        "eventCategory": "INVOICE",
        "eventType": "UPDATE",
        "eventDateUtc": f"{moment}.{number % 1000:03}",
    }


def signed(events: list[dict[str, str]]) -> tuple[bytes, dict[str, str]]:
    """A delivery's body, and the headers that Xero would send with it."""
    body = json.dumps({"events": events}).encode()
    key = settings().xero_webhook_keys[0].encode()
    signature = base64.b64encode(hmac.new(key, body, hashlib.sha256).digest()).decode()
    return body, {"content-type": "application/json", "x-xero-signature": signature}


def deliveries(events: int, seconds: float = load.SECONDS) -> Callable[[], bytes]:
    """Deliveries for some seconds, made before they are sent: to make and sign them is the vendor's work."""

    def made() -> Iterator[bytes]:
        while True:
            body, headers = signed([event() for _ in range(events)])
            yield load.request("POST", "/webhooks/xero", headers, body)

    endless = made()
    ready = list(itertools.islice(endless, int(seconds * READY[events])))
    return load.each(itertools.chain(ready, endless))


def _bare(seconds: float = load.SECONDS) -> float:
    """Rows a second by one INSERT each, on as many connections as the load has."""

    async def work() -> int:
        until, done = time.perf_counter() + seconds, 0

        async def one() -> None:
            nonlocal done
            async with await psycopg.AsyncConnection.connect(conninfo(), autocommit=True) as connection:
                while time.perf_counter() < until:
                    number = next(_numbers)
                    key = number.to_bytes(32, "big")
                    await connection.execute(INSERT, (str(stage.TENANT), str(UUID(int=number)), key))
                    done += 1

        await asyncio.gather(*[one() for _ in range(load.CONNECTIONS)])
        return done

    return asyncio.run(work()) / seconds


def _durable() -> str:
    with psycopg.connect(conninfo()) as connection:
        row = connection.execute("SHOW synchronous_commit").fetchone()
        return str(row[0]) if row else ""


def measure(rounds: int) -> list[Figure]:
    """Deliveries of one event and of a hundred."""
    with stage.database(), stage.web() as url:
        assert load.run(url, deliveries(1, 1), seconds=1).failed == 0
        mine, bare = ratios(rounds, lambda: load.run(url, deliveries(1)).rate, _bare)
        half = [load.run(url, deliveries(1), rate=rate / 2) for rate in mine]
        batches, singles = ratios(
            rounds, lambda: load.run(url, deliveries(100)).rate * 100, lambda: load.run(url, deliveries(1)).rate
        )
        note = f"synchronous_commit={_durable()}"
    return [
        at_least(
            "deliveries of one event",
            mine,
            bare,
            GOAL_RATE,
            "one INSERT each by psycopg",
            note=note,
            why="half of a delivery is HTTP: there are no more empty answers a second than INSERTs",
        ),
        at_most("p99 of a delivery at half that rate", (each.at(0.99) for each in half), GOAL_P99, "ms"),
        at_least(
            "events of deliveries of 100",
            batches,
            singles,
            GOAL_MANY,
            "events of deliveries of one",
            why="deliveries of one share their commits as well, which made them faster",
        ),
    ]
