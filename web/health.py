"""Whether this process lives, and whether it can do its work."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from store.database import answers, at_head, using
from worker.broker import is_reached

router = APIRouter(include_in_schema=False)
TRUSTED_SECONDS = 5.0


class Readiness:
    """Whether the schema is at head and Redis answers, looked at every five seconds at most, however often asked."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._looked_at = -TRUSTED_SECONDS
        self._found = (False, False)

    async def look(self) -> tuple[bool, bool]:
        """Both, five seconds old at most."""
        async with self._lock:
            if time.monotonic() - self._looked_at >= TRUSTED_SECONDS:
                self._found = await run_in_threadpool(at_head), await run_in_threadpool(is_reached)
                self._looked_at = time.monotonic()
            return self._found


@router.get("/healthz")
async def alive() -> Response:
    """The process answers."""
    return Response("ok\n", media_type="text/plain")


@router.get("/readyz")
async def ready(request: Request) -> Response:
    """What the process needs, a line each; 503 when it cannot keep events or answer reads.

    Without Redis it can do both, and taking it out of service would lose what Copper sends once: so that is told,
    and is no reason for a 503. A database that does not answer is a 503 as a problem document.
    """
    await using(request.app.state.pool, answers)
    current, redis = await request.app.state.readiness.look()
    lines = [
        "database: reached",
        f"migrations: {'at head' if current else 'behind: run `patina migrate`'}",
        f"redis: {'reached' if redis else 'away; events are kept and applied once it is back'}",
        "ready" if current else "not ready",
    ]
    return Response("\n".join(lines) + "\n", 200 if current else 503, media_type="text/plain")
