"""A full rebuild of the read model."""

from __future__ import annotations

from bench import environment
from bench.figures import Figure, at_least, rounds_in_time, timed
from store.db.database import transaction
from store.read_model import projection

CONTACTS, INVOICES = 100_000, 1_000_000
GOAL_REBUILD = 0.6
MAX_SECONDS = 180.0
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


def measure(rounds: int) -> list[Figure]:
    """A full rebuild of two million rows; the baseline is CREATE TABLE AS, and then both indexes."""
    rates, join_rates = [], []
    with environment.populated_database():
        environment.fill_mirror(CONTACTS, INVOICES)
        for _ in rounds_in_time(rounds, MAX_SECONDS):
            seconds, rows = _measure_rebuild()
            rates.append(rows / seconds)
            join_rates.append(rows / _measure_join())
    name = f"rows of a full rebuild, {rows:,} of them"
    baseline = "CREATE TABLE AS of the same rows, then both indexes"
    return [at_least(name, rates, join_rates, GOAL_REBUILD, baseline, miss_reason=REBUILD_MISS_REASON)]
