"""Delete rows whose account or organisation no longer exists, in bounded batches, and restart lost erasures."""

from __future__ import annotations

import structlog

from runtime import metrics
from store.accounts import deprovisioning, orphans
from store.accounts.deprovisioning import DATA_TABLES
from store.db.database import transaction

log = structlog.get_logger()
BATCH_ROWS, MAX_BATCHES = 5_000, 20
# Prometheus sees no increase in a counter that appears with its first row, so each one starts at zero.
for _table in DATA_TABLES:
    metrics.ORPHANS_DELETED.labels(_table)


def delete_orphans() -> int:
    """Delete the orphans of every table, at most `MAX_BATCHES` batches each; return the number of rows deleted."""
    rows_by_table = {table: rows for table in DATA_TABLES if (rows := _delete_from_table(table))}
    total = sum(rows_by_table.values())
    for table, rows in rows_by_table.items():
        metrics.ORPHANS_DELETED.labels(table).inc(rows)
    if total:
        log.error("orphans.deleted", rows=total, tables=rows_by_table)
    with transaction() as session:
        requeued = deprovisioning.requeue_lost_erasures(session)
    if requeued:
        log.error("erasures.requeued", accounts=requeued)
    return total


def _delete_from_table(table: str) -> int:
    with transaction() as session:
        account_ids = orphans.find_orphaned_accounts(session, table)
    total = 0
    for _ in range(MAX_BATCHES):
        with transaction() as session:
            rows = orphans.delete_of_accounts(session, table, account_ids, BATCH_ROWS) if account_ids else 0
            rows += orphans.delete_of_organisations(session, table, BATCH_ROWS)
        total += rows
        if not rows:
            break
    return total
