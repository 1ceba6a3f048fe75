"""Reading a webhook's body within bounds."""

from __future__ import annotations

from fastapi import Request

BODY_LIMIT = 1024 * 1024


class TooLargeError(Exception):
    """The body is larger than 1 MiB."""


async def read(request: Request) -> bytes:
    """The raw body, exactly as it came; raises `TooLargeError` beyond 1 MiB, however it is announced."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > BODY_LIMIT:
        raise TooLargeError
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_LIMIT:
            raise TooLargeError
    return bytes(body)


def is_json(request: Request) -> bool:
    """Whether the request says that its body is JSON, and is not compressed."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" and request.headers.get("content-encoding", "identity") == "identity"
