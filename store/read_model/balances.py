"""Record balances (read side): what each record owes, by type and currency. The projection writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.enums import RecordType

Sort = Literal["open", "overdue"]

LIST_FOR_RECORD = text("""
    SELECT is_purchase(b.type) AS is_purchase, b.currency,
           coalesce(sum(b.open) FILTER (WHERE credit_resource(b.type) IS NULL), 0) AS open, sum(b.overdue) AS overdue,
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
LIST_CURRENCIES = text("""
    SELECT currency FROM record_balance
    WHERE account_id = :account AND record_type = :type AND type = 'ACCREC'
    GROUP BY currency ORDER BY count(*) DESC, currency
""")
# One walk along one index; names come from the mirror.
RANK = {
    sort: text(f"""
        SELECT b.record_id, coalesce(c.name, '') AS name, b.currency, b.open, b.overdue, b.invoices, b.overdue_invoices,
               coalesce(k.credit, 0) AS credit
        FROM (
            SELECT b.* FROM record_balance b
            JOIN account a ON a.id = b.account_id AND a.record_types @> ARRAY[CAST(:type AS text)]
            WHERE b.account_id = :account AND b.record_type = :type AND b.type = 'ACCREC' AND b.currency = :currency
              AND (b.{sort}, b.record_id) < (CAST(:amount AS numeric), CAST(:record AS bigint))
            ORDER BY b.{sort} DESC, b.record_id DESC LIMIT :limit) b
        LEFT JOIN copper_record c ON c.account_id = b.account_id AND c.record_type = b.record_type
             AND c.record_id = b.record_id
        LEFT JOIN LATERAL (
            SELECT sum(k.open) AS credit FROM account a
            JOIN record_balance k ON k.account_id = a.id AND is_shown(a, k.record_type, k.type, 'AUTHORISED')
            WHERE a.id = b.account_id AND k.record_type = b.record_type AND k.record_id = b.record_id
              AND k.currency = b.currency AND NOT is_purchase(k.type)
              AND credit_resource(k.type) IS NOT NULL) k ON true
        ORDER BY b.{sort} DESC, b.record_id DESC
    """)
    for sort in ("open", "overdue")
}


@dataclass(frozen=True)
class Balance:
    """What is open on a record's sales or purchase invoices in one currency ('' if none is given).

    `overdue` is a part of `open`; `credit` is what is left of credits, and not subtracted.
    """

    is_purchase: bool
    currency: str
    open: Decimal
    overdue: Decimal
    invoices: int
    overdue_invoices: int
    credit: Decimal


@dataclass(frozen=True)
class RankedRecord:
    """A record that owes something in one currency; `credit` is what is left of its credits, and not subtracted."""

    record_id: int
    name: str
    currency: str
    open: Decimal
    overdue: Decimal
    invoices: int
    overdue_invoices: int
    credit: Decimal


@dataclass(frozen=True)
class RankingCursor:
    """Where a page of the ranking ended: an amount, and the record that has it."""

    amount: Decimal
    record_id: int


START = RankingCursor(Decimal("Infinity"), 2**63 - 1)


def list_for_record(session: Session, account_id: int, record_type: RecordType, record_id: int) -> list[Balance]:
    """A record's balances that the account shows: sales first, then purchases, by currency."""
    params = {"account": account_id, "type": record_type.value, "record": record_id}
    return [Balance(**row) for row in session.execute(LIST_FOR_RECORD, params).mappings()]


def list_currencies(session: Session, account_id: int, record_type: RecordType) -> list[str]:
    """Currencies in which records of a type owe, the most frequent first."""
    return list(session.execute(LIST_CURRENCIES, {"account": account_id, "type": record_type.value}).scalars())


def rank_records(
    session: Session,
    account_id: int,
    record_type: RecordType,
    *,
    currency: str,
    sort: Sort,
    after: RankingCursor | None,
    limit: int,
) -> Sequence[RankedRecord]:
    """Records of a type by what they owe in a currency, largest first; none if the account hides the type."""
    cursor = after or START
    params = {
        "account": account_id,
        "type": record_type.value,
        "currency": currency,
        "amount": cursor.amount,
        "record": cursor.record_id,
        "limit": limit,
    }
    return [RankedRecord(**row) for row in session.execute(RANK[sort], params).mappings()]
