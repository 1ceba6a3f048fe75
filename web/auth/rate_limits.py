"""Rate limits: for sign-ins and connecting across all processes, for the API by address and key in each process.

Addresses are counted by network (`client_address.network_of`), and stored in Redis as pseudonyms only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter

from runtime.process_values import once_per_process
from runtime.redis_client import shared_client
from runtime.settings import settings
from store.db.crypto import pseudonym
from web.auth.fixed_windows import FixedWindowCounter
from web.auth.sign_in_attempts import SignInAttempts
from web.middleware.client_address import address_of, client_label, network_of
from web.middleware.refusals import RefusalReason
from web.presentation.problems import ProblemError
from worker.vendors.copper import known_keys

CONNECT_LIMIT = parse("100/5minutes")
KNOWN_KEY_LIMIT = parse("30/5minutes")
# Each takes one of the calls that Xero allows an organisation in a day.
CUSTOMER_LINK_LIMIT = parse("30/5minutes")
MINUTE = 60
# Calls per minute and address with unknown keys, beyond which the responses are delayed.
FREE_UNKNOWN_KEYS = 20


@once_per_process
def _redis_limiter() -> FixedWindowRateLimiter:
    """Counts in Redis; its errors are raised as `StorageError`."""
    pool = shared_client().connection_pool
    prefix = f"{settings().redis_namespace}:throttle"
    return FixedWindowRateLimiter(
        RedisStorage("redis://", connection_pool=pool, key_prefix=prefix, wrap_exceptions=True)
    )


@once_per_process
def _fallback_counts() -> FixedWindowCounter:
    """Counts in this process while Redis is unavailable."""
    return FixedWindowCounter(CONNECT_LIMIT.get_expiry())


@once_per_process
def _address_counts() -> FixedWindowCounter:
    return FixedWindowCounter(MINUTE)


@once_per_process
def _key_counts() -> FixedWindowCounter:
    return FixedWindowCounter(MINUTE)


@once_per_process
def _unknown_key_counts() -> FixedWindowCounter:
    return FixedWindowCounter(MINUTE)


@once_per_process
def _sign_in_attempts() -> SignInAttempts:
    return SignInAttempts()


def _raise_429(wait: float) -> None:
    seconds = max(1, round(wait))
    detail = f"Too many attempts. Try again in {_format_wait(seconds)}."
    raise ProblemError(429, detail, retry_after=seconds, reason=RefusalReason.RATE)


def _format_wait(seconds: int) -> str:
    """A wait in seconds, from 90 seconds on rounded up to minutes."""
    if seconds < 90:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    return f"{-(-seconds // 60)} minutes"


def limit_sign_in(request: Request) -> None:
    """Count a step of signing in or connecting, by account or else by address; raises `ProblemError` 429."""
    browser_session = request.state.browser.session
    _count(
        CONNECT_LIMIT, "sign-in", f"account-{browser_session.account_id}" if browser_session else client_label(request)
    )


def limit_viewer_sign_in(request: Request) -> None:
    """Count a step of signing in to the panel, by address; raises `ProblemError` 429."""
    _count(CONNECT_LIMIT, "viewer-sign-in", client_label(request))


def limit_customer_links(viewer: str) -> None:
    """Count a customer link that is fetched from Xero, by viewer or API key; raises `ProblemError` 429."""
    _count(CUSTOMER_LINK_LIMIT, "customer-link", pseudonym("viewer", viewer))


def _count(limit: RateLimitItem, scope: str, name: str) -> None:
    """Count in Redis, or in this process while Redis is unavailable; raises `ProblemError` 429 beyond the limit."""
    try:
        limiter = _redis_limiter()
        if not limiter.hit(limit, scope, name):
            _raise_429(limiter.get_window_stats(limit, scope, name).reset_time - time.time())
    except StorageError:
        if _fallback_counts().hit(f"{scope} {name}") > limit.amount:
            _raise_429(_fallback_counts().seconds_left())


@contextmanager
def limit_key_attempt(request: Request, key: str, email: str) -> Iterator[None]:
    """Count the sign-in attempt with a Copper key that the block makes; raises `ProblemError` 429 if it must wait.

    Failed attempts are counted by address and by the entered email address. Each one makes the next attempt wait
    longer, up to a minute, and nobody is ever locked out. A key that has worked before does not wait for others'
    failures; it only has a rate limit of its own. A block that raises is a failed attempt.
    """
    if known_keys.find_account_by_key(key) is not None:
        _count(KNOWN_KEY_LIMIT, "known-key", pseudonym("copper-key", key))
        yield
        return
    attempts = _sign_in_attempts()
    names = (f"address:{client_label(request)}", f"email:{pseudonym('email', email.strip().casefold())}")
    wait = attempts.begin(names)
    if wait:
        _raise_429(wait)
    try:
        yield
    except ProblemError:
        # For example, no slot was free: the key was not checked.
        attempts.refund(names)
        raise
    attempts.refund(names)


def limit_api_call(request: Request, key: bytes) -> None:
    """Count an API call by its address, and check the limit of its key; raises `ProblemError` 429.

    A key is counted only when it is known to exist (`count_known_key`), so made-up keys take no memory.
    """
    limit = settings().api_requests_per_minute
    if _address_counts().hit(network_of(address_of(request))) > limit:
        _raise_429(_address_counts().seconds_left())
    if _key_counts().count(key) >= limit:
        _raise_429(_key_counts().seconds_left())


def count_known_key(key: bytes) -> None:
    """Count a call with an existing key, by its digest."""
    _key_counts().hit(key)


def count_unknown_key(request: Request) -> bool:
    """Count a call with an unknown key; returns whether its address has made many of them."""
    return _unknown_key_counts().hit(network_of(address_of(request))) > FREE_UNKNOWN_KEYS
