"""Liveness and readiness of the web process."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from runtime.redis_client import is_available
from runtime.settings import settings
from store.db.database import UNAVAILABLE_ERRORS, ping, run_with_retry
from store.db.read_replica import replica_lag
from store.db.schema_version import is_at_head
from web.state import web_state

router = APIRouter(include_in_schema=False)
CACHE_SECONDS = 5.0


class Readiness:
    """Whether the schema is at head and Redis is available; checked every five seconds at most."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._checked_at = -CACHE_SECONDS
        self._result = (False, False)

    async def check(self) -> tuple[bool, bool]:
        """Both results, at most five seconds old."""
        async with self._lock:
            if time.monotonic() - self._checked_at >= CACHE_SECONDS:
                self._result = await run_in_threadpool(is_at_head), await run_in_threadpool(is_available)
                self._checked_at = time.monotonic()
            return self._result


@router.get("/healthz")
async def liveness() -> Response:
    """The process responds."""
    return Response("ok\n", media_type="text/plain")


def _describe_replica() -> str:
    """What is known of the standby that serves reads; '' without one."""
    if not settings().read_database_url:
        return ""
    lag = replica_lag()
    if lag.is_replica_away:
        return "read replica: away; the primary serves reads"
    state = "serves reads" if lag.prefers_replica else "too far behind; the primary serves reads"
    return f"read replica: {state}" if lag.seconds < 1 else f"read replica: {lag.seconds:.0f} s behind; {state}"


@router.get("/readyz")
async def readiness(request: Request) -> Response:
    """The dependencies of the process, one per line; 503 if it can neither store events nor serve reads.

    Redis is reported, but its absence is no reason for a 503: without it the process still does both, and taking it out
    of service would lose notifications, because Copper never redelivers. A database that is away is a 503 as a problem
    document, unless a standby serves the reads.
    """
    replica = _describe_replica()
    try:
        await run_with_retry(web_state(request).pool, ping)
    except UNAVAILABLE_ERRORS:
        if not replica or replica_lag().is_replica_away:
            raise
        lines = ["database: away; events are refused, so that Xero delivers them again", replica, "ready for reads"]
        return Response("\n".join(lines) + "\n", media_type="text/plain")
    is_at_head, has_redis = await web_state(request).readiness.check()
    lines = [
        "database: reached",
        f"migrations: {'at head' if is_at_head else 'behind: run `patina migrate`'}",
        f"redis: {'reached' if has_redis else 'unavailable; events are stored and processed once it is back'}",
        replica,
        "ready" if is_at_head else "not ready",
    ]
    return Response("\n".join(filter(None, lines)) + "\n", 200 if is_at_head else 503, media_type="text/plain")
