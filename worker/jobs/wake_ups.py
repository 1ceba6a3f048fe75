"""A Redis broker whose idle consumers are woken by each new message.

Dramatiq's consumers poll Redis: often, which costs CPU while nothing happens, or rarely, which delays every first job.
Here the sender announces a message on a channel, and one thread of each worker process listens and wakes the consumer
of its queue. Consumers still poll once in `POLL_SECONDS`, and as often as Dramatiq's while the thread does not listen:
an announcement that is lost delays a job, nothing more.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
import structlog
from dramatiq import Message
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import ConnectionClosed
from typing_extensions import override

from runtime.redis_client import as_text

log = structlog.get_logger()
POLL_SECONDS = 1.0
IDLE_TICK_SECONDS = 0.2
LISTEN_SECONDS, RECONNECT_SECONDS = 1.0, 1.0
# How long Dramatiq's own consumer sleeps after an empty fetch: the waiting is done here.
FETCH_PAUSE_MS = 1


@contextmanager
def _redis_errors_as_dramatiq_expects() -> Iterator[None]:
    """A consumer thread begins again after an error of Dramatiq's own kind. With any other it could end for good."""
    try:
        yield
    except redis.RedisError as error:
        raise ConnectionClosed(error) from error


class Announcements:
    """The channel on which senders announce messages, and the events that wake this process's consumers."""

    def __init__(self, client: redis.Redis, channel: str) -> None:
        self._client, self._channel = client, channel
        self._events: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.is_listening = False

    def announce(self, queue_name: str) -> None:
        """Tell the workers of all hosts that a queue has a new message. Best effort: they poll as well."""
        try:
            self._client.publish(self._channel, queue_name)
        except redis.RedisError as error:
            log.info("message.announcement_failed", queue=queue_name, error=type(error).__name__)

    def event(self, queue_name: str) -> threading.Event:
        """The event that is set when this queue has a new message. The first call in a process starts to listen."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, daemon=True, name="announcements")
                self._thread.start()
            return self._events[queue_name]

    def _listen(self) -> None:
        while True:
            try:
                with self._client.pubsub() as subscription:
                    subscription.subscribe(self._channel)
                    self._receive(subscription)
            except (redis.RedisError, OSError) as error:
                log.info("announcements.unavailable", error=type(error).__name__)
            self.is_listening = False
            time.sleep(RECONNECT_SECONDS)

    def _receive(self, subscription: Any) -> None:
        while True:
            announcement = subscription.get_message(timeout=LISTEN_SECONDS)
            if announcement is None:
                continue
            if announcement["type"] == "message":
                self.event(as_text(announcement["data"])).set()
            elif announcement["type"] == "subscribe":
                # Also after a reconnection of the client.
                self.is_listening = True
                self._wake_all()

    def _wake_all(self) -> None:
        """Messages that were sent before this process listened were not announced to it."""
        with self._lock:
            for event in self._events.values():
                event.set()


class WakeUpBroker(RedisBroker):
    """Dramatiq's Redis broker, with announcements of its messages."""

    def __init__(self, *, client: redis.Redis, namespace: str, **options: Any) -> None:
        super().__init__(client=client, namespace=namespace, **options)  # type: ignore[no-untyped-call]
        self._announcements = Announcements(client, f"{namespace}:announcements")

    @override
    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Send a message. Raises `ConnectionClosed` without Redis, which Dramatiq's consumer threads survive."""
        with _redis_errors_as_dramatiq_expects():
            enqueued: Message[Any] = super().enqueue(message, delay=delay)
        self._announcements.announce(enqueued.queue_name)
        return enqueued

    @override
    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5_000) -> Consumer:
        consumer = super().consume(queue_name, prefetch, FETCH_PAUSE_MS)
        return _WakeUpConsumer(consumer, self._announcements, queue_name, timeout / 1_000)


class _WakeUpConsumer(Consumer):
    """A consumer that waits for an announcement before it fetches from an empty queue.

    It returns None, as Dramatiq expects, at least every `tick` seconds while it has messages, so that delayed ones are
    on time, and else often enough to stop soon.
    """

    def __init__(self, consumer: Consumer, announcements: Announcements, queue_name: str, tick: float) -> None:
        self._consumer, self._announcements, self._tick = consumer, announcements, tick
        self._event = announcements.event(queue_name)
        self._has_more = True
        self._fetched_at = 0.0
        self._unfinished: set[str] = set()

    @override
    def __next__(self) -> MessageProxy | None:
        if not self._has_more and not self._is_due():
            return None
        # Cleared before the fetch: a message that comes after it sets the event again.
        self._event.clear()
        self._fetched_at = time.monotonic()
        message = next(self._consumer)
        self._has_more = message is not None
        if message is not None:
            self._unfinished.add(message.message_id)
        return message

    def _is_due(self) -> bool:
        """Wait for an announcement, no longer than a tick; whether to fetch now."""
        is_listening = self._announcements.is_listening
        if self._event.wait(self._tick if self._unfinished or not is_listening else IDLE_TICK_SECONDS):
            return True
        return not is_listening or time.monotonic() - self._fetched_at >= POLL_SECONDS

    @override
    def ack(self, message: MessageProxy) -> None:
        """Acknowledge a message. Another one may be fetched now."""
        self._consumer.ack(message)
        self._finish(message)

    @override
    def nack(self, message: MessageProxy) -> None:
        """Reject a message. Another one may be fetched now."""
        self._consumer.nack(message)
        self._finish(message)

    def _finish(self, message: MessageProxy) -> None:
        self._unfinished.discard(message.message_id)
        self._event.set()

    @override
    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Return messages that were fetched and not begun."""
        returned = list(messages)
        with _redis_errors_as_dramatiq_expects():
            self._consumer.requeue(returned)
        self._unfinished.difference_update(message.message_id for message in returned)

    @override
    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()
