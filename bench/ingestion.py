"""Ingesting Xero's webhooks: signed, over HTTP, committed durably before the response."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from uuid import UUID

import psycopg

from bench import environment, load
from bench.figures import Figure, alternate, at_least, at_most
from runtime.settings import settings
from store.db.database import conninfo

GOAL_SINGLE, GOAL_P99, GOAL_MANY = 0.5, 100.0, 0.6
# Events of a large delivery.
MANY = 100
ROW = "(1, 'xero', 1, %s, 'INVOICE', 'UPDATE', %s, %s, %s, %s)"
INSERT = """
    INSERT INTO inbox (account_id, vendor, organisation_id, tenant, category, event_type, resource_id,
                       occurred_at, dedupe_key, correlation_id)
    VALUES {} ON CONFLICT DO NOTHING
"""
# Deliveries per second to prepare, by events per delivery: more than can be ingested.
PREPARED_PER_SECOND = {1: 8_000, MANY: 1_200}
PREPARED_INSERTS_PER_SECOND = {1: 16_000, MANY: 1_200}
_event_numbers = itertools.count()


def build_event() -> dict[str, str]:
    """An event of an unknown invoice, with a unique timestamp."""
    number = next(_event_numbers)
    timestamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(1_700_000_000 + number // 1000))
    return {
        "resourceUrl": "https://api.xero.com/api.xro/2.0/Invoices/x",
        "resourceId": str(UUID(int=number)),
        "tenantId": str(environment.TENANT),
        "tenantType": "ORGANISATION",
        "eventCategory": "INVOICE",
        "eventType": "UPDATE",
        "eventDateUtc": f"{timestamp}.{number % 1000:03}",
    }


def sign(events: list[dict[str, str]]) -> tuple[bytes, dict[str, str]]:
    """A delivery's body, and its headers with the signature."""
    body = json.dumps({"events": events}).encode()
    key = settings().xero_webhook_keys[0].encode()
    signature = base64.b64encode(hmac.new(key, body, hashlib.sha256).digest()).decode()
    return body, {"content-type": "application/json", "x-xero-signature": signature}


def deliveries(events: int, seconds: float = load.SECONDS) -> Callable[[], bytes]:
    """Deliveries for some seconds, built and signed in advance, because that is the vendor's work."""

    def build() -> Iterator[bytes]:
        while True:
            body, headers = sign([build_event() for _ in range(events)])
            yield load.build_request("POST", "/webhooks/xero", headers, body)

    endless = build()
    prepared = list(itertools.islice(endless, int(seconds * PREPARED_PER_SECOND[events])))
    return load.from_iterator(itertools.chain(prepared, endless))


def _measure_inserts(rows: int, seconds: float = load.SECONDS) -> float:
    """Rows per second with `rows` of them per INSERT and commit, on as many connections as the load has.

    Their values are built in advance, as deliveries are.
    """
    statement = INSERT.format(", ".join([ROW] * rows)).encode()
    next_params = _insert_params(rows, seconds)

    async def insert_rows() -> int:
        deadline, count = time.perf_counter() + seconds, 0

        async def insert_until_deadline() -> None:
            nonlocal count
            async with await psycopg.AsyncConnection.connect(conninfo(), autocommit=True) as connection:
                while time.perf_counter() < deadline:
                    await connection.execute(statement, next(next_params))
                    count += rows

        await asyncio.gather(*[insert_until_deadline() for _ in range(load.CONNECTIONS)])
        return count

    return asyncio.run(insert_rows()) / seconds


def _insert_params(rows: int, seconds: float) -> Iterator[list[object]]:
    """The values of statements for some seconds, and of more if they are not enough."""

    def build() -> Iterator[list[object]]:
        while True:
            yield list(itertools.chain.from_iterable(_build_row() for _ in range(rows)))

    endless = build()
    return itertools.chain(list(itertools.islice(endless, int(seconds * PREPARED_INSERTS_PER_SECOND[rows]))), endless)


def _build_row() -> tuple[object, ...]:
    """The values of an event as the endpoint stores it."""
    number = next(_event_numbers)
    occurred_at = datetime.fromtimestamp(1_700_000_000 + number / 1000, UTC)
    key, correlation = hashlib.sha256(number.to_bytes(8, "big")).digest(), f"{number:016x}"
    return str(environment.TENANT), str(UUID(int=number)), occurred_at, key, correlation


def _synchronous_commit() -> str:
    with psycopg.connect(conninfo()) as connection:
        row = connection.execute("SHOW synchronous_commit").fetchone()
        return str(row[0]) if row else ""


def measure(rounds: int) -> list[Figure]:
    """Deliveries of one event and of 100 events."""
    with environment.populated_database(), environment.start_web() as url:
        load.run(url, deliveries(1, 1), seconds=1)
        rates, insert_rates = alternate(rounds, lambda: load.run(url, deliveries(1)).rate, lambda: _measure_inserts(1))
        half_loads = [load.run(url, deliveries(1), rate=rate / 2) for rate in rates]
        many_rates, many_insert_rates = alternate(
            rounds, lambda: load.run(url, deliveries(MANY)).rate * MANY, lambda: _measure_inserts(MANY)
        )
        note = f"synchronous_commit={_synchronous_commit()}"
    return [
        at_least(
            "events per second, one in a delivery",
            rates,
            insert_rates,
            GOAL_SINGLE,
            "one INSERT per event with psycopg",
            note=note,
            miss_reason="HTTP alone is most of a delivery: the same server gives half as many empty responses per"
            " second as psycopg makes INSERTs",
        ),
        at_most(
            "p99 of a delivery at half that rate", (half_load.at(0.99) for half_load in half_loads), GOAL_P99, "ms"
        ),
        at_least(
            f"events per second, {MANY} in a delivery",
            many_rates,
            many_insert_rates,
            GOAL_MANY,
            f"one INSERT of {MANY} rows with psycopg",
            note=note,
            miss_reason="an event is parsed, checked and hashed, which takes as long as its INSERT",
        ),
    ]
