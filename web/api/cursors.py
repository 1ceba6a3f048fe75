"""Pagination cursors: opaque to clients, an index position to us."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from runtime.numbers import whole_number
from store.read_model.balances import RankingCursor
from store.read_model.invoice_queries import Position
from store.read_model.unmatched_contacts import ContactPosition
from web.presentation.problems import ProblemError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
POSITION_BYTES = 24
RANKING = re.compile(r"(?P<amount>-?[0-9]{1,40}(\.[0-9]{1,20})?) (?P<record>[0-9]{1,19})")
CONTACT = re.compile(
    r"(?P<amount>-?[0-9]{1,40}(\.[0-9]{1,30})?) (?P<organisation>[0-9]{1,19}) (?P<contact>[0-9a-f-]{36})"
)
INVALID = "after: invalid cursor; pass `next` of the previous page"


def encode_position(position: Position) -> str:
    """A cursor for the page of invoices after `position`."""
    microseconds = (position.created_at - EPOCH) // MICROSECOND
    raw = microseconds.to_bytes(8, "big", signed=True) + position.invoice_id.bytes
    return base64.urlsafe_b64encode(raw).decode()


def decode_position(cursor: str) -> Position:
    """The position that a cursor holds; raises a 400 problem for anything that `encode_position` did not make."""
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        if len(raw) != POSITION_BYTES:
            raise ValueError
        created_at = EPOCH + timedelta(microseconds=int.from_bytes(raw[:8], "big", signed=True))
    except (ValueError, binascii.Error, OverflowError):
        raise ProblemError(400, INVALID) from None
    return Position(created_at, UUID(bytes=raw[8:]))


def encode_ranking(position: RankingCursor) -> str:
    """A cursor for the page of receivables after `position`."""
    return base64.urlsafe_b64encode(f"{position.amount:f} {position.record_id}".encode()).decode()


def encode_contact(position: ContactPosition) -> str:
    """A cursor for the page of unmatched contacts after `position`."""
    text = f"{position.open:f} {position.organisation_id} {position.contact_id}"
    return base64.urlsafe_b64encode(text.encode()).decode()


def decode_contact(cursor: str) -> ContactPosition:
    """The position that a cursor holds; raises a 400 problem for anything that `encode_contact` did not make."""
    try:
        match = CONTACT.fullmatch(base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii"))
        organisation_id = whole_number(match["organisation"]) if match else None
        if match is None or organisation_id is None:
            raise ValueError
        position = ContactPosition(Decimal(match["amount"]), organisation_id, UUID(match["contact"]))
        if encode_contact(position) != cursor:
            raise ValueError
    except (ValueError, binascii.Error):
        raise ProblemError(400, INVALID) from None
    return position


def decode_ranking(cursor: str) -> RankingCursor:
    """The position that a cursor holds; raises a 400 problem for anything that `encode_ranking` did not make."""
    try:
        match = RANKING.fullmatch(base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii"))
        record_id = whole_number(match["record"]) if match else None
        if match is None or record_id is None:
            raise ValueError
        position = RankingCursor(Decimal(match["amount"]), record_id)
        if encode_ranking(position) != cursor:
            raise ValueError
    except (ValueError, binascii.Error):
        raise ProblemError(400, INVALID) from None
    return position
