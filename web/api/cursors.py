"""Pagination cursors: opaque to clients, an index position to us."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from runtime.numbers import whole_number
from store.read_model.account_invoices import ListCursor, Sort
from store.read_model.invoice_queries import Position
from store.read_model.receivables import RankingCursor
from store.read_model.unmatched_contacts import ContactPosition
from web.presentation.problems import ProblemError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
POSITION_BYTES = 24
RANKING = re.compile(
    r"(?P<amount>-?[0-9]{1,40}(\.[0-9]{1,30})?) (?P<record>[0-9]{1,19}) (?P<currency>[^\x00-\x1f\x7f]{0,10})"
)
MAX_RANKING_LENGTH = 180
"""Characters of the longest cursor of receivables: 72 of an amount, 19 of an ID, 10 of up to four bytes, in base64."""
LISTED = re.compile(r"(?P<key>[0-9A-Za-z:+. -]{1,64}) (?P<invoice>[0-9a-f-]{36})")
UNBOUNDED = {"due": "infinity", "balance": "-Infinity"}
"""The sort key of an invoice without a due date, or without a balance."""
PARSE_SORT_KEY: dict[Sort, Callable[[str], object]] = {
    "created": datetime.fromisoformat,
    "due": date.fromisoformat,
    "balance": Decimal,
}
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
    text = f"{position.amount:f} {position.record_id} {position.currency}"
    return base64.urlsafe_b64encode(text.encode()).decode()


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
        match = RANKING.fullmatch(base64.b64decode(cursor, altchars=b"-_", validate=True).decode())
        record_id = whole_number(match["record"]) if match else None
        if match is None or record_id is None:
            raise ValueError
        position = RankingCursor(Decimal(match["amount"]), record_id, match["currency"])
        if encode_ranking(position) != cursor:
            raise ValueError
    except (ValueError, binascii.Error):
        raise ProblemError(400, INVALID) from None
    return position


def encode_listed(cursor: ListCursor) -> str:
    """A cursor for the page of the account's invoices after `cursor`."""
    return base64.urlsafe_b64encode(f"{cursor.sort_key} {cursor.invoice_id}".encode()).decode()


def decode_listed(text: str, sort: Sort) -> ListCursor:
    """The position that a cursor holds; raises a 400 problem for anything that `encode_listed` did not make.

    A cursor belongs to the sort order of its page.
    """
    try:
        match = LISTED.fullmatch(base64.b64decode(text, altchars=b"-_", validate=True).decode("ascii"))
        if match is None:
            raise ValueError
        if match["key"] != UNBOUNDED.get(sort):
            PARSE_SORT_KEY[sort](match["key"])
        return ListCursor(match["key"], UUID(match["invoice"]))
    except (ValueError, ArithmeticError):
        raise ProblemError(400, INVALID) from None
