"""Exports: one statement and one snapshot each, streamed in batches so that memory use stays constant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from psycopg import AsyncConnection
from psycopg.errors import LockNotAvailable
from psycopg.rows import TupleRow

from store.db.database import Role
from store.db.read_replica import ReadPools, create_read_pools
from store.read_model import match_reports
from store.read_model.overdue_sql import OVERDUE_DAYS

# Rows are formatted on the event loop: two milliseconds of work at a time, then other requests run.
BATCH_SIZE = 200
MAX_SECONDS = 900.0
MAX_EXPORTS = 8
STATEMENT_SECONDS = 120
LOCK_SPACE = 0x7061_7465

# An abandoned download must not hold back vacuum; one that is being read waits for its reader far less than the
# time-out. An export may use one core. All of this ends with the transaction.
BIND_ACCOUNT = """
    SELECT set_config('patina.account', %(account)s, true), set_config('lock_timeout', '2s', true),
           set_config('idle_in_transaction_session_timeout', '60s', true),
           set_config('max_parallel_workers_per_gather', '0', true)
"""
# Held until the transaction ends: one export at a time for each account, in all web processes together.
ADVISORY_LOCK = "SELECT pg_advisory_xact_lock(%(space)s, %(account)s)"
# In the order of the index, walked backwards: the first rows come at once, and each record's newest come first.
INVOICES = f"""
    SELECT r.record_type, r.record_id, coalesce(c.name, '') AS record_name, r.invoice_id, r.number, r.type, r.status,
           r.issuer, r.issue_date, r.due_date, r.total, r.balance, r.currency, r.created_at, r.created_source,
           r.short_code, {OVERDUE_DAYS} AS overdue_days
    FROM account a
    JOIN record_invoice r ON r.account_id = a.id AND r.record_type = ANY(a.record_types)
         AND is_shown(a, r.record_type, r.type, r.status)
    LEFT JOIN copper_record c ON c.account_id = r.account_id AND c.record_type = r.record_type
         AND c.record_id = r.record_id
    WHERE a.id = %(account)s
      AND (%(type)s::text IS NULL OR r.record_type = %(type)s)
      AND (%(record)s::bigint IS NULL OR r.record_id = %(record)s)
    ORDER BY r.record_type DESC, r.record_id DESC, r.created_at DESC, r.invoice_id DESC
"""
UNMATCHED_CONTACTS = match_reports.UNMATCHED_CONTACTS
UNMATCHED_RECORDS = match_reports.UNMATCHED_RECORDS


class ExportRunningError(Exception):
    """Another export of the account is running, in this web process or another one."""


def create_pools() -> ReadPools:
    """Pools for exports alone, so that they take no connections from reads; not yet opened."""
    return create_read_pools(
        role=Role.READS, size=MAX_EXPORTS, statement_seconds=STATEMENT_SECONDS, checks_connections=True
    )


async def stream(
    pools: ReadPools, account_id: int, statement: str, params: Mapping[str, Any]
) -> AsyncGenerator[list[TupleRow], None]:
    """Yield a statement's rows in batches; row-level security binds it to the account.

    Raises `ExportRunningError` before the first batch if another export of the account runs for two more seconds.
    """
    async with pools.borrow() as connection:
        time_out = asyncio.create_task(_close_after_time_out(connection))
        try:
            async with connection.transaction(), connection.cursor(name="export") as cursor:
                await connection.execute(BIND_ACCOUNT, {"account": str(account_id)})
                await _lock(connection, account_id)
                await cursor.execute(statement, {"account": account_id, "limit": None, **params})
                while rows := await cursor.fetchmany(BATCH_SIZE):
                    yield rows
        finally:
            time_out.cancel()


async def _lock(connection: AsyncConnection[TupleRow], account_id: int) -> None:
    try:
        await connection.execute(ADVISORY_LOCK, {"space": LOCK_SPACE, "account": account_id % 2**31})
    except LockNotAvailable:
        raise ExportRunningError from None


async def _close_after_time_out(connection: AsyncConnection[TupleRow]) -> None:
    await asyncio.sleep(MAX_SECONDS)
    await connection.close()
