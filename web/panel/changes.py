"""Whose rows change: open panels hear of it from Redis, and look by themselves without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import redis
import structlog
from redis import asyncio as redis_async

from runtime import embedded
from runtime.numbers import whole_number
from worker.broker import changes_channel

log = structlog.get_logger()
AGAIN_SECONDS = 2.0


async def listen(notify: Callable[[int], None]) -> None:
    """Call `notify` with each account whose rows change, until cancelled; while Redis is away, with none."""
    while True:
        try:
            await _subscribe(notify)
        except (redis.RedisError, OSError) as error:
            log.info("changes.unheard", error=type(error).__name__)
        await asyncio.sleep(AGAIN_SECONDS)


async def _subscribe(notify: Callable[[int], None]) -> None:
    client = redis_async.Redis.from_url(embedded.redis_url(), socket_connect_timeout=1, health_check_interval=30)
    try:
        async with client.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(changes_channel())
            while True:
                message = await subscription.get_message(timeout=10)
                account_id = whole_number(message["data"].decode()) if message else None
                if account_id is not None:
                    notify(account_id)
    finally:
        await client.aclose()
