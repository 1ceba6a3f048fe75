"""The values of custom fields in Copper: what they should be by the read model, and what was written of them.

The projection marks the records whose invoices changed. `refresh` computes the expected values of marked records; a
record whose expected values differ from the written ones is pending until a worker has written it. Everything that
changes these rows holds the projection's lock of the account.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.database import execute_rowcount
from store.db.enums import RecordType
from store.read_model import projection
from store.read_model.overdue_sql import AWAITS_PAYMENT, OVERDUE_DAYS
from store.read_model.projection import Comparison, lock_account

FieldValue = Decimal | str
"""A number, or a date as ISO text."""
FieldValues = Mapping[str, FieldValue]
"""Values by field key. Empty fields are left out."""
MAX_ERROR_LENGTH = 300
MAX_DELAY_SECONDS = 86_400.0
REFRESH_BATCH_SIZE = 500
MAX_EXAMPLES = 20

# The values of the records in `scope`, by the rules of the sums on a record's page: sales invoices and sales credits of
# the types that its record type shows. A hidden status hides a row and changes no sum.
EXPECTED = f"""
    sale AS (
        SELECT s.record_type, s.record_id, coalesce(r.currency, '') AS currency, r.total, r.balance, r.due_date,
               r.issue_date, r.paid_on, {OVERDUE_DAYS} AS overdue_days,
               {AWAITS_PAYMENT} AND credit_resource(r.type) IS NULL AS awaits_payment,
               {AWAITS_PAYMENT} AND credit_resource(r.type) IS NOT NULL AS is_usable_credit,
               r.status IN ('AUTHORISED', 'PAID') AND credit_resource(r.type) IS NULL AS is_invoiced
        FROM scope s
        JOIN account a ON a.id = :account
        JOIN copper_field_settings w ON w.account_id = a.id AND w.state = 'on'
             AND s.record_type = ANY(w.record_types)
        JOIN copper_record c ON c.account_id = a.id AND c.record_type = s.record_type AND c.record_id = s.record_id
             AND NOT c.is_deleted
        JOIN record_invoice r ON r.account_id = a.id AND r.record_type = s.record_type AND r.record_id = s.record_id
        WHERE NOT is_purchase(r.type) AND is_shown(a, r.record_type, r.type, 'AUTHORISED')),
    amount AS (
        SELECT record_type, record_id, currency,
               coalesce(sum(balance) FILTER (WHERE awaits_payment), 0) AS outstanding,
               coalesce(sum(balance) FILTER (WHERE overdue_days > 0), 0) AS overdue,
               coalesce(sum(total) FILTER (WHERE is_invoiced), 0) AS invoiced,
               coalesce(sum(balance) FILTER (WHERE is_usable_credit), 0) AS credit
        FROM sale GROUP BY record_type, record_id, currency),
    detail AS (
        SELECT record_type, record_id, min(due_date) FILTER (WHERE overdue_days > 0) AS overdue_since,
               max(issue_date) FILTER (WHERE is_invoiced) AS last_invoice,
               max(paid_on) FILTER (WHERE is_invoiced) AS last_payment,
               count(*) FILTER (WHERE awaits_payment) AS open_invoices
        FROM sale GROUP BY record_type, record_id),
    measured AS (
        SELECT record_type, record_id, currency, m.measure, to_jsonb(trim_scale(m.amount)) AS field_value
        FROM amount CROSS JOIN LATERAL (VALUES
            ('outstanding', outstanding), ('overdue', overdue), ('invoiced', invoiced), ('credit', credit)
        ) AS m(measure, amount)
        UNION ALL
        SELECT record_type, record_id, '', m.measure, m.field_value
        FROM detail CROSS JOIN LATERAL (VALUES
            ('overdue_since', to_jsonb(overdue_since)), ('last_invoice', to_jsonb(last_invoice)),
            ('last_payment', to_jsonb(last_payment)), ('open_invoices', to_jsonb(open_invoices))
        ) AS m(measure, field_value)),
    expected AS (
        SELECT s.record_type, s.record_id, coalesce(v.field_values, '{{}}') AS field_values
        FROM scope s
        LEFT JOIN (
            SELECT m.record_type, m.record_id, jsonb_object_agg(f.field_key, m.field_value) AS field_values
            FROM measured m
            JOIN copper_field f ON f.account_id = :account AND f.measure = m.measure AND f.currency = m.currency
                 AND f.is_selected
            WHERE m.field_value IS NOT NULL
            GROUP BY m.record_type, m.record_id) v USING (record_type, record_id))
"""


def _is_overdue(values: str) -> str:
    """Whether some values, an SQL expression, say that the record has something overdue."""
    return f"""
        EXISTS (SELECT FROM copper_field f WHERE f.account_id = :account
                AND (f.measure = 'overdue' AND CAST({values} ->> f.field_key AS numeric) > 0
                     OR f.measure = 'overdue_since' AND {values} ->> f.field_key IS NOT NULL))
    """


# A burst is written once: not before it has settled, and at most once in an interval, except that the beginning and the
# end of being overdue do not wait for the interval. A record that may not be written yet is not summed yet either.
IS_COMPUTABLE = f"""
    (v.written_at IS NULL OR v.written_at <= now() - make_interval(secs => :interval_seconds)
     OR EXISTS (SELECT FROM record_balance b WHERE b.account_id = v.account_id AND b.record_type = v.record_type
                AND b.record_id = v.record_id AND b.type = 'ACCREC' AND b.overdue > 0)
        <> {_is_overdue("v.written_values")})
"""
REFRESH = text(f"""
    WITH scope AS MATERIALIZED (
        SELECT v.record_type, v.record_id FROM copper_field_value v
        WHERE v.account_id = :account AND v.is_stale AND {IS_COMPUTABLE}
        ORDER BY v.record_type, v.record_id LIMIT :limit),
    {EXPECTED}
    UPDATE copper_field_value v SET
        expected_values = e.field_values, is_stale = false,
        not_before = CASE
            WHEN v.expected_values = e.field_values THEN v.not_before
            WHEN v.written_at IS NULL OR {_is_overdue("e.field_values")} <> {_is_overdue("v.written_values")}
                THEN now() + make_interval(secs => :settle_seconds)
            ELSE greatest(v.written_at + make_interval(secs => :interval_seconds),
                          now() + make_interval(secs => :settle_seconds)) END,
        attempts = CASE WHEN v.expected_values = e.field_values THEN v.attempts ELSE 0 END,
        error = CASE WHEN v.expected_values = e.field_values THEN v.error END
    FROM expected e
    WHERE v.account_id = :account AND v.record_type = e.record_type AND v.record_id = e.record_id
    RETURNING v.record_type, v.record_id, v.expected_values = '{{}}'
              AND (v.written_values = '{{}}'
                   OR EXISTS (SELECT FROM copper_record c WHERE c.account_id = v.account_id
                              AND c.record_type = v.record_type AND c.record_id = v.record_id AND c.is_deleted))
              AS is_unneeded
""")
# Nothing is to be written for a record that Copper has deleted, nor for one that has no values and never had any.
DELETE_RECORDS = text("""
    DELETE FROM copper_field_value v
    USING unnest(CAST(:types AS text[]), CAST(:records AS bigint[])) AS k(record_type, record_id)
    WHERE v.account_id = :account AND v.record_type = k.record_type AND v.record_id = k.record_id AND NOT v.is_stale
""")
DELETE_EMPTY = text("""
    DELETE FROM copper_field_value
    WHERE account_id = :account AND NOT is_stale AND expected_values = '{}' AND written_values = '{}'
      AND (CAST(:records AS bigint[]) IS NULL OR record_type = :type AND record_id = ANY(:records))
""")
HAS_STALE = text("""
    SELECT EXISTS (SELECT FROM copper_field_value WHERE account_id = :account AND is_stale)
""")
SECONDS_UNTIL_DUE = text(f"""
    SELECT extract(epoch FROM least(
        (SELECT not_before FROM copper_field_value
         WHERE account_id = :account AND is_pending AND NOT is_stale ORDER BY not_before LIMIT 1),
        (SELECT min(CASE WHEN {IS_COMPUTABLE} THEN now()
                         ELSE v.written_at + make_interval(secs => :interval_seconds) END)
         FROM copper_field_value v WHERE v.account_id = :account AND v.is_stale)) - now())
""")
DUE_ACCOUNTS = text("""
    SELECT w.account_id FROM copper_field_settings w JOIN account a ON a.id = w.account_id AND a.closed_at IS NULL
    WHERE w.state <> 'off' AND w.not_before <= now() AND (w.leased_until IS NULL OR w.leased_until < now())
      AND (w.state = 'clearing' OR w.checked_at IS NULL OR w.error IS NOT NULL
           OR w.checked_at < now() - make_interval(secs => :check_seconds)
           OR EXISTS (SELECT FROM copper_field_value v WHERE v.account_id = w.account_id AND v.is_stale)
           OR EXISTS (SELECT FROM copper_field_value v WHERE v.account_id = w.account_id AND v.is_pending
                      AND v.not_before <= now()))
""")
# The records of the type that has waited longest.
LIST_DUE = text("""
    SELECT record_type, record_id, expected_values::text, written_values::text FROM copper_field_value
    WHERE account_id = :account AND is_pending AND NOT is_stale AND not_before <= now()
      AND record_type = (SELECT record_type FROM copper_field_value
                         WHERE account_id = :account AND is_pending AND NOT is_stale AND not_before <= now()
                         ORDER BY not_before, record_type, record_id LIMIT 1)
    ORDER BY not_before, record_id LIMIT :limit
""")
# Whoever emptied all fields in the meantime did not see a first write under way, and has deleted its row.
RECORD_WRITTEN = text("""
    INSERT INTO copper_field_value AS v (account_id, record_type, record_id, written_values, written_at)
    SELECT :account, :type, w.record_id, CAST(w.written AS jsonb), now()
    FROM unnest(CAST(:records AS bigint[]), CAST(:values AS text[])) AS w(record_id, written)
    ON CONFLICT (account_id, record_type, record_id) DO UPDATE SET
        written_values = EXCLUDED.written_values, written_at = now(), attempts = 0, error = NULL,
        not_before = greatest(v.not_before, now() + make_interval(secs => :interval_seconds))
""")
RECORD_FAILED = text("""
    UPDATE copper_field_value SET attempts = attempts + 1, error = :error,
        not_before = now() + make_interval(secs => least(300 * power(2, least(attempts, 20)), :max_seconds))
    WHERE account_id = :account AND record_type = :type AND record_id = :record
""")
CLEAR = text("""
    UPDATE copper_field_value SET expected_values = '{}', is_stale = false, not_before = now(), attempts = 0,
                                  error = NULL
    WHERE account_id = :account
""")
RETRY_FAILED = text("""
    UPDATE copper_field_value SET not_before = now(), attempts = 0, error = NULL
    WHERE account_id = :account AND error IS NOT NULL
""")
FORGET_FIELD = text("""
    UPDATE copper_field_value SET written_values = written_values - CAST(:key AS text), is_stale = true
    WHERE account_id = :account AND jsonb_exists(written_values, :key)
""")
FORGET = text("DELETE FROM copper_field_value WHERE account_id = :account")
COUNT = text("""
    SELECT count(*) AS records, count(*) FILTER (WHERE is_stale OR is_pending AND error IS NULL) AS pending,
           count(*) FILTER (WHERE error IS NOT NULL) AS failed, max(written_at) AS last_written_at
    FROM copper_field_value WHERE account_id = :account
""")
LIST_FAILED = text("""
    SELECT v.record_type, v.record_id, coalesce(c.name, '') AS name, v.error, v.attempts, v.not_before
    FROM copper_field_value v
    LEFT JOIN copper_record c ON c.account_id = v.account_id AND c.record_type = v.record_type
         AND c.record_id = v.record_id
    WHERE v.account_id = :account AND v.error IS NOT NULL
    ORDER BY v.record_type, v.record_id LIMIT :limit
""")
LIST_WRITTEN = text("""
    SELECT v.record_type, v.record_id,
           ARRAY(SELECT f.definition_id FROM copper_field f
                 WHERE f.account_id = v.account_id AND f.definition_id IS NOT NULL
                   AND jsonb_exists(v.written_values, f.field_key)) AS definitions
    FROM copper_field_value v
    WHERE v.account_id = :account AND v.written_values <> '{}' ORDER BY v.record_type, v.record_id LIMIT :limit
""")
COUNT_CANDIDATES = text("""
    SELECT record_type, count(DISTINCT record_id) FROM record_invoice r JOIN account a ON a.id = r.account_id
    WHERE r.account_id = :account AND NOT is_purchase(r.type) AND is_shown(a, r.record_type, r.type, 'AUTHORISED')
    GROUP BY record_type
""")
# What somebody changed by hand, or what was never written. A write within the time that notifications and searches may
# lag is not compared.
OBSERVED = """
    WITH observed AS (
        SELECT o.record_id, CAST(o.observed AS jsonb) AS field_values
        FROM unnest(CAST(:records AS bigint[]), CAST(:values AS text[])) AS o(record_id, observed)),
    differing AS (
        SELECT o.record_id, o.field_values
        FROM observed o
        LEFT JOIN copper_field_value v ON v.account_id = :account AND v.record_type = :type
             AND v.record_id = o.record_id
        WHERE coalesce(v.written_values, '{}') <> o.field_values
          AND (v.written_at IS NULL OR v.written_at < :settled_at))
"""
COUNT_OBSERVED = text(f"{OBSERVED} SELECT count(*) FROM differing")
RECORD_OBSERVED = text(f"""
    {OBSERVED}
    INSERT INTO copper_field_value AS v (account_id, record_type, record_id, written_values)
    SELECT :account, :type, record_id, field_values FROM differing ORDER BY record_id
    ON CONFLICT (account_id, record_type, record_id) DO UPDATE
    SET written_values = EXCLUDED.written_values, is_stale = true, not_before = now(), attempts = 0, error = NULL
""")
COMPARE = text(f"""
    WITH scope AS (
        SELECT record_type, record_id FROM record_invoice WHERE account_id = :account
        UNION
        SELECT record_type, record_id FROM copper_field_value WHERE account_id = :account),
    {EXPECTED}
    SELECT e.record_type, e.record_id
    FROM expected e
    LEFT JOIN copper_field_value v ON v.account_id = :account AND v.record_type = e.record_type
         AND v.record_id = e.record_id
    WHERE v.is_stale IS NOT TRUE AND coalesce(v.expected_values, '{{}}') <> e.field_values
    ORDER BY e.record_type, e.record_id
""")


@dataclass(frozen=True)
class PendingRecord:
    """A record whose fields differ from what was written, with both as JSON."""

    record_type: RecordType
    record_id: int
    expected: str
    written: str

    @property
    def changes(self) -> dict[str, FieldValue | None]:
        """What to write, by field key; None empties a field."""
        expected, written = _load(self.expected), _load(self.written)
        keys = sorted(expected.keys() | written.keys())
        return {key: expected.get(key) for key in keys if expected.get(key) != written.get(key)}


@dataclass(frozen=True)
class FailedRecord:
    """A record whose fields Copper refused to write, with its reason and when it is tried again."""

    record_type: RecordType
    record_id: int
    name: str
    error: str
    attempts: int
    not_before: datetime


@dataclass(frozen=True)
class Progress:
    """How many records have fields, how many of them are still to be written, and how many Copper refused."""

    records: int
    pending: int
    failed: int
    last_written_at: datetime | None


@dataclass
class Observation:
    """The values that a page of Copper's records has in the account's own fields, by record id."""

    record_type: RecordType
    values: dict[int, FieldValues] = field(default_factory=dict)

    def params(self, account_id: int, settled_at: datetime) -> dict[str, Any]:
        """The parameters of the statements."""
        return {
            "account": account_id,
            "type": self.record_type.value,
            "records": list(self.values),
            "values": [_dump(values) for values in self.values.values()],
            "settled_at": settled_at,
        }


def _load(json_text: str) -> dict[str, FieldValue]:
    """Values from JSON, with all digits of their numbers."""
    loaded: dict[str, FieldValue] = json.loads(json_text, parse_float=Decimal, parse_int=Decimal)
    return loaded


def _dump(values: FieldValues) -> str:
    exact = {key: orjson.Fragment(f"{v:f}") if isinstance(v, Decimal) else v for key, v in values.items()}
    return orjson.dumps(exact).decode()


def refresh(session: Session, account_id: int, *, interval_seconds: float, settle_seconds: float) -> int:
    """Compute the expected values of up to 500 marked records; return how many there were."""
    lock_account(session, account_id)
    params = {
        "account": account_id,
        "limit": REFRESH_BATCH_SIZE,
        "interval_seconds": interval_seconds,
        "settle_seconds": settle_seconds,
    }
    rows = session.execute(REFRESH, params).all()
    unneeded = [row for row in rows if row.is_unneeded]
    if unneeded:
        keys = {"types": [row.record_type for row in unneeded], "records": [row.record_id for row in unneeded]}
        session.execute(DELETE_RECORDS, {"account": account_id, **keys})
    return len(rows)


def has_stale(session: Session, account_id: int) -> bool:
    """Whether the projection has marked records whose values are not computed yet."""
    return bool(session.execute(HAS_STALE, {"account": account_id}).scalar_one())


def seconds_until_due(session: Session, account_id: int, interval_seconds: float) -> float | None:
    """Seconds until the next record may be computed or written, 0 if one may be now; None if nothing is pending."""
    params = {"account": account_id, "interval_seconds": interval_seconds}
    seconds = session.execute(SECONDS_UNTIL_DUE, params).scalar_one_or_none()
    return max(float(seconds), 0.0) if seconds is not None else None


def due_accounts(session: Session, check_seconds: float) -> list[int]:
    """The accounts with values to compute or write now, or whose definitions were not checked for some seconds."""
    return list(session.execute(DUE_ACCOUNTS, {"check_seconds": check_seconds}).scalars())


def list_due(session: Session, account_id: int, limit: int) -> list[PendingRecord]:
    """Up to `limit` records of one type that may be written now: of the type that has waited longest."""
    return [
        PendingRecord(RecordType(row.record_type), row.record_id, row.expected_values, row.written_values)
        for row in session.execute(LIST_DUE, {"account": account_id, "limit": limit})
    ]


def record_written(
    session: Session, account_id: int, records: Sequence[PendingRecord], interval_seconds: float
) -> None:
    """Record that the expected values of some records of one type were written."""
    if not records:
        return
    lock_account(session, account_id)
    params = {
        "account": account_id,
        "type": records[0].record_type.value,
        "records": [record.record_id for record in records],
        "values": [record.expected for record in records],
        "interval_seconds": interval_seconds,
    }
    session.execute(RECORD_WRITTEN, params)
    session.execute(DELETE_EMPTY, params)


def record_failure(session: Session, account_id: int, record: PendingRecord, error: str) -> None:
    """Record why Copper refused a record; it is tried again after five minutes, then at growing intervals."""
    lock_account(session, account_id)
    params = {
        "account": account_id,
        "type": record.record_type.value,
        "record": record.record_id,
        "error": error[:MAX_ERROR_LENGTH],
        "max_seconds": MAX_DELAY_SECONDS,
    }
    session.execute(RECORD_FAILED, params)


def delete_record(session: Session, account_id: int, record: PendingRecord) -> None:
    """Forget a record that Copper no longer has."""
    lock_account(session, account_id)
    params = {"account": account_id, "types": [record.record_type.value], "records": [record.record_id]}
    session.execute(DELETE_RECORDS, params)


def clear_all(session: Session, account_id: int) -> None:
    """Expect no values on any record, so that all that were written are emptied."""
    lock_account(session, account_id)
    session.execute(CLEAR, {"account": account_id})
    session.execute(DELETE_EMPTY, {"account": account_id, "type": "", "records": None})


def retry_failed(session: Session, account_id: int) -> int:
    """Let all refused records be tried again now; return how many."""
    lock_account(session, account_id)
    return execute_rowcount(session, RETRY_FAILED, {"account": account_id})


def forget_field(session: Session, account_id: int, key: str) -> None:
    """Forget what was written to a field, because its definition in Copper is a new one without values."""
    lock_account(session, account_id)
    session.execute(FORGET_FIELD, {"account": account_id, "key": key})


def forget_all(session: Session, account_id: int) -> None:
    """Forget what was written, without changing anything in Copper."""
    lock_account(session, account_id)
    session.execute(FORGET, {"account": account_id})


def count(session: Session, account_id: int) -> Progress:
    """How far writing is."""
    row = session.execute(COUNT, {"account": account_id}).one()
    return Progress(row.records, row.pending, row.failed, row.last_written_at)


def count_candidates(session: Session, account_id: int) -> dict[RecordType, int]:
    """How many records of each type have sales invoices or credits."""
    counts = dict.fromkeys(RecordType, 0)
    counts |= {RecordType(row[0]): row[1] for row in session.execute(COUNT_CANDIDATES, {"account": account_id})}
    return counts


def list_failed(session: Session, account_id: int, limit: int) -> list[FailedRecord]:
    """Records that Copper refused to write, with its reasons."""
    rows = session.execute(LIST_FAILED, {"account": account_id, "limit": limit})
    return [FailedRecord(RecordType(row[0]), *row[1:]) for row in rows]


def list_written(session: Session, account_id: int, limit: int) -> list[tuple[str, int, list[int]]]:
    """Records that have values of ours in Copper: type, id, and the definitions of their fields."""
    rows = session.execute(LIST_WRITTEN, {"account": account_id, "limit": limit})
    return [(row.record_type, row.record_id, list(row.definitions)) for row in rows if row.definitions]


def count_observed(session: Session, account_id: int, observation: Observation, settled_at: datetime) -> int:
    """How many records have other values than were written before `settled_at`."""
    return int(session.execute(COUNT_OBSERVED, observation.params(account_id, settled_at)).scalar_one())


def record_observed(session: Session, account_id: int, observation: Observation, settled_at: datetime) -> None:
    """Take other values than were written before `settled_at` for the written ones, so that they are written again."""
    lock_account(session, account_id)
    session.execute(RECORD_OBSERVED, observation.params(account_id, settled_at))


def compare(session: Session, account_id: int) -> Comparison:
    """Compare the read model, and the values expected in Copper's fields, with a rebuild; changes nothing."""
    comparison = projection.compare(session, account_id)
    records = [f"{row[0]} {row[1]}" for row in session.execute(COMPARE, {"account": account_id})]
    examples = {"fields": records[:MAX_EXAMPLES]} if records else {}
    return replace(comparison, fields=len(records), examples=comparison.examples | examples)
