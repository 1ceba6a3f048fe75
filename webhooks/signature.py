"""Webhook signature verification."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable


def verify_xero(body: bytes, signature: str, keys: Iterable[str]) -> bool:
    """Whether `signature` is the base64 HMAC-SHA256 of the raw body under one of `keys`.

    Compared in constant time, and with every key, so that the response time does not reveal which key is in use
    (Xero docs: configuring-your-server). Two keys are active during a key rotation. White space around a header value
    does not belong to the value (RFC 9110, 5.5).
    """
    given = signature.strip(" \t").encode("utf-8", "replace")
    is_valid = False
    for key in keys:
        expected = base64.b64encode(hmac.digest(key.encode(), body, "sha256"))
        is_valid |= hmac.compare_digest(expected, given)
    return is_valid


def verify_copper(given: object, secret: str) -> bool:
    """Whether a notification carries the account's secret; compared in constant time."""
    text = given if isinstance(given, str) else ""
    return hmac.compare_digest(text.encode("utf-8", "replace"), secret.encode())
