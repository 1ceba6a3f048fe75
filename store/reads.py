"""The read path: one call checks the key, finds the account's settings and reads the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from sqlalchemy import text
from sqlmodel import Session

from store.days import IS_OVERDUE, OVERDUE_DAYS, TODAY
from store.models import RecordType

MOMENT = 'YYYY-MM-DD"T"HH24:MI:SS.US'
# One call of one function for each page that is asked for: it finds out whose key it is, binds what it does to that
# account, so that the policies of every table hold behind its statement, and reads a page of the one index, forwards or
# backwards. A key that opens nothing gives no row; a record without invoices, or of a type that is switched off, gives
# one with nothing but the account in it. (Its text is in the migrations. Measured beside it: docs/security.md.)
# Values come as the text of the answer: to make objects of them and texts of those costs more than all the rest.
READ = f"""
    SELECT asked.place, r.account_id, r.shown, to_char(r.synced_at AT TIME ZONE 'UTC', '{MOMENT}'),
           to_char(r.created_at AT TIME ZONE 'UTC', '{MOMENT}'), r.invoice_id::text, r.type, r.status,
           r.number, r.issuer, to_char(r.issue_date, 'YYYY-MM-DD'), to_char(r.due_date, 'YYYY-MM-DD'),
           r.total::text, r.balance::text, r.currency, r.created_source, r.short_code, r.overdue_days
    FROM json_to_recordset(%s::json) AS asked(place int, key text, type text, record bigint, most int,
                                              at timestamptz, invoice uuid, newest_first boolean),
         invoices_by_key(decode(asked.key, 'hex'), asked.type, asked.record, asked.most, asked.at, asked.invoice,
                         asked.newest_first) AS r
"""
# What people look at: the same rows in the same order, of one status if they chose one, and how many there are. OVERDUE
# is no status of Xero's: it is what awaits payment after its due date.
CHOSEN = """
    FROM account a
    JOIN record_invoice r ON r.account_id = a.id AND r.record_type = :type AND r.record_id = :record
         AND (a.show_bills OR r.type <> 'ACCPAY')
    WHERE a.id = :account AND a.record_types @> ARRAY[CAST(:type AS text)]
"""
SHOWN = text(f"""
    SELECT r.created_at, r.invoice_id, r.type, r.status, r.number, r.issuer, r.issue_date, r.due_date, r.total,
           r.balance, r.currency, r.created_source, r.short_code, {TODAY} AS today, {OVERDUE_DAYS} AS overdue_days
    {CHOSEN} AND CASE CAST(:status AS text) WHEN '' THEN true WHEN 'OVERDUE' THEN {IS_OVERDUE}
             WHEN 'AUTHORISED' THEN r.status = 'AUTHORISED' AND ({IS_OVERDUE}) IS NOT TRUE
             ELSE r.status = :status END
    ORDER BY r.created_at DESC, r.invoice_id DESC LIMIT :limit
""")
COUNTED = text(f"""
    SELECT r.status, count(*) AS invoices, count(*) FILTER (WHERE {IS_OVERDUE}) AS overdue
    {CHOSEN} GROUP BY r.status
""")
LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"
FIRST_POSITION = {True: ("infinity", LAST_ID), False: ("-infinity", str(UUID(int=0)))}


class ReadInvoice(NamedTuple):
    """One row of a record in the API's own words: UTC to the microsecond, ISO dates, amounts as they are kept."""

    created_at: str
    invoice_id: str
    type: str
    status: str
    number: str | None
    issuer: str
    issue_date: str | None
    due_date: str | None
    total: str
    balance: str
    currency: str | None
    created_source: str
    short_code: str | None
    overdue_days: int


class ShownInvoice(NamedTuple):
    """One row of a record; `today` is its organisation's day, by which it is `overdue_days` late."""

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
    today: date
    overdue_days: int


class Position(NamedTuple):
    """Where a page ended: its last row's place in the order."""

    created_at: datetime
    invoice_id: UUID


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a record's invoices; `next` is where the following one starts, or None; `synced_at` is UTC."""

    invoices: Sequence[ReadInvoice]
    next: Position | None
    synced_at: str | None
    account_id: int


class Asked(NamedTuple):
    """A page of a record's invoices for whoever has a key; `key` is the key's digest.

    `limit` is None for the account's own number of rows, `after` None for the first page.
    """

    key: bytes
    kind: RecordType
    record_id: int
    limit: int | None = None
    after: Position | None = None
    newest_first: bool = True

    def chosen(self, place: int) -> dict[str, Any]:
        """What the statement wants to know."""
        at, invoice = FIRST_POSITION[self.newest_first] if self.after is None else self.after
        return {
            "place": place,
            "key": self.key.hex(),
            "type": self.kind,
            "record": self.record_id,
            "most": self.limit,
            "at": at,
            "invoice": invoice,
            "newest_first": self.newest_first,
        }


async def pages(connection: AsyncConnection[TupleRow], asked: Sequence[Asked]) -> list[Page | None]:
    """The pages that are asked for, in that order; None where no account has that key."""
    chosen = orjson.dumps([one.chosen(place) for place, one in enumerate(asked)]).decode()
    rows = await (await connection.execute(READ, (chosen,))).fetchall()
    found: list[list[TupleRow]] = [[] for _ in asked]
    for row in rows:
        found[row[0]].append(row)
    return [_page(one, mine) if mine else None for one, mine in zip(asked, found, strict=True)]


def _page(asked: Asked, rows: Sequence[TupleRow]) -> Page:
    _, account_id, own_limit, synced_at, created_at, *_ = rows[0]
    limit = asked.limit or own_limit
    found = [ReadInvoice._make(row[4:]) for row in rows[:limit]] if created_at is not None else []
    more = len(rows) > limit
    last = Position(datetime.fromisoformat(f"{found[-1].created_at}Z"), UUID(found[-1].invoice_id)) if more else None
    return Page(found, last, synced_at, account_id)


def shown(
    session: Session, account_id: int, kind: RecordType, record_id: int, *, status: str, limit: int
) -> list[ShownInvoice]:
    """A record's first `limit` invoices, newest first. Status '' is all of them; `AUTHORISED` leaves out `OVERDUE`."""
    chosen = {"account": account_id, "type": kind.value, "record": record_id, "status": status, "limit": limit}
    return [ShownInvoice(*row) for row in session.execute(SHOWN, chosen)]


def counted(session: Session, account_id: int, kind: RecordType, record_id: int) -> dict[str, int]:
    """How many invoices of each status a record shows. `OVERDUE` ones are not counted as `AUTHORISED` too."""
    chosen = {"account": account_id, "type": kind.value, "record": record_id}
    rows = session.execute(COUNTED, chosen).all()
    counts = {row.status: row.invoices - row.overdue for row in rows}
    counts["OVERDUE"] = sum(row.overdue for row in rows)
    return {status: count for status, count in counts.items() if count}
