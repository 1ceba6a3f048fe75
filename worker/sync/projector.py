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
# A batch is bounded by its marks, but what a mark costs differs a thousandfold: an invoice may be on one record or on
# thousands. So batches begin small, grow while they are quick and shrink where they are slow. If they are slow and most
# of the account is marked, as in the backfill of such an account, it is rebuilt instead.
FIRST_BATCH_SIZE = 250
BATCH_SIZE_FACTOR = 4
QUICK_SECONDS, SLOW_SECONDS = 1.0, 10.0
# Accounts whose first batch has to be smaller, in this process; without it, each job would begin with a batch that is
# too slow.
_first_batch_sizes: dict[int, int] = {}
# Accounts that are too large to be rebuilt within a job, in this process.
_too_large_to_rebuild: set[int] = set()


def project(account_id: int, seconds: float = math.inf) -> int:
    """Project until no mark is pending, or for about `seconds`; return the number of rows changed.

    At least one batch is projected. Concurrent calls for one account wait for each other, batch by batch; a call that
    waited for a long rebuild raises `AccountBusyError`.
    """
    rows, deadline = 0, time.monotonic() + seconds
    batch_size = _first_batch_sizes.get(account_id, FIRST_BATCH_SIZE)
    for _ in range(MAX_BATCHES):
        try:
            with tracing.span("projection.batch"), transaction() as session:
                result: projection.ProjectionResult | None = projection.project_batch(session, account_id, batch_size)
        except projection.BatchTooSlowError:
            log.warning("projection.batch_too_slow", account=account_id, batch_size=batch_size)
            result = None
        if result:
            _report(account_id, result)
            rows += result.written + result.removed
            if not result.has_more:
                break
        if result is None or result.seconds > SLOW_SECONDS:
            batch_size = _note_batch_size(account_id, batch_size // BATCH_SIZE_FACTOR)
            rows += _rebuild_if_cheaper(account_id)
        elif result.seconds < QUICK_SECONDS and result.marks == batch_size:
            batch_size = _note_batch_size(account_id, batch_size * BATCH_SIZE_FACTOR)
        if result and time.monotonic() > deadline:
            break
    return rows


def _rebuild_if_cheaper(account_id: int) -> int:
    """Rebuild the account if that takes less time than its marks; return the number of rows changed."""
    if account_id in _too_large_to_rebuild:
        return 0
    try:
        with transaction() as session:
            result = projection.rebuild_if_cheaper(session, account_id)
    except projection.RebuildTooSlowError:
        _too_large_to_rebuild.add(account_id)
        log.warning("rebuild.too_slow", account=account_id)
        return 0
    if result is None:
        return 0
    _report_rebuild(account_id, result)
    return result.written + result.removed


def _note_batch_size(account_id: int, batch_size: int) -> int:
    """The size within its bounds; the account's next call begins with it, if it is smaller than usual."""
    batch_size = min(max(1, batch_size), projection.MAX_BATCH_SIZE)
    if batch_size < FIRST_BATCH_SIZE:
        _first_batch_sizes[account_id] = batch_size
    else:
        _first_batch_sizes.pop(account_id, None)
    return batch_size


def _report(account_id: int, result: projection.ProjectionResult) -> None:
    if result.marks:
        metrics.PROJECTION_BATCH_DURATION.observe(result.seconds)
        metrics.PROJECTION_ROWS.labels("written").inc(result.written)
        metrics.PROJECTION_ROWS.labels("removed").inc(result.removed)
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


def has_pending(account_id: int) -> bool:
    """Whether the account has marks that are not projected yet."""
    with transaction() as session:
        return projection.has_pending(session, account_id, 1)


def rebuild(account_id: int) -> projection.ProjectionResult:
    """Recompute all read model rows of an account from the mirror, for up to an hour."""
    with transaction() as session:
        projection.allow_long_statements(session)
        result = projection.rebuild(session, account_id)
    _report_rebuild(account_id, result)
    return result


def _report_rebuild(account_id: int, result: projection.ProjectionResult) -> None:
    publish_change(account_id)
    log.info("account.rebuilt", account=account_id, written=result.written, removed=result.removed)
