"""Cursors of the read API: opaque to clients, a place in the order to us."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime, timedelta
from uuid import UUID

from store.reads import Position

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
LENGTH = 24


def write(position: Position) -> str:
    """A cursor for the page after `position`."""
    microseconds = (position.created_at - EPOCH) // MICROSECOND
    raw = microseconds.to_bytes(8, "big", signed=True) + position.invoice_id.bytes
    return base64.urlsafe_b64encode(raw).decode()


def read(cursor: str) -> Position:
    """The position that a cursor names; raises `ValueError` for anything that `write` did not make."""
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        if len(raw) != LENGTH:
            raise ValueError
        moment = EPOCH + timedelta(microseconds=int.from_bytes(raw[:8], "big", signed=True))
    except (ValueError, binascii.Error, OverflowError):
        raise ValueError("after: this is not a cursor that `next` gave") from None
    return Position(moment, UUID(bytes=raw[8:]))
