"""Rate limits: signing in and connecting by address, in all processes; the API by key and address, in each."""

from __future__ import annotations

import hashlib
import time
from functools import lru_cache

from fastapi import Request
from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter

from runtime.settings import settings
from web.problems import ProblemError
from worker.broker import client

SIGN_IN = parse("10/5minutes")
VIEWERS_SIGN_IN = parse("100/5minutes")


@lru_cache(maxsize=1)
def _shared() -> FixedWindowRateLimiter:
    """Counts in Redis, wrapped so that its errors are known as such."""
    pool = client().connection_pool
    prefix = f"{settings().redis_namespace}:throttle"
    return FixedWindowRateLimiter(
        RedisStorage("redis://", connection_pool=pool, key_prefix=prefix, wrap_exceptions=True)
    )


@lru_cache(maxsize=1)
def _own() -> FixedWindowRateLimiter:
    """Counts of this process."""
    return FixedWindowRateLimiter(MemoryStorage())


@lru_cache(maxsize=4)
def _a_minute(calls: int) -> RateLimitItem:
    return parse(f"{calls}/minute")


def _host(request: Request) -> str:
    return request.client.host if request.client else "nowhere"


def address_hash(request: Request) -> str:
    """Where the request came from, as a hash: an address is personal data, and this one leaves the process."""
    return hashlib.sha256(_host(request).encode()).hexdigest()[:16]


def _refuse(limiter: FixedWindowRateLimiter, item: RateLimitItem, *names: str) -> None:
    wait = max(1, round(limiter.get_window_stats(item, *names).reset_time - time.time()))
    raise ProblemError(429, f"Too many attempts. Try again in {_in_words(wait)}.", retry_after=wait)


def _in_words(seconds: int) -> str:
    """A wait, rounded up: to seconds below a minute and a half, to minutes above."""
    if seconds < 90:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    return f"{-(-seconds // 60)} minutes"


def sign_in(request: Request) -> None:
    """Count a try to sign in or connect; raises `ProblemError` 429. Without Redis each process counts alone."""
    _count(request, SIGN_IN, "sign-in")


def viewer_sign_in(request: Request) -> None:
    """Count a step of a sign-in to the panel: many people of one office do that from one address."""
    _count(request, VIEWERS_SIGN_IN, "viewer-sign-in")


def _count(request: Request, item: RateLimitItem, what: str) -> None:
    address = address_hash(request)
    try:
        limiter = _shared()
        allowed = limiter.hit(item, what, address)
    except StorageError:
        limiter = _own()
        allowed = limiter.hit(item, what, address)
    if not allowed:
        _refuse(limiter, item, what, address)


def api(request: Request, key: bytes) -> None:
    """Count an API call of a key, by its digest, and of an address; raises `ProblemError` 429."""
    item, limiter = _a_minute(settings().api_minute_limit), _own()
    for kind, name in (("key", key.hex()), ("address", _host(request))):
        if not limiter.hit(item, kind, name):
            _refuse(limiter, item, kind, name)
