"""Fuzz: `make fuzz ARGS="--bodies 100000 --seed 1"`.

Bodies as no vendor would send them, most of them rightly signed, posted to both receivers over HTTP: deep and giant
JSON, NaN, wrong encodings, compressed bombs, mutated deliveries. Every answer must be one that is written down, no
answer may be a 5xx, and what is kept must be an event that makes sense, or a malformed body put aside.
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

from runtime.settings import override, settings
from sandbox import server
from sandbox.limits import Limits
from sandbox.world import World as SandboxWorld
from tests import databases
from tests.serving import serving
from webhooks.bodies import BODY_LIMIT

if TYPE_CHECKING:
    from tests.world import World

ALLOWED = {200, 401, 413}
AT_ONCE = 16
UNLIMITED = {"COPPER_NOTIFICATIONS_MINUTE_LIMIT": "1000000", "COPPER_NOTIFICATIONS_DAY_LIMIT": "100000000"}
CONTENT_TYPES = (
    "application/json",
    "application/json",
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "",
)
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 2**200, 1e308, "", "x" * 3_000, "\x00", "\ud800", [], {}, [[]], {"": None}),
    *("2026-02-30T00:00:00", "9999-12-31T23:59:59.999", "-1", "NaN", "ann@acme.test", "../../etc", "' OR 1=1 --", "٣"),
)


def xero_body(dice: random.Random, tenant: str) -> dict[str, Any]:
    event = {
        "resourceUrl": "https://api.xero.com/x",
        "resourceId": "f8c42a2e-5d5b-4bf7-9a8b-6a1d3c4e5f60",
        "eventDateUtc": "2026-11-20T10:00:00.000",
        "eventType": dice.choice(("CREATE", "UPDATE", "DELETE")),
        "eventCategory": dice.choice(("INVOICE", "CONTACT", "SUBSCRIPTION")),
        "tenantId": tenant,
        "tenantType": "ORGANISATION",
    }
    sequence = dice.randrange(1, 10_000)
    return {
        "events": [dict(event) for _ in range(dice.randrange(3))],
        "firstEventSequence": sequence,
        "lastEventSequence": sequence,
    }


def copper_body(dice: random.Random, secret: str) -> dict[str, Any]:
    kind = dice.choice(("lead", "person", "company", "opportunity", "task"))
    return {
        "ids": [dice.randrange(10**6)],
        "type": kind,
        "event": "update",
        "subscription_id": 1,
        "patina_secret": secret,
    }


def mutated(dice: random.Random, value: Any, depth: int = 0) -> Any:
    """The value with something odd somewhere in it."""
    if isinstance(value, dict) and value and depth < 4 and dice.random() < 0.8:
        key = dice.choice(list(value))
        changed = dict(value)
        if dice.random() < 0.15:
            del changed[key]
        else:
            changed[key] = mutated(dice, changed[key], depth + 1)
        return changed
    if isinstance(value, list) and value and depth < 4 and dice.random() < 0.8:
        return [mutated(dice, value[0], depth + 1), *value[1:]] * dice.choice((1, 1, 1, 40))
    return dice.choice(ODD)


def raw(dice: random.Random, body: dict[str, Any]) -> bytes:
    """The body as bytes, now and then broken as JSON too."""
    fate = dice.random()
    if fate < 0.6:
        return json.dumps(mutated(dice, body)).encode("utf-8", "surrogatepass")
    if fate < 0.65:
        return b"[" * dice.choice((10, 1_000, 200_000))
    if fate < 0.7:
        return json.dumps(body).replace("1", "1" * dice.choice((20, 5_000)), 1).encode()
    if fate < 0.75:
        return json.dumps(body).replace('"', "NaN", 1).encode()
    if fate < 0.8:
        return json.dumps(body).encode(dice.choice(("utf-16", "utf-32", "utf-7", "cp037")))
    if fate < 0.83:
        return gzip.compress(b"0" * 3_000_000)
    if fate < 0.84:
        return b"{" + b" " * dice.choice((1_048_570, 1_048_577))
    text = bytearray(json.dumps(body).encode())
    for _ in range(dice.randrange(1, 6)):
        text[dice.randrange(len(text))] = dice.randrange(256)
    return bytes(text)


def posts(
    dice: random.Random, count: int, world: World, tenant: str, path: str, secret: str
) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Path, body and headers of each request."""
    import base64
    import hashlib
    import hmac

    key = settings().xero_webhook_keys[0].encode()
    for _ in range(count):
        headers = {"content-type": dice.choice(CONTENT_TYPES)}
        if dice.random() < 0.05:
            headers["content-encoding"] = dice.choice(("gzip", "br", "identity"))
        if dice.random() < 0.5:
            body = raw(dice, xero_body(dice, tenant))
            signed = base64.b64encode(hmac.new(key, body, hashlib.sha256).digest()).decode()
            headers["x-xero-signature"] = signed if dice.random() < 0.95 else "no"
            yield "/webhooks/xero", body, headers
        else:
            yield path, raw(dice, copper_body(dice, secret)), headers


async def post_all(url: str, requests: Iterator[tuple[str, bytes, dict[str, str]]], count: int) -> Counter[int]:
    """Post them, sixteen at once; returns how often each status was answered."""
    seen: Counter[int] = Counter()
    columns = (TextColumn("fuzz"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("fuzz", total=count)
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:

            async def work() -> None:
                for path, body, headers in requests:
                    seen[await status_of(client, path, body, headers)] += 1
                    bar.update(task, advance=1)

            await asyncio.gather(*[work() for _ in range(AT_ONCE)])
    return seen


async def status_of(client: httpx.AsyncClient, path: str, body: bytes, headers: dict[str, str]) -> int:
    """The answer's status. A body that is too large is refused before it is read: its sender may see the line cut.

    A line that the server has closed since is no answer either: the next one is.
    """
    for _ in range(3):
        with suppress(httpx.TransportError):
            return (await client.post(path, content=body, headers=headers)).status_code
        if len(body) > BODY_LIMIT:
            return 413
    return 0


def kept_wrongly() -> int:
    """Rows of the inbox that wait, and make no sense as an event."""
    from sqlalchemy import text

    from store.database import transaction

    with transaction() as session:
        return int(
            session.execute(
                text("""
                    SELECT count(*) FROM inbox WHERE state IN ('pending', 'leased') AND NOT (
                        (source = 'xero' AND organisation_id > 0 AND kind = upper(kind) AND event = upper(event)
                            AND (resource_id <> '' OR kind = 'UNREADABLE'))
                        OR (source = 'copper' AND kind IN ('lead', 'person', 'company', 'opportunity')
                            AND event = lower(event) AND resource_id ~ '^[1-9][0-9]{0,18}$'))
                """)
            ).scalar_one()
        )


def main() -> int:
    """Post the bodies; the last line says how it went."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--bodies", type=int, default=100_000)
    reader.add_argument("--seed", type=int, default=1)
    chosen = reader.parse_args()
    databases.make_template()
    with databases.fresh(), serving(server.create(SandboxWorld(), limits=Limits(on=False))) as vendors:
        override({**server.environment(vendors), "LOG_LEVEL": "error", **UNLIMITED})
        from store import accounts
        from store.database import transaction
        from tests.world import Sandbox, World
        from web.app import create

        with serving(create()) as url:
            override({"PUBLIC_URL": url})
            world = World(Sandbox(vendors), httpx.Client(base_url=url, trust_env=False)).open(name="Fuzz")
            with transaction() as session:
                held = accounts.copper_access(session, world.account)
            path = f"/webhooks/copper/{held.webhook_token}"
            dice = random.Random(chosen.seed)
            requests = posts(dice, chosen.bodies, world, world.tenants[0], path, held.webhook_secret)
            structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
            seen = asyncio.run(post_all(url, requests, chosen.bodies))
            wrong = kept_wrongly()
    odd = sum(count for status, count in seen.items() if status not in ALLOWED)
    well = not odd and not wrong
    answers = ", ".join(f"{status}: {count}" for status, count in sorted(seen.items()))
    verdict = f"fuzz {'ok' if well else 'failed'}: bodies {chosen.bodies} ({answers})"
    print(f"{verdict}, odd answers {odd}, kept wrongly {wrong}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
