"""The Dramatiq broker on Redis. A message says "process your pending rows"; it never carries the only copy of data."""

from __future__ import annotations

import threading
from functools import lru_cache

import dramatiq
import structlog
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AgeLimit, Callbacks, Pipelines, Retries, ShutdownNotifications, TimeLimit
from typing_extensions import override

from runtime import logs, tracing
from runtime.redis_client import shared_client
from runtime.settings import settings
from worker.jobs import heartbeat

log = structlog.get_logger()
HEARTBEAT_MS = 5_000
TIME_LIMIT_MS = 10 * 60 * 1000


class ProcessSetupMiddleware(dramatiq.Middleware):
    """Sets up logging, tracing and the heartbeat of each worker process."""

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
        threading.Thread(
            target=heartbeat.record_periodically, args=("worker", self._stopping), daemon=True, name="heartbeat"
        ).start()

    @override
    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._stopping.set()

    @override
    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        tracing.stop()


def _metrics() -> list[dramatiq.Middleware]:
    """Dramatiq's own metrics if they are enabled. Imported late: the import alone creates a folder."""
    if not settings().worker_metrics_port:
        return []
    from dramatiq.middleware.prometheus import Prometheus

    return [Prometheus()]


@lru_cache(maxsize=1)
def broker() -> RedisBroker:
    """The process's broker, set as Dramatiq's global one. A killed worker's messages are redelivered within seconds."""
    redis_broker = RedisBroker(
        client=shared_client(),
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
            ProcessSetupMiddleware(),
            *_metrics(),
        ],
    )
    dramatiq.set_broker(redis_broker)
    return redis_broker
