"""What a record owes, by type and currency (the projection writes these balances), and how it has paid so far."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.enums import RecordType
from store.read_model.overdue_sql import AGEING_COLUMNS, TODAY

AGEING_SUMS = ", ".join(f"sum(b.{column}) AS {column}" for column in AGEING_COLUMNS)
LIST_FOR_RECORD = text(f"""
    SELECT is_purchase(b.type) AS is_purchase, b.currency,
           coalesce(sum(b.open) FILTER (WHERE credit_resource(b.type) IS NULL), 0) AS open, sum(b.overdue) AS overdue,
           {AGEING_SUMS},
           coalesce(sum(b.invoices) FILTER (WHERE credit_resource(b.type) IS NULL), 0) AS invoices,
           sum(b.overdue_invoices) AS overdue_invoices,
           coalesce(sum(b.open) FILTER (WHERE credit_resource(b.type) IS NOT NULL), 0) AS credit
    FROM account a
    JOIN record_balance b ON b.account_id = a.id AND is_shown(a, b.record_type, b.type, 'AUTHORISED')
    WHERE a.id = :account AND b.record_type = :type AND b.record_id = :record
      AND a.record_types @> ARRAY[CAST(:type AS text)]
    GROUP BY is_purchase(b.type), b.currency
    ORDER BY is_purchase(b.type), b.currency
""")
# Only sales invoices that are paid completely; Xero gives the day of the last payment.
PAYMENT_HISTORY = text(f"""
    WITH paid AS (
        SELECT r.invoice_id, r.organisation_id, r.number, r.total, r.currency, r.issue_date, r.paid_on
        FROM account a
        JOIN record_invoice r ON r.account_id = a.id AND r.record_type = :type AND r.record_id = :record
             AND is_shown(a, r.record_type, r.type, r.status)
        WHERE a.id = :account AND a.record_types @> ARRAY[CAST(:type AS text)]
          AND r.type = 'ACCREC' AND r.status = 'PAID' AND r.paid_on IS NOT NULL)
    SELECT summary.average_days, summary.invoices, r.paid_on, r.number, r.total, r.currency, {TODAY} AS today
    FROM account a
    CROSS JOIN (SELECT CAST(round(avg(paid_on - issue_date)) AS int) AS average_days, count(issue_date) AS invoices
                FROM paid) AS summary
    CROSS JOIN (SELECT * FROM paid ORDER BY paid_on DESC, invoice_id DESC LIMIT 1) AS r
    WHERE a.id = :account
""")


@dataclass(frozen=True)
class Ageing:
    """What is open in one currency ('' if none is given), and how late it is.

    `overdue` is a part of `open`, and the sum of the four buckets after it, which are days overdue.
    """

    currency: str
    open: Decimal
    overdue: Decimal
    overdue_1_to_30: Decimal
    overdue_31_to_60: Decimal
    overdue_61_to_90: Decimal
    overdue_over_90: Decimal

    @property
    def not_due(self) -> Decimal:
        """What is open and not overdue, such as invoices without a due date."""
        return self.open - self.overdue


@dataclass(frozen=True)
class Balance(Ageing):
    """What is open on a record's sales or purchase invoices in one currency.

    `credit` is what is left of credits, and not subtracted.
    """

    is_purchase: bool
    invoices: int
    overdue_invoices: int
    credit: Decimal


def list_for_record(session: Session, account_id: int, record_type: RecordType, record_id: int) -> list[Balance]:
    """A record's balances that the account shows: sales first, then purchases, by currency."""
    params = {"account": account_id, "type": record_type.value, "record": record_id}
    return [Balance(**row) for row in session.execute(LIST_FOR_RECORD, params).mappings()]


@dataclass(frozen=True)
class PaymentHistory:
    """How the sales invoices of a record were paid, those that are paid completely.

    `average_days` is the mean number of days from the issue date to the last payment, rounded, and None if none of the
    `invoices` that it is from has an issue date; it is negative if they were paid before. The others describe the
    invoice that was paid last; `today` is its organisation's day.
    """

    average_days: int | None
    invoices: int
    paid_on: date
    number: str | None
    total: Decimal | None
    currency: str | None
    today: date


def payment_history(
    session: Session, account_id: int, record_type: RecordType, record_id: int
) -> PaymentHistory | None:
    """How a record has paid so far; None if no invoice that the account shows is paid."""
    params = {"account": account_id, "type": record_type.value, "record": record_id}
    row = session.execute(PAYMENT_HISTORY, params).mappings().one_or_none()
    return PaymentHistory(**row) if row else None
