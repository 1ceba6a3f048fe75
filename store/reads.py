"""The read path: one call checks the key, finds the account's settings and reads the rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from sqlalchemy import text
from sqlmodel import Session

from store.models import RecordType
from store.secrets import digest

# One call of one function: it finds out whose key it is, binds the transaction to that account, so that the
# policies of every table hold behind its statement, and reads a page of the one index, forwards or backwards. A
# key that opens nothing gives no row; a record without invoices, or of a type that is switched off, gives one
# with nothing but the account in it. (Its text is in the migrations. Measured beside it: docs/security.md.)
READ = """
    SELECT * FROM invoices_by_key(%(key)s, %(type)s, %(record)s, %(limit)s::int, %(at)s::timestamptz,
                                  %(invoice)s::uuid, %(newest_first)s)
"""
# What people look at: the same rows in the same order, of one status if they chose one, and how many there are.
# OVERDUE is no status of Xero's: it is what awaits payment after its due date.
CHOSEN = """
    FROM account a
    JOIN record_invoice r ON r.account_id = a.id AND r.record_type = :type AND r.record_id = :record
         AND (a.show_bills OR r.type <> 'ACCPAY')
    WHERE a.id = :account AND a.record_types @> ARRAY[CAST(:type AS text)]
"""
IS_OVERDUE = "r.status = 'AUTHORISED' AND r.balance > 0 AND r.due_date < CURRENT_DATE"
SHOWN = text(f"""
    SELECT r.created_at, r.invoice_id, r.type, r.status, r.number, r.issuer, r.issue_date, r.due_date, r.total,
           r.balance, r.currency, r.created_source, r.short_code
    {CHOSEN} AND CASE CAST(:status AS text) WHEN '' THEN true WHEN 'OVERDUE' THEN {IS_OVERDUE}
             ELSE r.status = :status END
    ORDER BY r.created_at DESC, r.invoice_id DESC LIMIT :limit
""")
COUNTED = text(f"""
    SELECT r.status, count(*) AS invoices, count(*) FILTER (WHERE {IS_OVERDUE}) AS overdue
    {CHOSEN} GROUP BY r.status
""")
FIRST_POSITION = {
    True: ("infinity", UUID(int=2**128 - 1)),
    False: ("-infinity", UUID(int=0)),
}


class ShownInvoice(NamedTuple):
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
        "newest_first": newest_first,
    }
    cursor = await connection.execute(READ, chosen)
    rows = await cursor.fetchall()
    if not rows:
        return None
    wanted = limit if limit is not None else rows[0][1]
    shown = tuple(ShownInvoice._make(row[3:]) for row in rows[:wanted] if row[3] is not None)
    more = len(rows) > wanted
    last = Position(shown[-1].created_at, shown[-1].invoice_id) if more else None
    return Page(shown, last, rows[0][0], rows[0][2])


def shown(
    session: Session, account_id: int, kind: RecordType, record_id: int, *, status: str, limit: int
) -> list[ShownInvoice]:
    """A record's first `limit` invoices, newest first; of a status, or `OVERDUE`, or '' for all."""
    chosen = {"account": account_id, "type": kind.value, "record": record_id, "status": status, "limit": limit}
    return [ShownInvoice(*row) for row in session.execute(SHOWN, chosen)]


def counted(session: Session, account_id: int, kind: RecordType, record_id: int) -> dict[str, int]:
    """How many invoices of each status a record shows, and how many are `OVERDUE`."""
    chosen = {"account": account_id, "type": kind.value, "record": record_id}
    rows = session.execute(COUNTED, chosen).all()
    found = {row.status: row.invoices for row in rows}
    overdue = sum(row.overdue for row in rows)
    return {**found, **({"OVERDUE": overdue} if overdue else {})}
