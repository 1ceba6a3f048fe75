"""What a webhook's body may be."""

from __future__ import annotations

BODY_LIMIT = 1024 * 1024
BODY_SECONDS = 10
