"""Whether this process lives, and whether it can do its work."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def alive() -> Response:
    """The process answers."""
    return Response("ok\n", media_type="text/plain")


@router.get("/readyz")
async def ready(request: Request) -> Response:
    """The process can reach its database; 503 as a problem document otherwise."""
    async with request.app.state.pool.connection() as connection:
        await connection.execute("SELECT 1")
    return Response("ready\n", media_type="text/plain")
