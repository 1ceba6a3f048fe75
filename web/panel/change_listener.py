"""Listens on Redis for accounts whose rows change. Without Redis, panels still refresh when their long polls end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import redis
import structlog
from redis import asyncio as redis_async

from runtime.numbers import whole_number
from runtime.service_urls import redis_url
from worker.sync.change_channel import channel_name

log = structlog.get_logger()
RECONNECT_SECONDS = 2.0


async def listen(notify: Callable[[int], None]) -> None:
    """Call `notify` with the id of each account whose rows change, until cancelled; reconnects after Redis errors."""
    while True:
        try:
            await _subscribe(notify)
        except (redis.RedisError, OSError) as error:
            log.info("changes.subscribe_failed", error=type(error).__name__)
        await asyncio.sleep(RECONNECT_SECONDS)


async def _subscribe(notify: Callable[[int], None]) -> None:
    client = redis_async.Redis.from_url(redis_url(), socket_connect_timeout=1, health_check_interval=30)
    try:
        async with client.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(channel_name())
            while True:
                message = await subscription.get_message(timeout=10)
                account_id = whole_number(message["data"].decode()) if message else None
                if account_id is not None:
                    notify(account_id)
    finally:
        await client.aclose()
