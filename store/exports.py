"""Rows by the thousand, a batch at a time: one statement, one snapshot, memory that does not grow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from psycopg import AsyncConnection
from psycopg.errors import LockNotAvailable
from psycopg.rows import TupleRow

from store import matching
from store.database import Pool, reading_pool
from store.days import OVERDUE_DAYS

# Rows are turned into text on the event loop: two milliseconds of work, then everybody else has a turn.
BATCH = 200
MAX_SECONDS = 900.0
MAX_EXPORTS = 8
STATEMENT_SECONDS = 120
LOCK_SPACE = 0x7061_7465

# A download that nobody drives any more must not hold vacuum back; one that is driven waits for its reader far less.
# One core is enough for an export. All of it ends with the transaction.
BIND = """
    SELECT set_config('patina.account', %(account)s, true), set_config('lock_timeout', '2s', true),
           set_config('idle_in_transaction_session_timeout', '60s', true),
           set_config('max_parallel_workers_per_gather', '0', true)
"""
# Held until the transaction ends, however it does: one export at a time an account, in all web processes together.
ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(%(space)s, %(account)s)"
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


class ExportRunningError(Exception):
    """Another export of the account is under way, in this web process or another one."""


def pool() -> Pool:
    """Connections for exports alone, so that they take none from reads; not yet opened."""
    return reading_pool(size=MAX_EXPORTS, statement_seconds=STATEMENT_SECONDS, is_checked=True)


async def stream(
    connections: Pool, account_id: int, statement: str, chosen: Mapping[str, Any]
) -> AsyncGenerator[list[TupleRow], None]:
    """Batches of a statement's rows, bound to the account by its policies too.

    Raises `ExportRunningError` before the first batch while another export of the account goes on for two seconds.
    """
    async with connections.lend() as connection:
        ending = asyncio.create_task(_end(connection))
        try:
            async with connection.transaction(), connection.cursor(name="export") as cursor:
                await connection.execute(BIND, {"account": str(account_id)})
                await _lock(connection, account_id)
                await cursor.execute(statement, {"account": account_id, "limit": None, **chosen})
                while rows := await cursor.fetchmany(BATCH):
                    yield rows
        finally:
            ending.cancel()


async def _lock(connection: AsyncConnection[TupleRow], account_id: int) -> None:
    try:
        await connection.execute(ONE_AT_A_TIME, {"space": LOCK_SPACE, "account": account_id % 2**31})
    except LockNotAvailable:
        raise ExportRunningError from None


async def _end(connection: AsyncConnection[TupleRow]) -> None:
    await asyncio.sleep(MAX_SECONDS)
    await connection.close()
