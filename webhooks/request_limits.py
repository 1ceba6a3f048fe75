"""Limits of a request's body; `web.middleware.request_limits` applies them to every request."""

from __future__ import annotations

MAX_BODY_BYTES = 1024 * 1024
MAX_BODY_SECONDS = 10
