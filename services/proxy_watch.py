"""Statistics that show whether the web process sees its clients' own addresses, or those of an untrusted proxy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import redis
import structlog

from runtime.numbers import whole_number
from runtime.redis_client import as_text, shared_client
from runtime.settings import settings

log = structlog.get_logger()
RETENTION_SECONDS = 86_400
MAX_ORIGINS = 3
INTERNET = "internet"


@dataclass(frozen=True)
class ClientAddressStats:
    """Today's requests (UTC): all, those with an X-Forwarded-For from an untrusted address, and their origins.

    `origins` has a pseudonym for each private network and one word for the whole internet, at most three.
    """

    requests: int
    untrusted: int
    origins: frozenset[str]

    @property
    def is_behind_untrusted_proxy(self) -> bool:
        """Whether most requests have an X-Forwarded-For from an untrusted address."""
        return self.untrusted * 2 > self.requests

    @property
    def has_single_private_origin(self) -> bool:
        """Whether all requests come from one private network, as behind a proxy that sets no header."""
        return len(self.origins) == 1 and INTERNET not in self.origins


def _key(name: str) -> str:
    return f"{settings().redis_namespace}:clients:{datetime.now(UTC):%Y%m%d}:{name}"


def record(requests: int, untrusted: int, origins: Collection[str]) -> None:
    """Add the counts of a web process since its last call."""
    try:
        pipeline = shared_client().pipeline()
        pipeline.hincrby(_key("counts"), "requests", requests)
        pipeline.hincrby(_key("counts"), "untrusted", untrusted)
        pipeline.expire(_key("counts"), RETENTION_SECONDS)
        if origins and shared_client().scard(_key("origins")) < MAX_ORIGINS:
            pipeline.sadd(_key("origins"), *origins)
            pipeline.expire(_key("origins"), RETENTION_SECONDS)
        pipeline.execute()
    except redis.RedisError as error:
        log.info("client_addresses.record_failed", error=type(error).__name__)


def read_today() -> ClientAddressStats:
    """Today's statistics of all web processes; raises `redis.RedisError` if Redis is unavailable."""
    counts, origins = shared_client().hgetall(_key("counts")), shared_client().smembers(_key("origins"))
    numbers = {as_text(name): whole_number(as_text(value)) or 0 for name, value in counts.items()}
    return ClientAddressStats(numbers.get("requests", 0), numbers.get("untrusted", 0), frozenset(map(as_text, origins)))
