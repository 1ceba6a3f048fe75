"""The account's invoices and credits, each once however many records show it: a filtered list, its counts and sums.

No index serves the filters. One pass over the account's invoices counts and sums them, which takes about a second for
200,000, and `xero_invoice_created_idx` gives a page of the newest (docs/design.md). A trigram index would not help a
search: its operators are not leakproof, so row-level security keeps them from using an index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from uuid import UUID

from psycopg.errors import QueryCanceled
from sqlalchemy import exc, text
from sqlalchemy.orm import Session

from store.read_model.invoice_queries import MAX_ID
from store.read_model.overdue_sql import OVERDUE_DAYS, TODAY
from store.read_model.record_invoices import ROW_STATUS, InvoiceListItem

Sort = Literal["created", "due", "balance"]
MIN_ID = str(UUID(int=0))

SHOWN_INVOICES = """
    FROM account a
    JOIN xero_invoice r ON r.account_id = a.id AND NOT r.is_deleted AND r.status <> 'DELETED'
         AND is_shown(a, NULL, r.type, r.status)
    JOIN xero_organisation o ON o.account_id = a.id AND o.id = r.organisation_id AND o.status <> 'removed'
    LEFT JOIN xero_contact c ON c.account_id = a.id AND c.organisation_id = r.organisation_id
         AND c.contact_id = r.contact_id
    WHERE a.id = %(account)s
"""
# Everything that an `AccountInvoiceFilter` asks for except the status, whose counts stand beside each other.
MATCHES_FILTER = """
    (%(organisation)s::bigint IS NULL OR r.organisation_id = %(organisation)s)
    AND (%(currency)s::text IS NULL OR coalesce(r.currency, '') = %(currency)s)
    AND (%(type)s::text IS NULL OR r.type = %(type)s)
    AND (%(search)s::text = '' OR position(%(search)s IN lower(r.number)) > 0
         OR position(%(search)s IN lower(r.reference)) > 0 OR position(%(search)s IN lower(c.name)) > 0)
    AND (%(is_matched)s::boolean IS NULL OR %(is_matched)s = EXISTS (
        SELECT FROM record_invoice x WHERE x.account_id = a.id AND x.invoice_id = r.invoice_id))
"""
# Every group of the account, so that a filter's choices are known even where nothing matches the others.
SUMMARISE = f"""
    SELECT r.row_status AS status, r.type, is_purchase(r.type) AS is_purchase, r.currency,
           count(*) FILTER (WHERE r.matches) AS invoices,
           coalesce(sum(r.total) FILTER (WHERE r.matches), 0) AS total,
           coalesce(sum(r.balance) FILTER (WHERE r.matches AND r.status = 'AUTHORISED' AND r.balance > 0), 0) AS balance
    FROM (SELECT r.type, coalesce(r.currency, '') AS currency, r.status, r.total, r.balance,
                 {ROW_STATUS} AS row_status, ({MATCHES_FILTER}) AS matches
          {SHOWN_INVOICES}) AS r
    GROUP BY r.row_status, r.type, r.currency
"""
SIGNED_BALANCE = "CASE WHEN credit_resource(r.type) IS NULL THEN r.balance ELSE -r.balance END"


class SortOrder(NamedTuple):
    """How a list is sorted: an expression and its type in SQL, the direction, and where the first page starts.

    An invoice without a due date comes last, and so does one without a balance.
    """

    expression: str
    sql_type: str
    direction: str
    comparison: str
    start: tuple[str, str]


ORDERS: dict[Sort, SortOrder] = {
    "created": SortOrder("r.created_at", "timestamptz", "DESC", "<", ("infinity", MAX_ID)),
    "due": SortOrder("coalesce(r.due_date, 'infinity')", "date", "ASC", ">", ("-infinity", MIN_ID)),
    "balance": SortOrder(f"coalesce({SIGNED_BALANCE}, '-Infinity')", "numeric", "DESC", "<", ("Infinity", MAX_ID)),
}
COLUMNS = f"""
    r.created_at, r.invoice_id, r.organisation_id, r.type, r.status, r.number,
    CASE WHEN is_purchase(r.type) THEN coalesce(c.name, '') ELSE o.name END AS issuer,
    r.issue_date, r.due_date, r.total, r.balance, r.currency, r.created_source, o.short_code,
    r.reference, r.paid_on, r.expected_payment_date, r.amount_paid, r.amount_credited, r.is_sent,
    o.name AS organisation, {TODAY} AS today, {OVERDUE_DAYS} AS overdue_days, 1 AS matches,
    r.contact_id, coalesce(c.name, '') AS contact_name
"""
LIST = {
    sort: f"""
        SELECT {COLUMNS}, ({order.expression})::text AS sort_key
        {SHOWN_INVOICES} AND {MATCHES_FILTER}
          AND (%(status)s::text = '' OR {ROW_STATUS} = %(status)s)
          AND ({order.expression}, r.invoice_id) {order.comparison}
              (%(after_key)s::text::{order.sql_type}, %(after_id)s::uuid)
        ORDER BY {order.expression} {order.direction}, r.invoice_id {order.direction}
        LIMIT %(limit)s
    """
    for sort, order in ORDERS.items()
}

# Who types a number wants that invoice, whatever else contains it.
SEARCH = f"""
    SELECT {COLUMNS}, r.created_at::text AS sort_key
    {SHOWN_INVOICES} AND {MATCHES_FILTER}
    ORDER BY (lower(r.number) = %(search)s) IS TRUE DESC, r.created_at DESC, r.invoice_id DESC
    LIMIT %(limit)s
"""
LIST_ORGANISATIONS = text("""
    SELECT id, name FROM xero_organisation WHERE account_id = :account AND status <> 'removed' ORDER BY name, id
""")


class ListTimeoutError(Exception):
    """The account has too many invoices for this search: a statement took longer than the request allows."""


@dataclass(frozen=True)
class AccountInvoiceFilter:
    """Which of the account's invoices are listed; the defaults let all through.

    `search` is a part of a number, of a reference or of the contact's name, in any case. `status` may be `OVERDUE`,
    `CREDIT`, `SUPPLIERCREDIT` or `USEDCREDIT` too; `currency` '' means that none is given; `is_matched` is whether any
    record has the invoice.
    """

    search: str = ""
    status: str = ""
    organisation_id: int | None = None
    currency: str | None = None
    type: str | None = None
    is_matched: bool | None = None

    def to_params(self, account_id: int) -> dict[str, Any]:
        """The parameters of the statements."""
        return {
            "account": account_id,
            "search": self.search.lower(),
            "status": self.status,
            "organisation": self.organisation_id,
            "currency": self.currency,
            "type": self.type,
            "is_matched": self.is_matched,
        }


class ListCursor(NamedTuple):
    """Where a page of the list ended: its last row's sort key as PostgreSQL's text, and its id."""

    sort_key: str
    invoice_id: UUID


@dataclass(frozen=True)
class AccountInvoice:
    """An invoice or a credit of the account, with its contact (name '' if it has none)."""

    item: InvoiceListItem
    contact_id: UUID | None
    contact_name: str
    cursor: ListCursor


@dataclass(frozen=True)
class InvoiceGroup:
    """The invoices of one status, type and currency that match a filter, whatever status it selects.

    `balance` is what awaits payment, or of credits what is left to use.
    """

    status: str
    type: str
    is_purchase: bool
    currency: str
    invoices: int
    total: Decimal
    balance: Decimal


def list_page(
    session: Session,
    account_id: int,
    invoice_filter: AccountInvoiceFilter,
    sort: Sort,
    after: ListCursor | None,
    limit: int,
) -> Sequence[AccountInvoice]:
    """A page of the filtered invoices; raises `ListTimeoutError` if the search takes too long."""
    params = {**list_params(account_id, invoice_filter, sort, after), "limit": limit}
    return _read(session, LIST[sort], params)


def search(session: Session, account_id: int, search_text: str, limit: int) -> Sequence[AccountInvoice]:
    """Invoices by number, reference or contact name: those with exactly this number first, then the newest.

    Raises `ListTimeoutError` if the search takes too long.
    """
    params = {**AccountInvoiceFilter(search=search_text).to_params(account_id), "limit": limit}
    return _read(session, SEARCH, params)


def _read(session: Session, statement: str, params: dict[str, Any]) -> Sequence[AccountInvoice]:
    with _recognise_timeout():
        rows = session.connection().exec_driver_sql(statement, params).mappings().all()
    return [
        AccountInvoice(
            item=InvoiceListItem(**{name: row[name] for name in InvoiceListItem._fields}),
            contact_id=row["contact_id"],
            contact_name=row["contact_name"],
            cursor=ListCursor(row["sort_key"], row["invoice_id"]),
        )
        for row in rows
    ]


def list_params(
    account_id: int, invoice_filter: AccountInvoiceFilter, sort: Sort, after: ListCursor | None = None
) -> dict[str, Any]:
    """The parameters of a list, without its limit."""
    after_key, after_id = after or ORDERS[sort].start
    return {**invoice_filter.to_params(account_id), "after_key": after_key, "after_id": after_id}


def summarise(session: Session, account_id: int, invoice_filter: AccountInvoiceFilter) -> Sequence[InvoiceGroup]:
    """Counts and sums of what matches the filter, for every status, type and currency that the account has.

    Raises `ListTimeoutError` if the search takes too long.
    """
    with _recognise_timeout():
        rows = session.connection().exec_driver_sql(SUMMARISE, invoice_filter.to_params(account_id)).mappings()
    return [InvoiceGroup(**row) for row in rows]


def count_by_status(groups: Iterable[InvoiceGroup]) -> dict[str, int]:
    """The number of matching invoices of each status that has any."""
    counts: dict[str, int] = {}
    for group in groups:
        if group.invoices:
            counts[group.status] = counts.get(group.status, 0) + group.invoices
    return counts


def list_organisations(session: Session, account_id: int) -> dict[int, str]:
    """The names of the account's organisations by id, in the order of the names."""
    return {row.id: row.name for row in session.execute(LIST_ORGANISATIONS, {"account": account_id})}


@contextmanager
def _recognise_timeout() -> Iterator[None]:
    try:
        yield
    except exc.OperationalError as error:
        if isinstance(error.orig, QueryCanceled):
            raise ListTimeoutError from None
        raise
