"""Listens on Redis for accounts whose rows change. Without Redis, panels still refresh when their long polls end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import redis
import structlog

from runtime.numbers import whole_number
from runtime.redis_client import create_async_client
from store.db.read_replica import replica_lag
from worker.sync.change_channel import channel_name

log = structlog.get_logger()
RECONNECT_SECONDS = 2.0
REPLAY_POLL_SECONDS = 0.25


async def listen(notify: Callable[[int], None]) -> None:
    """Call `notify` with the id of each account whose rows change, until cancelled; reconnects after Redis errors."""
    notifier = ChangeNotifier(notify)
    while True:
        try:
            await _subscribe(notifier)
        except (redis.RedisError, OSError) as error:
            log.info("changes.subscribe_failed", error=type(error).__name__)
        await asyncio.sleep(RECONNECT_SECONDS)


class ChangeNotifier:
    """Notifies of changed accounts, and again once a standby that serves the reads shows the change."""

    def __init__(self, notify: Callable[[int], None]) -> None:
        self._notify = notify
        self._changed_at: dict[int, float] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, account_id: int) -> None:
        """The account's rows have just changed."""
        self._notify(account_id)
        if replica_lag().prefers_replica:
            self._changed_at[account_id] = time.monotonic()
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._notify_again())

    async def _notify_again(self) -> None:
        while self._changed_at:
            await asyncio.sleep(REPLAY_POLL_SECONDS)
            lag = replica_lag()
            for account_id, changed_at in list(self._changed_at.items()):
                if lag.has_replayed(changed_at) or not lag.prefers_replica:
                    del self._changed_at[account_id]
                    self._notify(account_id)


async def _subscribe(notifier: ChangeNotifier) -> None:
    client = create_async_client()
    try:
        async with client.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(channel_name())
            while True:
                message = await subscription.get_message(timeout=10)
                account_id = whole_number(message["data"].decode()) if message else None
                if account_id is not None:
                    notifier.add(account_id)
    finally:
        await client.aclose()
