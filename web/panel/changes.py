"""Who waits for an account's rows to change: open panels hear of it from Redis, and look by themselves without it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import redis
import structlog
from redis import asyncio as redis_async

from runtime import embedded
from runtime.numbers import whole_number
from worker.broker import changes_channel

log = structlog.get_logger()
MOST_WAITING = 2_000
AGAIN_SECONDS = 2.0


class Changes:
    """Wakes whoever waits. At most 2,000 wait in one process; who comes after that is answered at once."""

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._count = 0
        self._ended = False

    @property
    def is_closed(self) -> bool:
        """Whether nobody more may wait: too many do, or the process is to stop."""
        return self._ended or self._count > MOST_WAITING

    def end(self) -> None:
        """Let everybody go, and nobody wait from now on."""
        self._ended = True
        for account_id in self._waiting:
            self.tell(account_id)

    @contextmanager
    def of(self, account_id: int) -> Iterator[asyncio.Event]:
        """An event that is set when the account's rows change. Taken before a look, so that nothing is missed."""
        event = asyncio.Event()
        known = self._waiting.setdefault(account_id, set())
        known.add(event)
        self._count += 1
        try:
            yield event
        finally:
            self._count -= 1
            known.discard(event)
            if not known:
                self._waiting.pop(account_id, None)

    def tell(self, account_id: int) -> None:
        """The account's rows changed."""
        for event in self._waiting.get(account_id, ()):
            event.set()

    async def listen(self) -> None:
        """Hear of changes until cancelled; while Redis is away, nobody is woken."""
        while True:
            try:
                await self._hear()
            except (redis.RedisError, OSError) as error:
                log.info("changes.unheard", error=type(error).__name__)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _hear(self) -> None:
        client = redis_async.Redis.from_url(embedded.redis_url(), socket_connect_timeout=1, health_check_interval=30)
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as heard:
                await heard.subscribe(changes_channel())
                while True:
                    message = await heard.get_message(timeout=10)
                    account_id = whole_number(message["data"].decode()) if message else None
                    if account_id is not None:
                        self.tell(account_id)
        finally:
            await client.aclose()
