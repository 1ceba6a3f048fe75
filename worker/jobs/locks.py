"""Concurrency limits across all processes, kept in Redis.

Dramatiq's `ConcurrentRateLimiter` is not used because its slots expire all together. Here each slot expires by itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import redis
import structlog

from runtime.redis_client import lua_script, shared_client
from runtime.settings import settings

log = structlog.get_logger()
SLOT_MS = 20_000


@contextmanager
def concurrency_slot(name: str, limit: int) -> Iterator[bool]:
    """Take one of `limit` slots of `name`; yields False if all are taken, and the caller then gives up.

    The holders of the slots check for new work after they release them, so nothing is missed. The slot of a killed
    worker expires after 20 s. Without Redis every caller gets a slot.
    """
    slot_key, token = None, secrets.token_hex(8)
    try:
        for number in range(limit):
            key = f"{settings().redis_namespace}:slot:{name}:{number}"
            if shared_client().set(key, token, nx=True, px=SLOT_MS):
                slot_key = key
                break
    except redis.RedisError:
        slot_key = ""
    try:
        yield slot_key is not None
    finally:
        if slot_key:
            try:
                lua_script(__package__, "slot_release")([slot_key], [token], client=shared_client())
            except redis.RedisError as error:
                log.info("lock.release_failed", error=type(error).__name__)
