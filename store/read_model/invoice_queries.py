"""The query of the fast read path: pages of records' invoices, for API keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from store.db.enums import RecordType

TIMESTAMP_FORMAT = 'YYYY-MM-DD"T"HH24:MI:SS.US'
# One function call for each requested page. The function finds the key's account, binds itself to that account, so that
# row-level security applies to its statement, and reads a page of a single index, forwards or backwards. An unknown key
# gives no row. A record without invoices, or of a type that the account hides, gives one row with nothing but the
# account in it. (The function is in the migrations; its cost is in docs/security.md.)
# Values come as the text of the response: building objects from them and text from those costs more than all the rest.
READ_PAGES = f"""
    SELECT request.index, r.account_id, r.invoice_limit, to_char(r.synced_at AT TIME ZONE 'UTC', '{TIMESTAMP_FORMAT}'),
           to_char(r.created_at AT TIME ZONE 'UTC', '{TIMESTAMP_FORMAT}'), r.invoice_id::text, r.type, r.status,
           r.number, r.issuer, to_char(r.issue_date, 'YYYY-MM-DD'), to_char(r.due_date, 'YYYY-MM-DD'),
           r.total::text, r.balance::text, r.currency, r.created_source, r.short_code, r.overdue_days, r.details
    FROM json_to_recordset(%s::json) AS request(index int, key text, type text, record bigint, max_rows int,
                                                created_at timestamptz, invoice uuid, newest_first boolean,
                                                with_details boolean),
         invoices_by_key(decode(request.key, 'hex'), request.type, request.record, request.max_rows,
                         request.created_at, request.invoice, request.newest_first, request.with_details) AS r
"""
MAX_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"
FIRST_POSITION = {True: ("infinity", MAX_ID), False: ("-infinity", str(UUID(int=0)))}
"""Where the first page starts, by `newest_first`."""


class InvoiceTextRow(NamedTuple):
    """An invoice as the text of an API response: UTC to the microsecond, ISO dates, amounts as they are stored.

    `details` is a JSON object of the fields that are not in every response; None unless they were requested.
    """

    created_at: str
    invoice_id: str
    type: str
    status: str
    number: str | None
    issuer: str
    issue_date: str | None
    due_date: str | None
    total: str | None
    balance: str | None
    currency: str | None
    created_source: str
    short_code: str | None
    overdue_days: int
    details: str | None


class Position(NamedTuple):
    """Where a page ended: its last row's position in the order."""

    created_at: datetime
    invoice_id: UUID


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a record's invoices; `next` is where the next page starts, or None; `synced_at` is UTC."""

    invoices: Sequence[InvoiceTextRow]
    next: Position | None
    synced_at: str | None
    account_id: int


class PageRequest(NamedTuple):
    """A request for a page of a record's invoices by an API key; `key` is the key's digest.

    `limit` None means the account's own number of rows, `after` None the first page.
    """

    key: bytes
    record_type: RecordType
    record_id: int
    limit: int | None = None
    after: Position | None = None
    newest_first: bool = True
    with_details: bool = False

    def to_params(self, index: int) -> dict[str, Any]:
        """The statement's parameters; `index` is returned with the rows, to tell requests apart."""
        created_at, invoice_id = FIRST_POSITION[self.newest_first] if self.after is None else self.after
        return {
            "index": index,
            "key": self.key.hex(),
            "type": self.record_type,
            "record": self.record_id,
            "max_rows": self.limit,
            "created_at": created_at,
            "invoice": invoice_id,
            "newest_first": self.newest_first,
            "with_details": self.with_details,
        }


async def read_pages(connection: AsyncConnection[TupleRow], requests: Sequence[PageRequest]) -> list[Page | None]:
    """The requested pages, in the order of `requests`; None if no account has the key."""
    params = orjson.dumps([request.to_params(index) for index, request in enumerate(requests)]).decode()
    rows = await (await connection.execute(READ_PAGES, (params,))).fetchall()
    rows_by_request: list[list[TupleRow]] = [[] for _ in requests]
    for row in rows:
        rows_by_request[row[0]].append(row)
    return [
        _to_page(request, request_rows) if request_rows else None
        for request, request_rows in zip(requests, rows_by_request, strict=True)
    ]


def _to_page(request: PageRequest, rows: Sequence[TupleRow]) -> Page:
    """Rows are mapped by position, because this is the hot path."""
    _, account_id, account_limit, synced_at, created_at, *_ = rows[0]
    limit = request.limit or account_limit
    invoices = [InvoiceTextRow._make(row[4:]) for row in rows[:limit]] if created_at is not None else []
    has_more = len(rows) > limit
    position = (
        Position(datetime.fromisoformat(f"{invoices[-1].created_at}Z"), UUID(invoices[-1].invoice_id))
        if has_more
        else None
    )
    return Page(invoices, position, synced_at, account_id)
