"""Proof that a webhook comes from whom it says."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable


def xero(body: bytes, signature: str, keys: Iterable[str]) -> bool:
    """Whether `signature` is the base64 HMAC-SHA256 of the raw body under one of `keys`.

    Compared in constant time, and against every key, so that nothing tells which one is in use
    (Xero docs: configuring-your-server). Two keys are active while one is rotated. White space around a header's
    value is no part of it (RFC 9110, 5.5).
    """
    given = signature.strip(" \t").encode("utf-8", "replace")
    right = False
    for key in keys:
        wanted = base64.b64encode(hmac.digest(key.encode(), body, "sha256"))
        right |= hmac.compare_digest(wanted, given)
    return right


def copper(given: object, wanted: str) -> bool:
    """Whether a notification carries the account's secret; compared in constant time."""
    text = given if isinstance(given, str) else ""
    return hmac.compare_digest(text.encode("utf-8", "replace"), wanted.encode())
