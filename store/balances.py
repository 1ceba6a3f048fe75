"""What records owe: one row a record, type and currency, kept by the projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from sqlalchemy import text
from sqlmodel import Session

from store.models import RecordType

SALES, BILLS = "ACCREC", "ACCPAY"
Sort = Literal["open", "overdue"]

OF_RECORD = text("""
    SELECT type, currency, open, overdue, invoices, overdue_invoices FROM record_balance
    WHERE account_id = :account AND record_type = :type AND record_id = :record
    ORDER BY type DESC, currency
""")
CURRENCIES = text("""
    SELECT currency FROM record_balance
    WHERE account_id = :account AND record_type = :type AND type = 'ACCREC'
    GROUP BY currency ORDER BY count(*) DESC, currency
""")
# One walk down one index; names come from the mirror.
RANKED = {
    sort: text(f"""
        SELECT b.record_id, coalesce(c.name, ''), b.currency, b.open, b.overdue, b.invoices, b.overdue_invoices
        FROM (
            SELECT b.* FROM record_balance b
            JOIN account a ON a.id = b.account_id AND a.record_types @> ARRAY[CAST(:type AS text)]
            WHERE b.account_id = :account AND b.record_type = :type AND b.type = 'ACCREC' AND b.currency = :currency
              AND (b.{sort}, b.record_id) < (CAST(:amount AS numeric), CAST(:record AS bigint))
            ORDER BY b.{sort} DESC, b.record_id DESC LIMIT :limit) b
        LEFT JOIN crm_record c ON c.account_id = b.account_id AND c.record_type = b.record_type
             AND c.record_id = b.record_id
        ORDER BY b.{sort} DESC, b.record_id DESC
    """)
    for sort in ("open", "overdue")
}


@dataclass(frozen=True)
class Balance:
    """What is open on a record in one currency ('': none given), and the part of it that is overdue."""

    type: str
    currency: str
    open: Decimal
    overdue: Decimal
    invoices: int
    overdue_invoices: int


@dataclass(frozen=True)
class RankedRecord:
    """A record that owes something, in one currency."""

    record_id: int
    name: str
    currency: str
    open: Decimal
    overdue: Decimal
    invoices: int
    overdue_invoices: int


@dataclass(frozen=True)
class Place:
    """Where a page of the ranking ended: an amount, and a record."""

    amount: Decimal
    record_id: int


TOP = Place(Decimal("Infinity"), 2**63 - 1)


def of_record(session: Session, account_id: int, kind: RecordType, record_id: int) -> list[Balance]:
    """A record's balances: sales invoices first, by currency."""
    chosen = {"account": account_id, "type": kind.value, "record": record_id}
    return [Balance(*row) for row in session.execute(OF_RECORD, chosen)]


def currencies(session: Session, account_id: int, kind: RecordType) -> list[str]:
    """Currencies that records of a type owe in, the one that most of them owe in first."""
    return list(session.execute(CURRENCIES, {"account": account_id, "type": kind.value}).scalars())


def ranked(
    session: Session,
    account_id: int,
    kind: RecordType,
    *,
    currency: str,
    sort: Sort,
    after: Place | None,
    limit: int,
) -> Sequence[RankedRecord]:
    """Records of a type by what they owe in a currency, the most first; nothing of a type that is switched off."""
    place = after or TOP
    chosen = {
        "account": account_id,
        "type": kind.value,
        "currency": currency,
        "amount": place.amount,
        "record": place.record_id,
        "limit": limit,
    }
    return [RankedRecord(*row) for row in session.execute(RANKED[sort], chosen)]
