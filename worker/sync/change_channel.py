"""Redis pub/sub: tells open panels which accounts have changed rows."""

from __future__ import annotations

import redis
import structlog

from runtime.redis_client import shared_client
from runtime.settings import settings

log = structlog.get_logger()


def channel_name() -> str:
    """The channel that carries the ids of accounts whose rows have just changed."""
    return f"{settings().redis_namespace}:changed"


def publish_change(account_id: int) -> None:
    """Publish that an account's rows changed. Best effort: panels also poll."""
    try:
        shared_client().publish(channel_name(), account_id)
    except redis.RedisError as error:
        log.info("change.publish_failed", account=account_id, error=type(error).__name__)
