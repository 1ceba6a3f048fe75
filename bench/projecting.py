"""The projection: everything anew, and one changed invoice."""

from __future__ import annotations

import random
import time

from sqlalchemy import text

from bench import stage
from bench.figures import Figure, at_least, at_most, quantile, timed
from store import projection
from store.database import transaction

CONTACTS, INVOICES = 100_000, 1_000_000
GOAL_REBUILD, GOAL_P99, GOAL_GROWTH = 0.4, 10.0, 1.3
SMALL, LARGE, CHANGES = 100_000, 10_000_000, 300
# The same rows by nothing but the join: each invoice's person and company.
JOIN = """
    CREATE TABLE yardstick AS
    SELECT i.account_id, r.record_type, r.record_id, i.created_at, i.invoice_id, i.organisation_id, i.type, i.status,
           i.number, o.name AS issuer, i.issue_date, i.due_date, i.total, i.balance, i.currency, i.created_source,
           o.short_code
    FROM invoice i
    JOIN xero_organisation o ON o.account_id = 1 AND o.id = i.organisation_id
    JOIN xero_contact_email ce ON ce.account_id = 1 AND ce.organisation_id = i.organisation_id
         AND ce.contact_id = i.contact_id
    JOIN crm_record_email re ON re.account_id = 1 AND re.email = ce.email
    CROSS JOIN LATERAL (
        SELECT re.record_type, re.record_id
        UNION ALL
        SELECT l.related_type, l.related_id FROM crm_relation l
        WHERE l.account_id = 1 AND l.record_type = re.record_type AND l.record_id = re.record_id) AS r
    WHERE i.account_id = 1
"""
TOUCH = text(
    "UPDATE invoice SET balance = balance - 0.01 WHERE account_id = 1 AND organisation_id = 1 AND invoice_id = :id"
)
MARK = text("INSERT INTO dirty (account_id, kind, organisation_id, xero_id) VALUES (1, 'invoice', 1, :id)")


def _join() -> float:
    stage.run("DROP TABLE IF EXISTS yardstick")
    with timed() as clock:
        stage.run(JOIN)
    return clock.seconds


def _rebuild() -> tuple[float, int]:
    stage.run("TRUNCATE record_invoice, record_balance")
    with timed() as clock, transaction() as session:
        rows = projection.rebuild(session, 1).written
    return clock.seconds, rows


def rebuild(rounds: int) -> list[Figure]:
    """A full rebuild of two million rows against CREATE TABLE AS."""
    rates, bare = [], []
    with stage.database():
        stage.fill_mirror(CONTACTS, INVOICES)
        for _ in range(rounds):
            seconds, rows = _rebuild()
            rates.append(rows / seconds)
            bare.append(rows / _join())
    what = f"rows of a full rebuild, {rows:,} of them"
    why = "CREATE TABLE AS keeps no index: the primary key covers every column and a second one is by invoice"
    return [at_least(what, rates, bare, GOAL_REBUILD, "CREATE TABLE AS of the same join", why=why)]


def _changes(invoices: int) -> float:
    """p99 in milliseconds of the projection's transaction for one changed invoice, of some hundred changes."""
    dice, took = random.Random(3), []
    for _ in range(CHANGES):
        with transaction() as session:
            chosen = session.execute(
                text("SELECT invoice_id FROM invoice WHERE account_id = 1 AND number = :number LIMIT 1"),
                {"number": f"INV-{dice.randrange(1, invoices)}"},
            ).scalar_one()
            session.execute(TOUCH, {"id": chosen})
            session.execute(MARK, {"id": chosen})
        began = time.perf_counter()
        with transaction() as session:
            projection.project_batch(session, 1)
        took.append(1_000 * (time.perf_counter() - began))
    return quantile(took, 0.99)


def one(rounds: int) -> list[Figure]:
    """One changed invoice, in a small read model and in a large one."""
    found: dict[int, list[float]] = {}
    for size in (SMALL, LARGE):
        with stage.database():
            stage.fill_mirror(10_000, SMALL // 2)
            stage.run("CREATE INDEX ON invoice (number)")
            with transaction() as session:
                projection.rebuild(session, 1)
            # The rest of a large model is other records' rows: what one change costs must not feel them.
            stage.fill_rows(size, there=SMALL * 10 if size > SMALL else size)
            stage.vacuum("record_invoice", "record_balance")
            _changes(SMALL // 2)
            found[size] = [_changes(SMALL // 2) for _ in range(rounds)]
    growth = [large / small for large, small in zip(found[LARGE], found[SMALL], strict=True)]
    return [
        at_most(f"p99 of one changed invoice, {LARGE:,} rows", found[LARGE], GOAL_P99, "ms"),
        at_most("the same against a hundredth of the rows", growth, GOAL_GROWTH, "times", yardstick=f"{SMALL:,} rows"),
    ]
