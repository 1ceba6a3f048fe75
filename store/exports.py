"""Rows by the thousand, a batch at a time: one statement, one snapshot, memory that does not grow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from store import matching
from store.database import Pool, reading_pool
from store.days import OVERDUE_DAYS

BATCH = 1_000
# A client that stops reading holds a connection for this long at most.
MOST_SECONDS = 900.0
AT_ONCE = 4
STATEMENT_SECONDS = 120

BIND = "SELECT set_config('patina.account', %(account)s, true)"
# In the order of the index, walked backwards: the first rows come at once, and each record's newest come first.
INVOICES = f"""
    SELECT r.record_type, r.record_id, coalesce(c.name, '') AS record_name, r.invoice_id, r.number, r.type, r.status,
           r.issuer, r.issue_date, r.due_date, r.total, r.balance, r.currency, r.created_at, r.created_source,
           r.short_code, {OVERDUE_DAYS} AS overdue_days
    FROM account a
    JOIN record_invoice r ON r.account_id = a.id AND r.record_type = ANY(a.record_types)
         AND (a.show_bills OR r.type <> 'ACCPAY')
    LEFT JOIN crm_record c ON c.account_id = r.account_id AND c.record_type = r.record_type
         AND c.record_id = r.record_id
    WHERE a.id = %(account)s
      AND (%(type)s::text IS NULL OR r.record_type = %(type)s)
      AND (%(record)s::bigint IS NULL OR r.record_id = %(record)s)
    ORDER BY r.record_type DESC, r.record_id DESC, r.created_at DESC, r.invoice_id DESC
"""
UNMATCHED_CONTACTS = matching.UNMATCHED_CONTACTS
UNMATCHED_RECORDS = matching.UNMATCHED_RECORDS


def pool() -> Pool:
    """Connections for exports alone, so that they take none from reads; not yet opened."""
    return reading_pool(size=AT_ONCE, statement_seconds=STATEMENT_SECONDS)


async def stream(
    connections: Pool, account_id: int, statement: str, chosen: Mapping[str, Any]
) -> AsyncIterator[list[TupleRow]]:
    """Batches of a statement's rows, bound to the account by its policies too."""
    async with connections.lend() as connection:
        ending = asyncio.create_task(_end(connection))
        try:
            async with connection.transaction(), connection.cursor(name="export") as cursor:
                await connection.execute(BIND, {"account": str(account_id)})
                await cursor.execute(statement, {"account": account_id, "limit": None, **chosen})
                while rows := await cursor.fetchmany(BATCH):
                    yield rows
        finally:
            ending.cancel()


async def _end(connection: AsyncConnection[TupleRow]) -> None:
    await asyncio.sleep(MOST_SECONDS)
    await connection.close()
