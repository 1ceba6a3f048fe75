"""A record's invoices for the panel and the pages: searched, filtered and sorted, with what can be filtered by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.enums import RecordType
from store.read_model.overdue_sql import IS_OVERDUE, OVERDUE_DAYS, TODAY

# Each row has exactly one of these. Those that are not Xero's: OVERDUE is what awaits payment after its due date, and a
# credit that is approved awaits no payment, but its use.
ROW_STATUS = f"""
    CASE WHEN credit_resource(r.type) IS NULL THEN CASE WHEN {IS_OVERDUE} THEN 'OVERDUE' ELSE r.status END
         WHEN r.status = 'AUTHORISED' THEN CASE WHEN is_purchase(r.type) THEN 'SUPPLIERCREDIT' ELSE 'CREDIT' END
         WHEN r.status = 'PAID' THEN 'USEDCREDIT'
         ELSE r.status
    END
"""
VISIBLE_INVOICES = """
    FROM account a
    JOIN record_invoice r ON r.account_id = a.id AND r.record_type = :type AND r.record_id = :record
         AND is_shown(a, r.record_type, r.type, r.status)
    WHERE a.id = :account AND a.record_types @> ARRAY[CAST(:type AS text)]
"""


class InvoiceSort(StrEnum):
    """The order of a record's invoices; rows that are equal in it are in the order by created date, newest first."""

    CREATED = "created"
    DUE = "due"
    BALANCE = "balance"
    UNPAID = "unpaid"


ORDER_BY = {
    InvoiceSort.CREATED: "r.created_at DESC",
    InvoiceSort.DUE: "r.due_date NULLS LAST, r.created_at DESC",
    InvoiceSort.BALANCE: "r.balance DESC NULLS LAST, r.created_at DESC",
    InvoiceSort.UNPAID: "array_position(ARRAY['OVERDUE', 'AUTHORISED'], row_status), r.created_at DESC",
}
LIST_INVOICES = {
    sort: text(f"""
        SELECT r.created_at, r.invoice_id, r.organisation_id, r.type, r.status, r.number, r.issuer, r.issue_date,
               r.due_date, r.total, r.balance, r.currency, r.created_source, r.short_code, r.reference, r.paid_on,
               r.expected_payment_date, r.amount_paid, r.amount_credited, r.is_sent, r.organisation, r.today,
               r.overdue_days, count(*) OVER () AS matches
        FROM (SELECT r.*, {ROW_STATUS} AS row_status, {TODAY} AS today, {OVERDUE_DAYS} AS overdue_days,
                     a.organisation_names ->> r.organisation_id::text AS organisation
              {VISIBLE_INVOICES}) r
        WHERE (:status = '' OR row_status = :status OR (:status = 'UNPAID' AND row_status IN ('OVERDUE', 'AUTHORISED')))
          AND (CAST(:organisation AS bigint) IS NULL OR r.organisation_id = :organisation)
          AND (CAST(:currency AS text) IS NULL OR coalesce(r.currency, '') = :currency)
          AND (:row_type = '' OR r.type = :row_type)
          AND (:search = '' OR position(:search IN lower(r.number)) > 0 OR position(:search IN lower(r.reference)) > 0)
        ORDER BY {order}, r.invoice_id DESC LIMIT :limit
    """)
    for sort, order in ORDER_BY.items()
}
COUNT_BY_FACET = text(f"""
    SELECT {ROW_STATUS} AS status, r.organisation_id,
           coalesce(a.organisation_names ->> r.organisation_id::text, '') AS organisation,
           coalesce(r.currency, '') AS currency, r.type, count(*) AS invoices
    {VISIBLE_INVOICES} GROUP BY 1, 2, 3, 4, 5
""")


@dataclass(frozen=True)
class InvoiceFilter:
    """Which of a record's invoices are listed, in which order.

    Status '' means all, `UNPAID` all that awaits payment; `OVERDUE`, `CREDIT`, `SUPPLIERCREDIT` and `USEDCREDIT` are
    statuses too. Type '' and None mean all. The search text is a part of the number or the reference, in any case.
    """

    status: str = ""
    search: str = ""
    organisation_id: int | None = None
    currency: str | None = None
    type: str = ""
    sort: InvoiceSort = InvoiceSort.CREATED


class InvoiceListItem(NamedTuple):
    """An invoice of a record; `today` is its organisation's day, which `overdue_days` goes by."""

    created_at: datetime
    invoice_id: UUID
    organisation_id: int
    type: str
    status: str
    number: str | None
    issuer: str
    issue_date: date | None
    due_date: date | None
    total: Decimal | None
    balance: Decimal | None
    currency: str | None
    created_source: str
    short_code: str | None
    reference: str | None
    paid_on: date | None
    expected_payment_date: date | None
    amount_paid: Decimal | None
    amount_credited: Decimal | None
    is_sent: bool | None
    organisation: str | None
    today: date
    overdue_days: int
    matches: int


class Facet(NamedTuple):
    """How many of a record's invoices have the same status, organisation, currency ('': none) and type."""

    status: str
    organisation_id: int
    organisation: str
    currency: str
    type: str
    invoices: int


def list_invoices(
    session: Session, account_id: int, record_type: RecordType, record_id: int, *, selected: InvoiceFilter, limit: int
) -> list[InvoiceListItem]:
    """A record's first `limit` invoices of a filter; each row has the number of all of them (`matches`)."""
    params = {
        "account": account_id,
        "type": record_type.value,
        "record": record_id,
        "status": selected.status,
        "search": selected.search.lower(),
        "organisation": selected.organisation_id,
        "currency": selected.currency,
        "row_type": selected.type,
        "limit": limit,
    }
    return [InvoiceListItem(**row) for row in session.execute(LIST_INVOICES[selected.sort], params).mappings()]


def count_by_facet(session: Session, account_id: int, record_type: RecordType, record_id: int) -> Sequence[Facet]:
    """The number of a record's invoices for each combination of what they can be filtered by."""
    params = {"account": account_id, "type": record_type.value, "record": record_id}
    return [Facet(**row) for row in session.execute(COUNT_BY_FACET, params).mappings()]
