"""Project an account's marks in batches, each in a transaction of its own."""

from __future__ import annotations

import structlog

from store import projection
from store.database import transaction
from worker.broker import tell_changed

log = structlog.get_logger()
ROUNDS = 10_000


def project(account_id: int) -> int:
    """Project until no mark is left; returns how many rows changed. Others who want to, wait their turn."""
    rows = 0
    for _ in range(ROUNDS):
        with transaction() as session:
            done = projection.project_batch(session, account_id)
        rows += done.written + done.removed
        if done.written or done.removed:
            tell_changed(account_id)
        if done.marks:
            log.info(
                "marks.projected",
                account=account_id,
                marks=done.marks,
                written=done.written,
                removed=done.removed,
            )
        if done.marks < projection.BATCH:
            break
    return rows


def rebuild(account_id: int) -> projection.Projected:
    """Compute every row of an account again from the mirror."""
    with transaction() as session:
        done = projection.rebuild(session, account_id)
    tell_changed(account_id)
    log.info("account.rebuilt", account=account_id, written=done.written, removed=done.removed)
    return done
