"""Dramatiq on Redis. A message says "look at your rows"; it never carries the only copy of anything."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dramatiq
import redis
import structlog
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AgeLimit, Callbacks, Pipelines, Retries, ShutdownNotifications, TimeLimit
from typing_extensions import override

from runtime import embedded, logs, tracing
from runtime.settings import settings
from worker import heartbeat

log = structlog.get_logger()
HEARTBEAT_MS = 5_000
TIME_LIMIT_MS = 10 * 60 * 1000
# A message may be lost with the host that took it: after this long, the next look sends another.
WAKE_SECONDS = 10
LONGEST_DELAY = 60.0
IDLE_MS = 50
TURN_MS = 20_000
# Valkey, which began at 7.2, gives its own version.
MIN_REDIS = (7, 2)
END_TURN = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end"


@lru_cache(maxsize=1)
def client() -> redis.Redis:
    """The process's Redis, with every wait bounded."""
    return redis.Redis.from_url(
        embedded.redis_url(),
        socket_connect_timeout=1,
        socket_timeout=10,
        health_check_interval=30,
    )


class Watched(dramatiq.Middleware):
    """Sets up the logs, traces and heartbeat of each worker process."""

    def __init__(self) -> None:
        self._stopping = threading.Event()

    @override
    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        logs.configure("worker")
        tracing.start("worker")

    @override
    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        log.info(
            "worker.started",
            threads=worker.worker_threads,
            prefetch=worker.queue_prefetch,
            idle_ms=worker.worker_timeout,
        )
        threading.Thread(target=heartbeat.keep, args=("worker", self._stopping), daemon=True, name="heartbeat").start()

    @override
    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._stopping.set()

    @override
    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        tracing.stop()


def _metrics() -> list[dramatiq.Middleware]:
    """Dramatiq's own figures, where they are wanted: its module makes a folder as soon as it is imported."""
    if not settings().worker_metrics_port:
        return []
    from dramatiq.middleware.prometheus import Prometheus

    return [Prometheus()]


@lru_cache(maxsize=1)
def broker() -> RedisBroker:
    """The process's broker, set as Dramatiq's own. A killed worker's message comes back in seconds."""
    made = RedisBroker(
        client=client(),
        namespace=f"{settings().redis_namespace}:dramatiq",
        heartbeat_timeout=HEARTBEAT_MS,
        maintenance_chance=10_000,
        middleware=[
            AgeLimit(),
            TimeLimit(time_limit=TIME_LIMIT_MS),
            ShutdownNotifications(),
            Callbacks(),
            Pipelines(),
            Retries(max_retries=0),
            Watched(),
            *_metrics(),
        ],
    )
    dramatiq.set_broker(made)
    return made


def _key(actor: str, args: tuple[Any, ...]) -> str:
    return ":".join([settings().redis_namespace, "wake", actor, *map(str, args)])


def wake(actor: dramatiq.Actor[..., None], *args: Any) -> bool:
    """Have `actor` look at its rows soon; many calls before it does become one message.

    Returns False when Redis could not be reached: the sweep will find what waits.
    """
    try:
        key = _key(actor.actor_name, args)
        if client().set(key, "1", nx=True, ex=WAKE_SECONDS):
            try:
                actor.send(*args)
            except Exception:
                client().delete(key)
                raise
    except (redis.RedisError, dramatiq.BrokerError) as error:
        log.warning("wake.failed", actor=actor.actor_name, error=type(error).__name__)
        return False
    return True


def wake_later(actor: dramatiq.Actor[..., None], seconds: float, *args: Any) -> bool:
    """Have `actor` look at its rows in some seconds. Beyond a minute it is left to the sweep.

    The wait itself is in PostgreSQL (`not_before`): the message only saves the sweep's delay.
    """
    if seconds > LONGEST_DELAY:
        return False
    try:
        key = _key(f"{actor.actor_name}:later", args)
        if client().set(key, "1", nx=True, px=max(int(seconds * 1000), 1)):
            actor.send_with_options(args=args, delay=int(seconds * 1000) + 50)
    except (redis.RedisError, dramatiq.BrokerError) as error:
        log.warning("wake.failed", actor=actor.actor_name, error=type(error).__name__)
        return False
    return True


@contextmanager
def turn(name: str, at_once: int) -> Iterator[bool]:
    """Whether this job may work on `name`: `at_once` may, and who may not leaves it to them.

    They look once more after their turn, so nothing that came meanwhile is missed. A killed worker's turn ends
    by itself. Without Redis everybody may.
    """
    mine, token = None, secrets.token_hex(8)
    try:
        for number in range(at_once):
            key = f"{settings().redis_namespace}:turn:{name}:{number}"
            if client().set(key, token, nx=True, px=TURN_MS):
                mine = key
                break
    except redis.RedisError:
        mine = ""
    try:
        yield mine is not None
    finally:
        if mine:
            try:
                client().eval(END_TURN, 1, mine, token)
            except redis.RedisError as error:
                log.info("turn.kept", error=type(error).__name__)


def text_of(value: bytes | str) -> str:
    """What Redis answered, as text: its client says either."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def is_reached() -> bool:
    """Whether Redis answers."""
    try:
        return bool(client().ping())
    except redis.RedisError:
        return False


@dataclass(frozen=True)
class RedisServer:
    """What answers at REDIS_URL: Redis or what speaks its protocol. `evicts` where it drops keys to make room."""

    name: str
    version: str
    evicts: bool

    @property
    def is_maintained(self) -> bool:
        """Whether this version may still be mended by those who make it."""
        return tuple(int(part) for part in self.version.split(".")[:2]) >= MIN_REDIS


def redis_server() -> RedisServer:
    """What Redis says of itself; raises `redis.RedisError` when it does not answer."""
    told = client().info("server") | client().info("memory")
    name = "valkey" if "valkey_version" in told else "redis"
    policy = str(told.get("maxmemory_policy", "noeviction"))
    return RedisServer(name.capitalize(), str(told[f"{name}_version"]), policy != "noeviction")


def changes_channel() -> str:
    """Where the ids of accounts are told whose rows have just changed."""
    return f"{settings().redis_namespace}:changed"


def tell_changed(account_id: int) -> None:
    """Tell open panels that an account's rows changed. Nobody depends on it: they look by themselves too."""
    try:
        client().publish(changes_channel(), account_id)
    except redis.RedisError as error:
        log.info("change.untold", account=account_id, error=type(error).__name__)


def awake(actor: str, *args: Any) -> None:
    """Drop the key that coalesces wake-ups: what comes from now on wakes the next run.

    Called before the rows are read, so that nothing which comes during the work is missed.
    """
    try:
        client().delete(_key(actor, args))
    except redis.RedisError as error:
        log.warning("wake.key_kept", actor=actor, error=type(error).__name__)
