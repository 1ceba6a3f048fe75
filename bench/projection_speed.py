"""The projection: a full rebuild, and one changed invoice."""

from __future__ import annotations

import random
import time

from sqlalchemy import text

from bench import environment
from bench.figures import Figure, at_least, at_most, quantile, timed
from store.db.database import transaction
from store.read_model import projection

CONTACTS, INVOICES = 100_000, 1_000_000
GOAL_REBUILD, GOAL_P99, GOAL_GROWTH = 0.6, 10.0, 1.3
SMALL, LARGE, CHANGES = 100_000, 10_000_000, 300
# The same rows by a plain join: each invoice's person and company.
JOIN = """
    CREATE TABLE baseline AS
    SELECT i.account_id, r.record_type, r.record_id, i.created_at, i.invoice_id, i.organisation_id, i.type, i.status,
           i.number, o.name AS issuer, i.issue_date, i.due_date, i.total, i.balance, i.currency, i.created_source,
           o.short_code, i.reference, i.paid_on, i.expected_payment_date, i.amount_paid, i.amount_credited, i.is_sent
    FROM xero_invoice i
    JOIN xero_organisation o ON o.account_id = 1 AND o.id = i.organisation_id
    JOIN xero_contact_email ce ON ce.account_id = 1 AND ce.organisation_id = i.organisation_id
         AND ce.contact_id = i.contact_id
    JOIN copper_record_email re ON re.account_id = 1 AND re.email = ce.email
    CROSS JOIN LATERAL (
        SELECT re.record_type, re.record_id
        UNION ALL
        SELECT l.related_type, l.related_id FROM copper_relation l
        WHERE l.account_id = 1 AND l.record_type = re.record_type AND l.record_id = re.record_id) AS r
    WHERE i.account_id = 1
"""
# The indexes of the read model.
JOIN_INDEXES = (
    f"ALTER TABLE baseline ADD PRIMARY KEY (account_id, {projection.KEY})"
    f" INCLUDE ({', '.join(projection.VALUE_COLUMNS)})",
    "CREATE INDEX ON baseline (account_id, invoice_id)",
)
REBUILD_MISS_REASON = (
    "a rebuild fills both indexes row by row, because the table belongs to all accounts; the one by invoice, whose ids"
    " are random, takes a third of the time, where the baseline sorts once; and ours also sums what each record owes"
)
TOUCH = text(
    "UPDATE xero_invoice SET balance = balance - 0.01 WHERE account_id = 1 AND organisation_id = 1 AND invoice_id = :id"
)
MARK = text(
    "INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id) VALUES (1, 'invoice', 1, :id)"
)


def _measure_join() -> float:
    """Seconds to create the table by a join, and the indexes that reads and payments need, after its rows."""
    environment.execute("DROP TABLE IF EXISTS baseline")
    with timed() as timer:
        environment.execute(JOIN)
        for statement in JOIN_INDEXES:
            environment.execute(statement)
    return timer.seconds


def _measure_rebuild() -> tuple[float, int]:
    environment.execute("TRUNCATE record_invoice, record_balance")
    with timed() as timer, transaction() as session:
        rows = projection.rebuild(session, 1).written
    return timer.seconds, rows


def measure_rebuild(rounds: int) -> list[Figure]:
    """A full rebuild of two million rows; the baseline is CREATE TABLE AS, and then both indexes."""
    rates, join_rates = [], []
    with environment.populated_database():
        environment.fill_mirror(CONTACTS, INVOICES)
        for _ in range(rounds):
            seconds, rows = _measure_rebuild()
            rates.append(rows / seconds)
            join_rates.append(rows / _measure_join())
    name = f"rows of a full rebuild, {rows:,} of them"
    baseline = "CREATE TABLE AS of the same rows, then both indexes"
    return [at_least(name, rates, join_rates, GOAL_REBUILD, baseline, miss_reason=REBUILD_MISS_REASON)]


def _measure_changes(invoices: int) -> float:
    """p99 in milliseconds of the projection's transaction for one changed invoice, over `CHANGES` changes."""
    generator, milliseconds = random.Random(3), []
    for _ in range(CHANGES):
        with transaction() as session:
            invoice_id = session.execute(
                text("SELECT invoice_id FROM xero_invoice WHERE account_id = 1 AND number = :number LIMIT 1"),
                {"number": f"INV-{generator.randrange(1, invoices)}"},
            ).scalar_one()
            session.execute(TOUCH, {"id": invoice_id})
            session.execute(MARK, {"id": invoice_id})
        started = time.perf_counter()
        with transaction() as session:
            projection.project_batch(session, 1)
        milliseconds.append(1_000 * (time.perf_counter() - started))
    return quantile(milliseconds, 0.99)


def measure_single_invoice(rounds: int) -> list[Figure]:
    """One changed invoice, in a small and in a large read model."""
    latencies: dict[int, list[float]] = {}
    for size in (SMALL, LARGE):
        with environment.populated_database():
            environment.fill_mirror(10_000, SMALL // 2)
            environment.execute("CREATE INDEX ON xero_invoice (number)")
            with transaction() as session:
                projection.rebuild(session, 1)
            # The rest of a large model is rows of other records, which must not slow one change down.
            environment.fill_rows(size, existing=SMALL * 10 if size > SMALL else size)
            environment.vacuum("record_invoice", "record_balance")
            _measure_changes(SMALL // 2)
            latencies[size] = [_measure_changes(SMALL // 2) for _ in range(rounds)]
    growth = [large / small for large, small in zip(latencies[LARGE], latencies[SMALL], strict=True)]
    return [
        at_most(f"p99 of one changed invoice, {LARGE:,} rows", latencies[LARGE], GOAL_P99, "ms"),
        at_most("the same relative to 1% of the rows", growth, GOAL_GROWTH, "times", baseline=f"{SMALL:,} rows"),
    ]
