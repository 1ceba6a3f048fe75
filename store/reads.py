"""The read path: one statement checks the key, finds the account's settings and reads the rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from store.models import RecordType
from store.secrets import digest

# The one index serves both orders. A key that is not there gives no row at all; a record without
# invoices, or of a type that is switched off, gives one row with nothing but the account in it.
ROWS = """
    SELECT r.created_at, r.invoice_id, r.type, r.status, r.number, r.issuer, r.issue_date, r.due_date, r.total,
           r.balance, r.currency, r.created_source, r.short_code
    FROM record_invoice r
    WHERE r.account_id = a.id AND r.record_type = %(type)s AND r.record_id = %(record)s
      AND a.record_types @> ARRAY[%(type)s::record_type]
      AND (a.show_bills OR r.type <> 'ACCPAY')
"""
SELECT = """
    SELECT a.synced_at, a.shown, a.id, rows.*
    FROM api_key k JOIN account a ON a.id = k.account_id
    LEFT JOIN LATERAL (
        {rows}
        AND (r.created_at, r.invoice_id) {beyond} (%(at)s::timestamptz, %(invoice)s::uuid)
        ORDER BY r.created_at {way}, r.invoice_id {way}
        LIMIT coalesce(%(limit)s::int, a.shown) + 1
    ) rows ON true
    WHERE k.key_hash = %(key)s AND k.revoked_at IS NULL AND k.scopes && '{{read,admin}}'
    ORDER BY rows.created_at {way}, rows.invoice_id {way}
"""
NEWEST_FIRST = SELECT.format(rows=ROWS, beyond="<", way="DESC")
OLDEST_FIRST = SELECT.format(rows=ROWS, beyond=">", way="ASC")
FIRST_POSITION = {
    True: ("infinity", UUID(int=2**128 - 1)),
    False: ("-infinity", UUID(int=0)),
}


@dataclass(frozen=True, slots=True)
class ShownInvoice:
    """One row of a record."""

    created_at: datetime
    invoice_id: UUID
    type: str
    status: str
    number: str | None
    issuer: str
    issue_date: date | None
    due_date: date | None
    total: Decimal
    balance: Decimal
    currency: str | None
    created_source: str
    short_code: str | None


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended: its last row's place in the order."""

    created_at: datetime
    invoice_id: UUID


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a record's invoices; `next` is where the following one starts, or None."""

    invoices: tuple[ShownInvoice, ...]
    next: Position | None
    synced_at: datetime | None
    account_id: int


async def invoices_of(
    connection: AsyncConnection[TupleRow],
    api_key: str,
    kind: RecordType,
    record_id: int,
    *,
    limit: int | None,
    after: Position | None,
    newest_first: bool,
) -> Page | None:
    """A page of a record's invoices for whoever holds `api_key`; None when no account has that key."""
    at, invoice = (after.created_at, after.invoice_id) if after else FIRST_POSITION[newest_first]
    chosen = {
        "key": digest(api_key),
        "type": kind.value,
        "record": record_id,
        "limit": limit,
        "at": at,
        "invoice": invoice,
    }
    cursor = await connection.execute(NEWEST_FIRST if newest_first else OLDEST_FIRST, chosen)
    rows = await cursor.fetchall()
    if not rows:
        return None
    wanted = limit if limit is not None else rows[0][1]
    shown = tuple(ShownInvoice(*row[3:]) for row in rows[:wanted] if row[3] is not None)
    more = len(rows) > wanted
    last = Position(shown[-1].created_at, shown[-1].invoice_id) if more else None
    return Page(shown, last, rows[0][0], rows[0][2])
