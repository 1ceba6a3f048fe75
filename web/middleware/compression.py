"""Compresses responses where that gives nothing away: static files, the panel, and the API.

The size of a compressed response may reveal a secret in it to somebody who can make a browser request it with texts of
their choice (the BREACH attack). Static files have no secrets, and the panel and the API are requested with a key in a
header, which no other site can make a browser send. Pages, which are requested with a cookie, are not compressed.
"""

from __future__ import annotations

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIXES = ("/static/", "/panel", "/v1/")
# Rows of an export are sent as they are read, and compression would hold them back.
EXPORTS = (".csv", ".jsonl")
# Below this, the time to compress a response is longer than the time to send the rest of it.
MINIMUM_BYTES = 4_096
LEVEL = 5


class CompressionMiddleware:
    """Compresses responses of at least 4 kB to requests that accept gzip."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        # Nothing that is compressed here has a type to exclude, and Starlette prepares its own list for each request.
        self.compressed = GZipMiddleware(app, minimum_size=MINIMUM_BYTES, compresslevel=LEVEL, exclude_content_types=())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"] if scope["type"] == "http" else ""
        is_compressed = path.startswith(PREFIXES) and not path.endswith(EXPORTS)
        await (self.compressed if is_compressed else self.app)(scope, receive, send)
