"""What a plain script needs for the same backfill: the same pages by httpx, the same parsed rows by COPY.

It has as many connections to the vendors as our workers have threads, and writes logged tables without any index or
constraint. It forgets its progress when it fails, knows no limits, compares no versions, and matches nothing.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from types import TracebackType
from typing import Any, Self

import httpx
import psycopg
from pydantic import BaseModel

from bench.vendors import Shape
from runtime.settings import settings
from store.db.database import conninfo
from store.db.enums import RecordType
from worker.vendors.copper import client as copper
from worker.vendors.copper.schemas import RECORD_SCHEMAS, CopperRelatedRecord
from worker.vendors.parsing import parse_rows
from worker.vendors.xero import client as xero
from worker.vendors.xero.schemas import XeroContact, XeroInvoice

TIMEOUT_SECONDS = 60
LISTING_PARAMS = {
    "Invoices": {"summaryOnly": "true", "order": "InvoiceID ASC"},
    "Contacts": {"includeArchived": "true", "order": "ContactID ASC"},
}
Columns = dict[str, str]
Row = tuple[Any, ...]
RowsByTable = dict[str, list[Row]]
# The fields of the mirror's rows with their types, and the tables of their lists.
TABLES: dict[str, Columns] = {
    "script_invoice": {
        **dict.fromkeys(("invoice_id", "contact_id"), "uuid"),
        **dict.fromkeys(("type", "status", "number"), "text"),
        **dict.fromkeys(("issue_date", "due_date"), "date"),
        **dict.fromkeys(("total", "balance"), "numeric"),
        "currency": "text",
        "created_at": "timestamptz",
        "created_source": "text",
        "updated_at": "timestamptz",
        "has_version": "boolean",
        "reference": "text",
        **dict.fromkeys(("amount_paid", "amount_credited", "currency_rate"), "numeric"),
        **dict.fromkeys(("paid_on", "expected_payment_date"), "date"),
        "is_sent": "boolean",
    },
    "script_contact": {
        "contact_id": "uuid",
        **dict.fromkeys(("name", "status"), "text"),
        "merged_to": "uuid",
        "updated_at": "timestamptz",
        "has_version": "boolean",
    },
    "script_contact_email": {"contact_id": "uuid", "email": "text", "typed": "text"},
    "script_record": {
        "record_type": "text",
        "record_id": "bigint",
        "name": "text",
        "assignee_id": "bigint",
        "updated_at": "timestamptz",
        "has_version": "boolean",
        "email_domain": "text",
    },
    "script_record_email": {"record_type": "text", "record_id": "bigint", "email": "text", "typed": "text"},
    "script_relation": {
        "record_type": "text",
        "record_id": "bigint",
        "related_type": "text",
        "related_id": "bigint",
    },
}


@dataclass(frozen=True)
class VendorHeaders:
    """What authorises calls to both vendors."""

    xero: dict[str, str]
    copper: dict[str, str]


class PlainScript:
    """The script. Its connections are open while the block lasts; `counts` are the rows that it wrote by table."""

    def __init__(self, shape: Shape, headers: VendorHeaders, connections: int) -> None:
        self.counts: Counter[str] = Counter()
        self._shape = shape
        self._pool = ThreadPoolExecutor(connections)
        config = settings()
        self._xero = _client(f"{config.xero_api_url}/api.xro/2.0/", headers.xero, connections)
        self._copper = _client(f"{config.copper_api_url}/", headers.copper, connections)
        self._database = psycopg.connect(conninfo(), connect_timeout=5)

    def __enter__(self) -> Self:
        """Open the connections, and let the sandbox sort its lists, which it does once."""
        for table, columns in TABLES.items():
            definitions = ", ".join(f"{name} {sql_type}" for name, sql_type in columns.items())
            self._database.execute(f"CREATE TABLE {table} ({definitions})")
        self._database.commit()
        for resource in ("Invoices", "Contacts"):
            self._xero_page(resource, 1)
        for record_type in RecordType:
            self._copper_page(record_type, 1)
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._xero.close()
        self._copper.close()
        self._database.close()

    def run(self) -> None:
        """Fetch and parse the pages in threads, and write them in the order of the list, in one transaction."""
        for rows_by_table in self._pool.map(lambda task: task(), self._tasks()):
            for table, rows in rows_by_table.items():
                self._copy(table, rows)
        self._database.commit()

    def _tasks(self) -> Iterator[Callable[[], RowsByTable]]:
        for page in range(1, math.ceil(self._shape.invoices / xero.PAGE_SIZE) + 1):
            yield partial(self._invoices, page)
        for page in range(1, math.ceil(self._shape.contacts / xero.PAGE_SIZE) + 1):
            yield partial(self._contacts, page)
        for record_type in RecordType:
            for page in range(1, math.ceil(self._record_count(record_type) / copper.PAGE_SIZE) + 1):
                yield partial(self._records, record_type, page)

    def _record_count(self, record_type: RecordType) -> int:
        shape = self._shape
        counts = {"people": shape.people, "leads": shape.leads, "companies": shape.companies}
        return counts.get(record_type.plural, shape.opportunities)

    def _xero_page(self, resource: str, page: int) -> Any:
        """A page of a listing with the parameters of our own client."""
        params = LISTING_PARAMS[resource] | {"page": str(page), "pageSize": str(xero.PAGE_SIZE)}
        return _json(self._xero.get(resource, params=params))[resource]

    def _copper_page(self, record_type: RecordType, page: int) -> Any:
        body = {"page_number": page, "page_size": copper.PAGE_SIZE, "sort_by": "date_created", "sort_direction": "asc"}
        return _json(self._copper.post(f"{record_type.plural}/search", json=body))

    def _invoices(self, page: int) -> RowsByTable:
        parsed = parse_rows(XeroInvoice, self._xero_page("Invoices", page), "InvoiceID")
        return {"script_invoice": [_values(invoice.to_row(), "script_invoice") for invoice in parsed.items]}

    def _contacts(self, page: int) -> RowsByTable:
        parsed = parse_rows(XeroContact, self._xero_page("Contacts", page), "ContactID")
        rows = [contact.to_row() for contact in parsed.items]
        emails = [(row.contact_id, email, typed) for row in rows for email, typed in row.emails.items()]
        return {
            "script_contact": [_values(row, "script_contact") for row in rows],
            "script_contact_email": emails,
        }

    def _records(self, record_type: RecordType, page: int) -> RowsByTable:
        parsed = parse_rows(RECORD_SCHEMAS[record_type], self._copper_page(record_type, page), "id")
        rows, relations = [], []
        for record in parsed.items:
            rows.append(record.to_row())
            relations += [
                (record_type.value, record.id, end.related_type.value, end.related_id) for end in rows[-1].relations
            ]
            if record_type is RecordType.OPPORTUNITY:
                relations += self._related(record.id)
        emails = [
            (record_type.value, row.record_id, email, typed) for row in rows for email, typed in row.emails.items()
        ]
        return {
            "script_record": [(record_type.value, *_values(row, "script_record")) for row in rows],
            "script_record_email": emails,
            "script_relation": relations,
        }

    def _related(self, opportunity_id: int) -> list[Row]:
        related = _json(self._copper.get(f"opportunities/{opportunity_id}/related"))
        ends = [record.to_row() for record in parse_rows(CopperRelatedRecord, related, "id").items]
        return [("opportunity", opportunity_id, end.related_type.value, end.related_id) for end in ends if end]

    def _copy(self, table: str, rows: list[Row]) -> None:
        with self._database.cursor().copy(f"COPY {table} FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        self.counts[table] += len(rows)


def _client(base_url: str, headers: dict[str, str], connections: int) -> httpx.Client:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.Client(
        base_url=base_url,
        headers={**headers, "Accept": "application/json", "Accept-Encoding": "gzip"},
        timeout=TIMEOUT_SECONDS,
        limits=limits,
        trust_env=False,
    )


def _json(response: httpx.Response) -> Any:
    response.raise_for_status()
    return json.loads(response.content, parse_float=Decimal)


def _values(row: BaseModel, table: str) -> Row:
    """The fields of a row that the table has, in their order there."""
    values = vars(row)
    return tuple([values[name] for name in TABLES[table] if name in values])
