"""What a record owes in the base currencies of its organisations, each invoice at its own exchange rate."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.enums import RecordType
from store.read_model.overdue_sql import AWAITS_PAYMENT

# Beyond these bounds a rate is an error: between the dearest and the cheapest currency there are about eight digits.
MIN_RATE, MAX_RATE = Decimal("1e-9"), Decimal("1e9")
# As large as any amount of an invoice; what is larger in the base currency has a wrong rate.
MAX_AMOUNT = Decimal("1e20")
# An invoice in the base currency needs no rate. `is_foreign` is over all rows: a single foreign invoice shows all sums.
LIST_BASE_TOTALS = text(f"""
    SELECT base_currency, string_agg(DISTINCT organisation, ', ' ORDER BY organisation) AS organisations,
           coalesce(sum(base_amount), 0) AS open, count(base_amount) AS invoices,
           count(*) - count(base_amount) AS invoices_without_rate, bool_or(bool_or(is_foreign)) OVER () AS is_foreign
    FROM (SELECT coalesce(o.base_currency, '') AS base_currency, o.name AS organisation,
                 coalesce(r.currency, '') <> o.base_currency AS is_foreign,
                 CASE WHEN r.currency = o.base_currency THEN r.balance
                      WHEN i.currency_rate BETWEEN :min_rate AND :max_rate
                           AND r.balance < :max_amount * i.currency_rate THEN r.balance / i.currency_rate
                 END AS base_amount
          FROM account a
          JOIN record_invoice r ON r.account_id = a.id AND r.record_type = :type AND r.record_id = :record
               AND r.type = 'ACCREC' AND {AWAITS_PAYMENT} AND is_shown(a, r.record_type, r.type, r.status)
          JOIN xero_organisation o ON o.account_id = a.id AND o.id = r.organisation_id
          LEFT JOIN xero_invoice i ON i.account_id = a.id AND i.organisation_id = r.organisation_id
               AND i.invoice_id = r.invoice_id
          WHERE a.id = :account AND a.record_types @> ARRAY[CAST(:type AS text)]) invoice
    GROUP BY base_currency ORDER BY base_currency
""")


@dataclass(frozen=True)
class BaseTotal:
    """What is open on a record's sales invoices of all organisations with one base currency ('' if not known), in it.

    Each of `invoices` counts at its own exchange rate; `invoices_without_rate` are not in `open`, because theirs is not
    known. `organisations` are the organisations' names.
    """

    base_currency: str
    organisations: str
    open: Decimal
    invoices: int
    invoices_without_rate: int


def list_for_record(session: Session, account_id: int, record_type: RecordType, record_id: int) -> list[BaseTotal]:
    """What a record owes in its organisations' base currencies; none if all of it is in these currencies anyway."""
    params = {
        "account": account_id,
        "type": record_type.value,
        "record": record_id,
        "min_rate": MIN_RATE,
        "max_rate": MAX_RATE,
        "max_amount": MAX_AMOUNT,
    }
    rows = session.execute(LIST_BASE_TOTALS, params).mappings().all()
    return [
        BaseTotal(**{name: value for name, value in row.items() if name != "is_foreign"})
        for row in rows
        if row["is_foreign"]
    ]
