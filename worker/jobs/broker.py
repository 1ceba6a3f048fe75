"""The Dramatiq broker on Redis, and the jobs that it carries.

A message says "process your pending rows"; it never carries the only copy of data. The broker is created when the first
job is sent or the worker starts, so importing a job's module needs no settings and no Redis.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import dramatiq
import structlog
from dramatiq.middleware import AgeLimit, Callbacks, Pipelines, Retries, ShutdownNotifications, TimeLimit
from typing_extensions import override

from runtime import logs, tracing
from runtime.process_values import once_per_process
from runtime.redis_client import shared_client
from runtime.settings import settings
from store.db.database import ConnectionLostError
from worker.jobs import heartbeat
from worker.jobs.wake_ups import WakeUpBroker
from worker.sync import lease_keeper

log = structlog.get_logger()
HEARTBEAT_MS = 5_000
# In a million fetches, so many look for messages of dead workers: some a second, as idle consumers fetch once a second.
MAINTENANCE_CHANCE = 200_000
TIME_LIMIT_MS = 10 * 60 * 1000
RECONNECT_DELAY_MS = (1_000, 3_000)


@dataclass(frozen=True)
class Job:
    """A function that workers run. `queue_name` decides which other jobs it waits for."""

    fn: Callable[..., None]
    queue_name: str

    @property
    def name(self) -> str:
        """Its name in messages, metrics and logs."""
        return self.fn.__name__

    def send(self, *args: Any, delay_ms: int | None = None) -> None:
        """Send a message for it, for now or for later. Raises Dramatiq's and Redis's errors."""
        broker().get_actor(self.name).send_with_options(args=args, delay=delay_ms)


_jobs: list[Job] = []


def job(queue_name: str) -> Callable[[Callable[..., None]], Job]:
    """Decorate a function that workers run, with positional arguments that JSON can represent.

    Dramatiq does not repeat a job that failed: the sweep finds the pending rows. A job that lost its connection to the
    database is sent again, so that it continues within seconds of the database's return.
    """

    def declare(fn: Callable[..., None]) -> Job:
        _jobs.append(Job(fn, queue_name))
        return _jobs[-1]

    return declare


def _postponed_without_database(declared: Job) -> Callable[..., None]:
    """The job's function, sent again in some seconds if its connection to the database was lost.

    It is sent once more when its leases have been returned: one that runs before that has nothing to do.
    """

    @wraps(declared.fn)
    def run(*args: Any) -> None:
        try:
            declared.fn(*args)
        except ConnectionLostError as error:
            delay_ms = random.randint(*RECONNECT_DELAY_MS)
            log.warning("job.postponed", job=declared.name, delay_ms=delay_ms, error=type(error.orig).__name__)
            lease_keeper.after_returns(partial(declared.send, *args))
            declared.send(*args, delay_ms=delay_ms)

    return run


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


@once_per_process
def broker() -> WakeUpBroker:
    """The process's broker with all jobs, set as Dramatiq's global one.

    A killed worker's messages are redelivered within seconds.
    """
    redis_broker = WakeUpBroker(
        client=shared_client(),
        namespace=f"{settings().redis_namespace}:dramatiq",
        heartbeat_timeout=HEARTBEAT_MS,
        maintenance_chance=MAINTENANCE_CHANCE,
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
    for declared in _jobs:
        declare = dramatiq.actor(
            actor_name=declared.name, queue_name=declared.queue_name, broker=redis_broker, max_retries=0
        )
        declare(_postponed_without_database(declared))
    dramatiq.set_broker(redis_broker)
    return redis_broker
