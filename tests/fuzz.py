"""Fuzz: `make fuzz ARGS="--bodies 100000 --seed 1"`.

Posts bodies that no vendor would send to both webhook endpoints over HTTP, most of them correctly signed: deep and
giant JSON, NaN, wrong encodings, compression bombs, mutated deliveries. Every response must have a documented status,
none may be a 5xx, and every stored row must be a valid event or a quarantined malformed body.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import structlog
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.settings import override_settings, settings
from sandbox import server
from sandbox.limits import Limits
from sandbox.world import World as SandboxWorld
from tests.support import databases
from tests.support.serving import serving
from webhooks.request_limits import MAX_BODY_BYTES

if TYPE_CHECKING:
    from tests.support.world import World

ALLOWED = {200, 401, 413}
CONCURRENCY = 16
UNLIMITED = {"COPPER_WEBHOOK_RECORDS_PER_MINUTE": "1000000", "COPPER_WEBHOOK_RECORDS_PER_DAY": "100000000"}
CONTENT_TYPES = (
    "application/json",
    "application/json",
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "",
)
UNEXPECTED_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 2**200, 1e308, "", "x" * 3_000, "\x00", "\ud800", [], {}, [[]], {"": None}),
    *("2026-02-30T00:00:00", "9999-12-31T23:59:59.999", "-1", "NaN", "ann@acme.test", "../../etc", "' OR 1=1 --", "٣"),
)


def xero_body(rng: random.Random, tenant: str) -> dict[str, Any]:
    event = {
        "resourceUrl": "https://api.xero.com/x",
        "resourceId": "f8c42a2e-5d5b-4bf7-9a8b-6a1d3c4e5f60",
        "eventDateUtc": "2026-11-20T10:00:00.000",
        "eventType": rng.choice(("CREATE", "UPDATE", "DELETE")),
        "eventCategory": rng.choice(("INVOICE", "CONTACT", "SUBSCRIPTION")),
        "tenantId": tenant,
        "tenantType": "ORGANISATION",
    }
    sequence = rng.randrange(1, 10_000)
    return {
        "events": [dict(event) for _ in range(rng.randrange(3))],
        "firstEventSequence": sequence,
        "lastEventSequence": sequence,
    }


def copper_body(rng: random.Random, secret: str) -> dict[str, Any]:
    record_type = rng.choice(("lead", "person", "company", "opportunity", "task"))
    return {
        "ids": [rng.randrange(10**6)],
        "type": record_type,
        "event": "update",
        "subscription_id": 1,
        "patina_secret": secret,
    }


def mutate(rng: random.Random, value: Any, depth: int = 0) -> Any:
    """The value with an unexpected value somewhere in it."""
    if isinstance(value, dict) and value and depth < 4 and rng.random() < 0.8:
        key = rng.choice(list(value))
        copy = dict(value)
        if rng.random() < 0.15:
            del copy[key]
        else:
            copy[key] = mutate(rng, copy[key], depth + 1)
        return copy
    if isinstance(value, list) and value and depth < 4 and rng.random() < 0.8:
        return [mutate(rng, value[0], depth + 1), *value[1:]] * rng.choice((1, 1, 1, 40))
    return rng.choice(UNEXPECTED_VALUES)


def encode(rng: random.Random, body: dict[str, Any]) -> bytes:
    """The body as bytes, sometimes as invalid JSON."""
    choice = rng.random()
    if choice < 0.6:
        return json.dumps(mutate(rng, body)).encode("utf-8", "surrogatepass")
    if choice < 0.65:
        return b"[" * rng.choice((10, 1_000, 200_000))
    if choice < 0.7:
        return json.dumps(body).replace("1", "1" * rng.choice((20, 5_000)), 1).encode()
    if choice < 0.75:
        return json.dumps(body).replace('"', "NaN", 1).encode()
    if choice < 0.8:
        return json.dumps(body).encode(rng.choice(("utf-16", "utf-32", "utf-7", "cp037")))
    if choice < 0.83:
        return gzip.compress(b"0" * 3_000_000)
    if choice < 0.84:
        return b"{" + b" " * rng.choice((1_048_570, 1_048_577))
    text = bytearray(json.dumps(body).encode())
    for _ in range(rng.randrange(1, 6)):
        text[rng.randrange(len(text))] = rng.randrange(256)
    return bytes(text)


def generate_requests(
    rng: random.Random, count: int, world: World, tenant: str, path: str, secret: str
) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Generate path, body and headers of each request."""
    import base64
    import hashlib
    import hmac

    key = settings().xero_webhook_keys[0].encode()
    for _ in range(count):
        headers = {"content-type": rng.choice(CONTENT_TYPES)}
        if rng.random() < 0.05:
            headers["content-encoding"] = rng.choice(("gzip", "br", "identity"))
        if rng.random() < 0.5:
            body = encode(rng, xero_body(rng, tenant))
            signed = base64.b64encode(hmac.new(key, body, hashlib.sha256).digest()).decode()
            headers["x-xero-signature"] = signed if rng.random() < 0.95 else "no"
            yield "/webhooks/xero", body, headers
        else:
            yield path, encode(rng, copper_body(rng, secret)), headers


async def post_all(url: str, requests: Iterator[tuple[str, bytes, dict[str, str]]], count: int) -> Counter[int]:
    """Post requests with sixteen connections; returns the number of responses by status."""
    status_counts: Counter[int] = Counter()
    columns = (TextColumn("fuzz"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("fuzz", total=count)
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:

            async def work() -> None:
                for path, body, headers in requests:
                    status_counts[await status_of(client, path, body, headers)] += 1
                    bar.update(task, advance=1)

            await asyncio.gather(*[work() for _ in range(CONCURRENCY)])
    return status_counts


async def status_of(client: httpx.AsyncClient, path: str, body: bytes, headers: dict[str, str]) -> int:
    """The status of the response; 0 if there is none after three attempts.

    A body that is too large is refused before it is read, so the sender may only see a closed connection. An idle
    connection that the server has closed meanwhile is replaced by a new one.
    """
    for _ in range(3):
        with suppress(httpx.TransportError):
            return (await client.post(path, content=body, headers=headers)).status_code
        if len(body) > MAX_BODY_BYTES:
            return 413
    return 0


def count_invalid_rows() -> int:
    """The number of pending rows of the inbox that are not valid events."""
    from sqlalchemy import text

    from store.db.database import transaction

    with transaction() as session:
        return int(
            session.execute(
                text("""
                    SELECT count(*) FROM inbox WHERE state IN ('pending', 'leased') AND NOT (
                        (vendor = 'xero' AND organisation_id > 0 AND category = upper(category)
                            AND event_type = upper(event_type)
                            AND (resource_id <> '' OR category = 'UNREADABLE'))
                        OR (vendor = 'copper' AND category IN ('lead', 'person', 'company', 'opportunity')
                            AND event_type = lower(event_type) AND resource_id ~ '^[1-9][0-9]{0,18}$'))
                """)
            ).scalar_one()
        )


def main() -> int:
    """Post the bodies; the last line of the output is the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bodies", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    databases.make_template()
    with databases.temporary(), serving(server.create(SandboxWorld(), limits=Limits(enabled=False))) as vendors:
        override_settings(
            {**server.environment(vendors), "REDIS_URL": databases.redis_url(), "LOG_LEVEL": "error", **UNLIMITED}
        )
        from store.accounts import copper_credentials
        from store.db.database import transaction
        from tests.support.world import Sandbox, World
        from web.app import create

        with serving(create()) as url:
            override_settings({"PUBLIC_URL": url})
            world = World(Sandbox(vendors), httpx.Client(base_url=url, trust_env=False)).open(name="Fuzz")
            with transaction() as session:
                credentials = copper_credentials.get(session, world.account)
            path = f"/webhooks/copper/{credentials.webhook_token}"
            rng = random.Random(arguments.seed)
            requests = generate_requests(
                rng, arguments.bodies, world, world.tenants[0], path, credentials.webhook_secret
            )
            structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
            status_counts = asyncio.run(post_all(url, requests, arguments.bodies))
            invalid_rows = count_invalid_rows()
    unexpected = sum(count for status, count in status_counts.items() if status not in ALLOWED)
    passed = not unexpected and not invalid_rows
    counts = ", ".join(f"{status}: {count}" for status, count in sorted(status_counts.items()))
    verdict = f"fuzz {'ok' if passed else 'failed'}: bodies {arguments.bodies} ({counts})"
    print(f"{verdict}, unexpected responses {unexpected}, invalid rows {invalid_rows}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
