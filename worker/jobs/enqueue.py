"""Send each job at most once while it is pending: a deduplication key in Redis stands for the pending message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dramatiq
import redis
import structlog

from runtime.redis_client import shared_client
from runtime.settings import settings
from worker.jobs.broker import Job, broker

log = structlog.get_logger()
# While messages wait in a queue, the sweep sends no second one for the same work within this time.
DEDUP_SECONDS = 10
MAX_DELAY_SECONDS = 60.0


def _dedup_key(job_name: str, args: tuple[Any, ...]) -> str:
    return ":".join([settings().redis_namespace, "dedup", job_name, *map(str, args)])


def enqueue_once(job: Job, *args: Any) -> bool:
    """Run `job` soon; repeated calls before it starts send only one message.

    Returns False if Redis is unavailable: the sweep will find the pending rows.
    """
    return _enqueue(job, args, is_repeated=False)


def enqueue_overdue(job: Job, pending: Sequence[tuple[Any, ...]]) -> None:
    """Run `job` soon for each of the arguments: work that should have begun already.

    A message can be lost with the host that took it, or with Redis. If none waits in the job's queue, each gets a new
    one, whatever was sent before: the queue grows by one message for each at most. Otherwise theirs may still come.
    """
    if not pending:
        return
    is_repeated = _is_queue_empty(job)
    for args in pending:
        _enqueue(job, args, is_repeated=is_repeated)


def _is_queue_empty(job: Job) -> bool:
    """Whether no message waits for a worker; those that workers have fetched do not count."""
    try:
        return shared_client().llen(f"{broker().namespace}:{job.queue_name}") == 0
    except redis.RedisError:
        return False


def _enqueue(job: Job, args: tuple[Any, ...], *, is_repeated: bool) -> bool:
    try:
        key = _dedup_key(job.name, args)
        if shared_client().set(key, "1", nx=not is_repeated, ex=DEDUP_SECONDS):
            try:
                job.send(*args)
            except Exception:
                shared_client().delete(key)
                raise
    except (redis.RedisError, dramatiq.BrokerError) as error:
        log.warning("enqueue.failed", job=job.name, error=type(error).__name__)
        return False
    return True


def enqueue_later(job: Job, seconds: float, *args: Any) -> bool:
    """Run `job` in `seconds`. Delays over a minute are left to the sweep.

    The delay itself is stored in PostgreSQL (`not_before`): the message only runs the job before the next sweep would.
    """
    if seconds > MAX_DELAY_SECONDS:
        return False
    try:
        key = _dedup_key(f"{job.name}:later", args)
        if shared_client().set(key, "1", nx=True, px=max(int(seconds * 1000), 1)):
            job.send(*args, delay_ms=int(seconds * 1000) + 50)
    except (redis.RedisError, dramatiq.BrokerError) as error:
        log.warning("enqueue.failed", job=job.name, error=type(error).__name__)
        return False
    return True


def clear_dedup_key(job_name: str, *args: Any) -> None:
    """Delete a job's deduplication key, so that the next `enqueue_once` sends a message again.

    The job calls this before it reads its rows: a row that arrives while it works starts another job.
    """
    try:
        shared_client().delete(_dedup_key(job_name, args))
    except redis.RedisError as error:
        log.warning("dedup_key.delete_failed", job=job_name, error=type(error).__name__)
