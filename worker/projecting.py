"""Project an account's marks in batches, each in a transaction of its own."""

from __future__ import annotations

import math
import time

import structlog

from runtime import tracing
from store import projection
from store.database import transaction
from worker import instruments
from worker.broker import tell_changed

log = structlog.get_logger()
ROUNDS = 10_000


def project(account_id: int, seconds: float = math.inf) -> int:
    """Project until no mark is left, or some seconds are over; returns how many rows changed. Others who want to, wait
    their turn."""
    rows, until = 0, time.monotonic() + seconds
    for _ in range(ROUNDS):
        began = time.monotonic()
        with tracing.span("projection.batch"), transaction() as session:
            done = projection.project_batch(session, account_id)
        if done.marks:
            instruments.BATCHES.observe(time.monotonic() - began)
            instruments.ROWS.labels("written").inc(done.written)
            instruments.ROWS.labels("removed").inc(done.removed)
        rows += done.written + done.removed
        if done.written or done.removed or done.recomputed_balances:
            tell_changed(account_id)
        if done.recomputed_balances:
            log.info("balances.recomputed", account=account_id)
        if done.marks:
            log.info(
                "marks.projected",
                account=account_id,
                marks=done.marks,
                written=done.written,
                removed=done.removed,
            )
        if done.marks < projection.BATCH or time.monotonic() > until:
            break
    return rows


def waits(account_id: int) -> bool:
    """Whether marks of the account are not projected yet."""
    with transaction() as session:
        return projection.waits(session, account_id, 1)


def rebuild(account_id: int) -> projection.Projected:
    """Compute every row of an account again from the mirror."""
    with transaction() as session:
        done = projection.rebuild(session, account_id)
    tell_changed(account_id)
    log.info("account.rebuilt", account=account_id, written=done.written, removed=done.removed)
    return done
