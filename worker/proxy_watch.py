"""Whether the web process sees its clients' own addresses, or those of a proxy that it was not told of."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import redis
import structlog

from runtime.numbers import whole_number
from runtime.settings import settings
from worker.broker import client, text_of

log = structlog.get_logger()
KEPT_SECONDS = 86_400
MOST_PLACES = 3
INTERNET = "internet"


@dataclass(frozen=True)
class Sightings:
    """Requests of today (UTC): all, those whose X-Forwarded-For was not believed, and where they came from.

    `places` has a pseudonym for each private network and one word for all of the internet, three at most.
    """

    requests: int
    disbelieved: int
    places: frozenset[str]

    @property
    def is_behind_stranger(self) -> bool:
        """Whether most requests come with X-Forwarded-For from where it is not believed."""
        return self.disbelieved * 2 > self.requests

    @property
    def is_one_private_address(self) -> bool:
        """Whether all come from one private address, as they do behind a proxy that says nothing."""
        return len(self.places) == 1 and INTERNET not in self.places


def _name(what: str) -> str:
    return f"{settings().redis_namespace}:clients:{datetime.now(UTC):%Y%m%d}:{what}"


def note(requests: int, disbelieved: int, places: Collection[str]) -> None:
    """Add what a web process saw since the last time."""
    try:
        pipe = client().pipeline()
        pipe.hincrby(_name("counts"), "requests", requests)
        pipe.hincrby(_name("counts"), "disbelieved", disbelieved)
        pipe.expire(_name("counts"), KEPT_SECONDS)
        if places and client().scard(_name("places")) < MOST_PLACES:
            pipe.sadd(_name("places"), *places)
            pipe.expire(_name("places"), KEPT_SECONDS)
        pipe.execute()
    except redis.RedisError as error:
        log.info("clients.not_noted", error=type(error).__name__)


def read() -> Sightings:
    """What all web processes saw; raises `redis.RedisError` where Redis is away."""
    counts, places = client().hgetall(_name("counts")), client().smembers(_name("places"))
    numbers = {text_of(key): whole_number(text_of(value)) or 0 for key, value in counts.items()}
    seen = frozenset(map(text_of, places))
    return Sightings(numbers.get("requests", 0), numbers.get("disbelieved", 0), seen)
