"""Project an account's marks to the read model in batches, each in a transaction of its own."""

from __future__ import annotations

import math
import time

import structlog

from runtime import metrics, tracing
from store.db.database import transaction
from store.read_model import projection
from worker.sync.change_channel import publish_change

log = structlog.get_logger()
MAX_BATCHES = 10_000


def project(account_id: int, seconds: float = math.inf) -> int:
    """Project until no mark is pending, or for about `seconds`; return the number of rows changed.

    Concurrent calls for one account wait for each other, batch by batch.
    """
    rows, deadline = 0, time.monotonic() + seconds
    for _ in range(MAX_BATCHES):
        started = time.monotonic()
        with tracing.span("projection.batch"), transaction() as session:
            result = projection.project_batch(session, account_id)
        if result.marks:
            metrics.PROJECTION_BATCH_DURATION.observe(time.monotonic() - started)
            metrics.PROJECTION_ROWS.labels("written").inc(result.written)
            metrics.PROJECTION_ROWS.labels("removed").inc(result.removed)
        rows += result.written + result.removed
        if result.written or result.removed or result.recomputed_balances:
            publish_change(account_id)
        if result.recomputed_balances:
            log.info("balances.recomputed", account=account_id)
        if result.marks:
            log.info(
                "marks.projected",
                account=account_id,
                marks=result.marks,
                written=result.written,
                removed=result.removed,
            )
        if result.marks < projection.BATCH_SIZE or time.monotonic() > deadline:
            break
    return rows


def has_pending(account_id: int) -> bool:
    """Whether the account has marks that are not projected yet."""
    with transaction() as session:
        return projection.has_pending(session, account_id, 1)


def rebuild(account_id: int) -> projection.ProjectionResult:
    """Recompute all read model rows of an account from the mirror."""
    with transaction() as session:
        result = projection.rebuild(session, account_id)
    publish_change(account_id)
    log.info("account.rebuilt", account=account_id, written=result.written, removed=result.removed)
    return result
