"""Receivables: the records of a type by what they owe, and what the whole account is owed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.enums import RecordType
from store.read_model.balances import Ageing
from store.read_model.overdue_sql import AGEING_COLUMNS, AWAITS_PAYMENT, TODAY, overdue_days, sum_by_age

Sort = Literal[
    "outstanding",
    "overdue",
    "not_due",
    "overdue_1_to_30",
    "overdue_31_to_60",
    "overdue_61_to_90",
    "overdue_over_90",
]
SORT_COLUMNS: dict[Sort, str] = {sort: "open" if sort == "outstanding" else sort for sort in get_args(Sort)}
# No organisation has as many currencies. More can only be a vendor's mistake, and the last ones are left out.
MAX_CURRENCIES = 200
AGEING = ", ".join(f"b.{column}" for column in AGEING_COLUMNS)

# Jumps from each currency to the next one in the index, however many balances there are in it.
LIST_CURRENCIES = text("""
    WITH RECURSIVE used(currency) AS (
        (SELECT currency FROM record_balance
         WHERE account_id = :account AND record_type = :type AND type = 'ACCREC' ORDER BY currency LIMIT 1)
        UNION ALL
        SELECT (SELECT b.currency FROM record_balance b
                WHERE b.account_id = :account AND b.record_type = :type AND b.type = 'ACCREC'
                  AND b.currency > used.currency ORDER BY b.currency LIMIT 1)
        FROM used WHERE used.currency IS NOT NULL)
    SELECT currency FROM used WHERE currency IS NOT NULL LIMIT :limit
""")
IS_AFTER = """
    (b.{column}, b.record_id, b.currency) < (%(amount)s::numeric, %(record)s::bigint, %(after_currency)s::text)
"""
# The keys of a page: one walk along one index for each currency, each as long as the page, and a sort of what they
# return. Behind row-level security a comparison of amounts cannot be a condition of the index, so the walk starts at
# the largest amount; because the index has all columns of the keys, it reads no rows.
WALK = f"""
    SELECT walk.*
    FROM unnest(%(currencies)s::text[]) AS selected(currency)
    CROSS JOIN LATERAL (
        SELECT b.record_id, b.currency, b.{{column}} AS amount
        FROM record_balance b
        WHERE b.account_id = %(account)s AND b.record_type = %(type)s AND b.type = 'ACCREC'
          AND b.currency = selected.currency AND {IS_AFTER}
        ORDER BY b.{{column}} DESC, b.record_id DESC LIMIT %(limit)s) AS walk
"""
# The same for some names or an owner, which are not in the index: the matching records, and then their balances.
FILTER = f"""
    SELECT b.record_id, b.currency, b.{{column}} AS amount
    FROM (
        SELECT record_id FROM copper_record
        WHERE account_id = %(account)s AND record_type = %(type)s
          AND (%(search)s = '' OR position(%(search)s IN lower(name)) > 0)
          AND (%(owner)s::bigint IS NULL OR assignee_id = %(owner)s::bigint)
        OFFSET 0) AS c
    JOIN record_balance b ON b.account_id = %(account)s AND b.record_type = %(type)s AND b.record_id = c.record_id
         AND b.type = 'ACCREC' AND b.currency = ANY(%(currencies)s::text[])
    WHERE {IS_AFTER}
"""
# Names come from the mirror.
PAGE = f"""
    SELECT b.record_id, coalesce(c.name, '') AS name, b.currency, b.open, b.overdue, {AGEING}, b.invoices,
           b.overdue_invoices, coalesce(k.credit, 0) AS credit, c.assignee_id AS owner_id, u.name AS owner_name
    FROM (
        SELECT keys.*
        FROM ({{keys}}) AS keys
        JOIN account a ON a.id = %(account)s AND a.record_types @> ARRAY[%(type)s::text]
        ORDER BY keys.amount DESC, keys.record_id DESC, keys.currency DESC LIMIT %(limit)s) AS page
    JOIN record_balance b ON b.account_id = %(account)s AND b.record_type = %(type)s AND b.record_id = page.record_id
         AND b.type = 'ACCREC' AND b.currency = page.currency
    LEFT JOIN copper_record c ON c.account_id = b.account_id AND c.record_type = b.record_type
         AND c.record_id = b.record_id
    LEFT JOIN copper_user u ON u.account_id = c.account_id AND u.user_id = c.assignee_id
    LEFT JOIN LATERAL (
        SELECT sum(k.open) AS credit FROM account a
        JOIN record_balance k ON k.account_id = a.id AND is_shown(a, k.record_type, k.type, 'AUTHORISED')
        WHERE a.id = b.account_id AND k.record_type = b.record_type AND k.record_id = b.record_id
          AND k.currency = b.currency AND NOT is_purchase(k.type) AND credit_resource(k.type) IS NOT NULL) k ON true
    ORDER BY page.amount DESC, page.record_id DESC, page.currency DESC
"""
RANK = {sort: PAGE.format(keys=WALK.format(column=column)) for sort, column in SORT_COLUMNS.items()}
RANK_FILTERED = {sort: PAGE.format(keys=FILTER.format(column=column)) for sort, column in SORT_COLUMNS.items()}
# Each invoice counts once, however many records show it, and also if none does. A partial index holds the open ones.
# Each organisation's day is computed once, because its time zone takes longer than all the rest.
TOTALS = text(f"""
    WITH organisation AS MATERIALIZED (
        SELECT r.organisation_id, {TODAY} AS today
        FROM account a
        JOIN (SELECT account_id, id AS organisation_id, status FROM xero_organisation) r ON r.account_id = a.id
        WHERE a.id = :account AND r.status <> 'removed')
    SELECT coalesce(currency, '') AS currency,
           coalesce(sum(balance) FILTER (WHERE credit_resource(type) IS NULL), 0) AS open,
           {sum_by_age("balance", "days")},
           count(*) FILTER (WHERE credit_resource(type) IS NULL) AS invoices,
           count(*) FILTER (WHERE days > 0) AS overdue_invoices, max(days) AS oldest_days,
           coalesce(sum(balance) FILTER (WHERE credit_resource(type) IS NOT NULL), 0) AS credit
    FROM (
        SELECT r.currency, r.type, r.balance, {overdue_days("organisation.today")} AS days
        FROM account a
        JOIN xero_invoice r ON r.account_id = a.id AND {AWAITS_PAYMENT} AND NOT r.is_deleted
             AND NOT is_purchase(r.type) AND is_shown(a, NULL, r.type, r.status)
        JOIN organisation USING (organisation_id)
        WHERE a.id = :account
        OFFSET 0) AS invoice
    GROUP BY coalesce(currency, '') ORDER BY count(*) DESC, 1 LIMIT :limit
""")


@dataclass(frozen=True)
class Receivable(Ageing):
    """A record that owes something in one currency.

    `credit` is what is left of its credits, and not subtracted. `owner_id` is its assignee in Copper, `owner_name` None
    if that user is unknown.
    """

    record_id: int
    name: str
    invoices: int
    overdue_invoices: int
    credit: Decimal
    owner_id: int | None
    owner_name: str | None


@dataclass(frozen=True)
class AccountTotal(Ageing):
    """What the account is owed in one currency; `oldest_days` is how long its oldest unpaid invoice is overdue."""

    invoices: int
    overdue_invoices: int
    oldest_days: int
    credit: Decimal


@dataclass(frozen=True)
class RankingCursor:
    """Where a page of receivables ended: the amount by which they are sorted, the record that has it, its currency."""

    amount: Decimal
    record_id: int
    currency: str


START = RankingCursor(Decimal("Infinity"), 2**63 - 1, "")


@dataclass(frozen=True)
class ReceivablesQuery:
    """Which receivables, largest first: of a record type, in one currency or in all (None), of one owner or of all.

    `search` is a part of the record's name, in any case ('': any name). Amounts of different currencies are compared
    as numbers.
    """

    record_type: RecordType
    sort: Sort = "overdue"
    currency: str | None = None
    search: str = ""
    owner_id: int | None = None

    @property
    def statement(self) -> str:
        """The statement that ranks them, for psycopg: a page, or with the limit None all of them."""
        return (RANK_FILTERED if self.search or self.owner_id else RANK)[self.sort]

    def to_params(self, currencies: Sequence[str], after: RankingCursor | None = None) -> dict[str, Any]:
        """The statement's parameters, without `account` and `limit`; `currencies` are those of the record type."""
        cursor = after or START
        return {
            "type": self.record_type.value,
            "currencies": list(currencies) if self.currency is None else [self.currency],
            "search": self.search.lower(),
            "owner": self.owner_id,
            "amount": cursor.amount,
            "record": cursor.record_id,
            "after_currency": cursor.currency,
        }


@dataclass(frozen=True)
class ReceivablesPage:
    """A page of receivables, and the cursor of the next one (None: this is the last)."""

    receivables: Sequence[Receivable]
    next: RankingCursor | None


def list_currencies(session: Session, account_id: int, record_type: RecordType) -> list[str]:
    """Currencies in which records of a type owe, in alphabetical order, at most `MAX_CURRENCIES`."""
    params = {"account": account_id, "type": record_type.value, "limit": MAX_CURRENCIES}
    return list(session.execute(LIST_CURRENCIES, params).scalars())


def read_page(
    session: Session,
    account_id: int,
    query: ReceivablesQuery,
    *,
    currencies: Sequence[str],
    after: RankingCursor | None = None,
    limit: int,
) -> ReceivablesPage:
    """A page of at most `limit` receivables; none if the account hides the record type."""
    params = {**query.to_params(currencies, after), "account": account_id, "limit": limit + 1}
    rows = session.connection().exec_driver_sql(query.statement, params).mappings()
    receivables = [Receivable(**row) for row in rows]
    last = receivables[limit - 1] if len(receivables) > limit else None
    position = RankingCursor(sort_amount(last, query.sort), last.record_id, last.currency) if last else None
    return ReceivablesPage(receivables[:limit], position)


def sort_amount(receivable: Receivable, sort: Sort) -> Decimal:
    """The amount of a receivable by which it is sorted."""
    amount: Decimal = getattr(receivable, SORT_COLUMNS[sort])
    return amount


def list_totals(session: Session, account_id: int) -> list[AccountTotal]:
    """What the account's sales invoices and credits come to, by currency, the most frequent first."""
    params = {"account": account_id, "limit": MAX_CURRENCIES}
    return [AccountTotal(**row) for row in session.execute(TOTALS, params).mappings()]
