"""Rate limits: signing in and connecting in all processes, the API by address and key in each.

An address counts by its network (`client_address.network_of`), and leaves the process as a pseudonym only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from fastapi import Request
from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter

from runtime.settings import settings
from store.secrets import pseudonym
from web.client_address import address_of, client_label, network_of
from web.key_tries import KeyTries
from web.problems import ProblemError
from web.refusals import Reason
from web.windows import Windows
from worker import known_keys
from worker.broker import client

STEPS = parse("100/5minutes")
KNOWN_KEY = parse("30/5minutes")
MINUTE = 60
# So many calls a minute of one address may come with keys that do not exist, before they are slowed down.
FREE_UNKNOWN_KEYS = 20


@lru_cache(maxsize=1)
def _shared() -> FixedWindowRateLimiter:
    """Counts in Redis, wrapped so that its errors are known as such."""
    pool = client().connection_pool
    prefix = f"{settings().redis_namespace}:throttle"
    return FixedWindowRateLimiter(
        RedisStorage("redis://", connection_pool=pool, key_prefix=prefix, wrap_exceptions=True)
    )


@lru_cache(maxsize=1)
def _own() -> Windows:
    """Counts of this process while Redis is away."""
    return Windows(STEPS.get_expiry())


@lru_cache(maxsize=1)
def _addresses() -> Windows:
    return Windows(MINUTE)


@lru_cache(maxsize=1)
def _keys() -> Windows:
    return Windows(MINUTE)


@lru_cache(maxsize=1)
def _unknown_keys() -> Windows:
    return Windows(MINUTE)


@lru_cache(maxsize=1)
def _key_tries() -> KeyTries:
    return KeyTries()


def _refuse(wait: float) -> None:
    seconds = max(1, round(wait))
    said = f"Too many attempts. Try again in {_in_words(seconds)}."
    raise ProblemError(429, said, retry_after=seconds, reason=Reason.RATE)


def _in_words(seconds: int) -> str:
    """A wait, rounded up: to seconds below a minute and a half, to minutes above."""
    if seconds < 90:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    return f"{-(-seconds // 60)} minutes"


def sign_in(request: Request) -> None:
    """Count a step of connecting: by account for who is signed in, by address otherwise; raises `ProblemError` 429."""
    session = request.state.browser.session
    _count(STEPS, "sign-in", f"account-{session.account_id}" if session else client_label(request))


def viewer_sign_in(request: Request) -> None:
    """Count a step of a sign-in to the panel, by address; raises `ProblemError` 429."""
    _count(STEPS, "viewer-sign-in", client_label(request))


def _count(item: RateLimitItem, what: str, name: str) -> None:
    """Count in Redis; each process counts alone without it."""
    try:
        limiter = _shared()
        if not limiter.hit(item, what, name):
            _refuse(limiter.get_window_stats(item, what, name).reset_time - time.time())
    except StorageError:
        if _own().hit(f"{what} {name}") > item.amount:
            _refuse(_own().ends_in())


@contextmanager
def key_try(request: Request, key: str, email: str) -> Iterator[None]:
    """Count a try to sign in with a Copper key, which the block makes; raises `ProblemError` 429 where it must wait.

    Wrong ones are counted by address and by the email address typed: the more there were, the longer the next one
    waits, a minute at most, and nobody is ever locked out. A key that has worked here before does not wait for
    others' wrong ones; only how often it comes itself is bounded. A block that raises was a wrong try.
    """
    if known_keys.account_of_key(key) is not None:
        _count(KNOWN_KEY, "known-key", pseudonym("copper-key", key))
        yield
        return
    tries = _key_tries()
    names = (f"address:{client_label(request)}", f"email:{pseudonym('email', email.strip().casefold())}")
    wait = tries.begin(names)
    if wait:
        _refuse(wait)
    try:
        yield
    except ProblemError:
        # For want of a place, say: nothing was tried.
        tries.forgive(names)
        raise
    tries.forgive(names)


def api(request: Request, key: bytes) -> None:
    """Count an API call by its address, and see whether its key may make another; raises `ProblemError` 429.

    An address that is refused costs nothing more. A key is counted once it is known to exist (`known_key`): whoever
    makes keys up leaves nothing behind.
    """
    limit = settings().api_minute_limit
    if _addresses().hit(network_of(address_of(request))) > limit:
        _refuse(_addresses().ends_in())
    if _keys().count(key) >= limit:
        _refuse(_keys().ends_in())


def known_key(key: bytes) -> None:
    """Count a call of a key that exists, by its digest."""
    _keys().hit(key)


def unknown_key(request: Request) -> bool:
    """Count a call with a key that does not exist; returns whether its address has made many of them."""
    return _unknown_keys().hit(network_of(address_of(request))) > FREE_UNKNOWN_KEYS
