"""Concurrency limits across all processes, kept in Redis.

Dramatiq's `ConcurrentRateLimiter` is not used because its slots expire all together. Here each slot expires by itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import redis
import structlog

from runtime.redis_client import lua_script, shared_client
from runtime.settings import settings
from worker.sync import lease_keeper

log = structlog.get_logger()


@contextmanager
def concurrency_slot(name: str, limit: int) -> Iterator[bool]:
    """Take one of `limit` slots of `name`; yields False if all are taken, and the caller then gives up.

    The holders of the slots check for new work after they release them, so nothing is missed. The slot of a killed
    worker expires after LEASE_SECONDS. Without Redis every caller gets a slot.
    """
    slot_key, token = None, secrets.token_hex(8)
    try:
        for number in range(limit):
            key = f"{settings().redis_namespace}:slot:{name}:{number}"
            if shared_client().set(key, token, nx=True, ex=settings().lease_seconds):
                slot_key = key
                break
    except redis.RedisError:
        slot_key = ""
    if not slot_key:
        yield slot_key is not None
        return
    try:
        with lease_keeper.renewing(partial(_renew, slot_key, token), partial(_release, slot_key, token)):
            yield True
    finally:
        try:
            _release(slot_key, token)
        except redis.RedisError as error:
            log.info("lock.release_failed", error=type(error).__name__)


def _renew(slot_key: str, token: str) -> bool:
    script = lua_script(__package__, "slot_renew")
    return bool(script([slot_key], [token, settings().lease_seconds], client=shared_client()))


def _release(slot_key: str, token: str) -> None:
    lua_script(__package__, "slot_release")([slot_key], [token], client=shared_client())
