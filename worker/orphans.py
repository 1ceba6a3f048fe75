"""Deleting rows whose account or organisation is gone, in bounded batches; and taking up erasures that got lost."""

from __future__ import annotations

import structlog

from store import closing, orphans
from store.closing import DATA_TABLES
from store.database import transaction
from worker import instruments

log = structlog.get_logger()
ROWS, ROUNDS = 5_000, 20
# A counter that appears with its first row has not risen in Prometheus' eyes: each begins at zero.
for _table in DATA_TABLES:
    instruments.ORPHANS.labels(_table)


def sweep() -> int:
    """Delete the orphans of every table, as many as `ROUNDS` batches take; returns how many rows went."""
    found = {table: rows for table in DATA_TABLES if (rows := _sweep_table(table))}
    for table, rows in found.items():
        instruments.ORPHANS.labels(table).inc(rows)
    if found:
        log.error("orphans.deleted", rows=sum(found.values()), tables=found)
    with transaction() as session:
        resumed = closing.resume_erasures(session)
    if resumed:
        log.error("erasures.resumed", accounts=resumed)
    return sum(found.values())


def _sweep_table(table: str) -> int:
    with transaction() as session:
        account_ids = orphans.accounts_without_row(session, table)
    total = 0
    for _ in range(ROUNDS):
        with transaction() as session:
            rows = orphans.delete(session, table, account_ids, ROWS) if account_ids else 0
            rows += orphans.delete_of_organisations(session, table, ROWS)
        total += rows
        if not rows:
            break
    return total
