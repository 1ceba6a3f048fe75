"""What a webhook's body must be like."""

from __future__ import annotations

from starlette.requests import Request

BODY_LIMIT = 1024 * 1024
BODY_SECONDS = 10


def is_json(request: Request) -> bool:
    """Whether the request says that its body is JSON, and is not compressed."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" and request.headers.get("content-encoding", "identity") == "identity"
