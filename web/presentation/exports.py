"""Downloads as CSV or JSON Lines, streamed from the database; one at a time per account."""

from __future__ import annotations

import asyncio
import csv
import io
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import structlog
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from store.accounts import accounts, audit
from store.db.database import account_transaction
from store.db.enums import RecordType
from store.db.read_replica import read_transaction
from store.read_model import account_invoices, exports, receivables
from store.read_model.account_invoices import AccountInvoiceFilter, Sort
from store.read_model.receivables import ReceivablesQuery
from web.middleware.concurrency import EXPORT_RUNNING, BusyError
from web.presentation import labels, links, spreadsheets
from web.presentation.currencies import format_amount, format_optional_amount
from web.state import web_state

log = structlog.get_logger()
ExportFormat = Literal["csv", "jsonl"]
# The event loop formats this many rows without a break. Then the export sleeps for `SLEEP_RATIO` times as long.
CHUNK_ROWS, SLEEP_RATIO, MAX_SLEEP_SECONDS = 25, 4, 0.1
# A client that reads nothing for so long is cut off, because an export holds a connection and a database snapshot.
STALLED_SECONDS = 30.0
RETRY_SECONDS = 30
MEDIA_TYPES: dict[ExportFormat, str] = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}
Row = Sequence[Any]
INVOICE_COLUMNS = (
    *("record_type", "record_id", "record_name", "invoice_id", "number", "type", "status", "issuer", "issue_date"),
    *("due_date", "total_due", "balance_due", "currency", "created_at", "created_at_source", "overdue_days", "url"),
)
LIST_COLUMNS = (
    *(
        "organisation",
        "invoice_id",
        "number",
        "reference",
        "type",
        "status",
        "contact_id",
        "contact",
        "issuer",
        "issue_date",
    ),
    *("due_date", "total_due", "balance_due", "currency", "created_at", "created_at_source", "overdue_days", "url"),
)
CONTACT_COLUMNS = (*("organisation", "contact_id", "name", "emails", "currency", "invoices", "open", "overdue", "url"),)
RECEIVABLE_COLUMNS = (
    *("record_type", "record_id", "record_name", "owner", "currency", "invoices", "overdue_invoices", "not_due"),
    *("overdue_1_to_30", "overdue_31_to_60", "overdue_61_to_90", "overdue_over_90", "overdue", "outstanding"),
    *("credit", "url"),
)
RECORD_COLUMNS = ("record_type", "record_id", "name", "reason", "url")


@dataclass(frozen=True)
class Export:
    """What to export: the file's name, a statement with its parameters, and how to format its rows.

    `topic` and `detail` are for the audit log: the category of the export, and which rows.
    """

    name: str
    statement: str
    params: Mapping[str, Any]
    columns: Sequence[str]
    format_row: Callable[[Row], Row]
    topic: str
    detail: str = ""


async def export_invoices(
    request: Request,
    account_id: int,
    actor: str,
    file_format: ExportFormat,
    record_type: RecordType | None = None,
    record_id: int | None = None,
) -> Response:
    """The rows of one record, or of the whole account."""

    def format_row(row: Row) -> Row:
        (type_of_record, id_of_record, name, invoice_id, number, type_, status, issuer, issue_date, *rest) = row
        due_date, total, balance, currency, created_at, created_at_source, short_code, overdue_days = rest
        return (
            *(type_of_record, id_of_record, name, invoice_id, number, type_, status, issuer, issue_date, due_date),
            *(format_optional_amount(total, currency), format_optional_amount(balance, currency), currency),
            *(created_at, created_at_source, overdue_days, links.invoice(type_, invoice_id, short_code)),
        )

    params = {"type": record_type.value if record_type else None, "record": record_id}
    name, topic, detail = "invoices", f"invoices as {file_format}", ""
    if record_type:
        name, topic = f"invoices-{record_type.value}-{record_id}", f"invoices of single records as {file_format}"
        detail = f"first {record_type.value} {record_id}"
    export = Export(name, exports.INVOICES, params, INVOICE_COLUMNS, format_row, topic, detail)
    return await _download(request, account_id, actor, file_format, export)


async def export_receivables(
    request: Request, account_id: int, actor: str, file_format: ExportFormat, query: ReceivablesQuery
) -> Response:
    """The records that owe something, in the order and with the filters of `query`."""
    copper_account_id, currencies = await run_in_threadpool(_prepare_receivables, account_id, query.record_type)
    record_type = query.record_type.value

    def format_row(row: Row) -> Row:
        (record_id, name, currency, open_, overdue, *buckets) = row[:9]
        (invoices, overdue_invoices, credit, owner_id, owner_name) = row[9:]
        amounts = (open_ - overdue, *buckets, overdue, open_, credit)
        return (
            *(record_type, record_id, name, labels.owner(owner_id, owner_name), currency, invoices, overdue_invoices),
            *(format_amount(amount, currency) for amount in amounts),
            links.record(copper_account_id, record_type, record_id),
        )

    topic, detail = f"receivables as {file_format}", query.record_type.plural
    params = query.to_params(currencies)
    export = Export("receivables", query.statement, params, RECEIVABLE_COLUMNS, format_row, topic, detail)
    return await _download(request, account_id, actor, file_format, export)


def _prepare_receivables(account_id: int, record_type: RecordType) -> tuple[int, list[str]]:
    with read_transaction(account_id) as session:
        copper_account_id = accounts.get_copper_account_id(session, account_id)
        return copper_account_id, receivables.list_currencies(session, account_id, record_type)


async def export_invoice_list(
    request: Request,
    account_id: int,
    actor: str,
    file_format: ExportFormat,
    invoice_filter: AccountInvoiceFilter,
    sort: Sort,
) -> Response:
    """The account's invoices as their page lists them, each once. The audit log does not repeat the search text."""

    def format_row(row: Row) -> Row:
        (created_at, invoice_id, _, type_, status, number, issuer, issue_date, due_date, total, balance, *rest) = row
        currency, created_source, short_code, reference, *_, organisation, _, overdue_days, _ = rest[:-3]
        contact_id, contact, _ = rest[-3:]
        return (
            *(organisation, invoice_id, number, reference, type_, status, contact_id, contact, issuer),
            *(issue_date, due_date),
            *(format_optional_amount(total, currency), format_optional_amount(balance, currency), currency),
            *(created_at, created_source, overdue_days, links.invoice(type_, invoice_id, short_code)),
        )

    name, params = "invoice-list", account_invoices.list_params(account_id, invoice_filter, sort)
    is_filtered = invoice_filter != AccountInvoiceFilter()
    topic = f"{'filtered ' if is_filtered else ''}list of invoices as {file_format}"
    export = Export(name, account_invoices.LIST[sort], params, LIST_COLUMNS, format_row, topic)
    return await _download(request, account_id, actor, file_format, export)


async def export_unmatched_contacts(
    request: Request, account_id: int, actor: str, file_format: ExportFormat
) -> Response:
    """Contacts with sales invoices that match no record."""

    def format_row(row: Row) -> Row:
        (_, organisation, short_code, contact_id, name, emails, currency, count, open_, overdue) = row
        url = links.contact(contact_id, short_code)
        amounts = (format_amount(open_, currency), format_amount(overdue, currency))
        return (organisation, contact_id, name, emails or "", currency, count, *amounts, url)

    name, statement = "unmatched-contacts", exports.UNMATCHED_CONTACTS
    export = Export(name, statement, {"currency": None}, CONTACT_COLUMNS, format_row, f"{name} as {file_format}")
    return await _download(request, account_id, actor, file_format, export)


async def export_unmatched_records(
    request: Request, account_id: int, actor: str, file_format: ExportFormat
) -> Response:
    """Records that match no contact."""
    copper_account_id = await run_in_threadpool(_copper_account_id, account_id)

    def format_row(row: Row) -> Row:
        (record_type, record_id, name, has_address) = row
        return (
            *(record_type, record_id, name, labels.unmatched_reason(record_type, has_address)),
            links.record(copper_account_id, record_type, record_id),
        )

    name, statement = "unmatched-records", exports.UNMATCHED_RECORDS
    export = Export(name, statement, {"type": None}, RECORD_COLUMNS, format_row, f"{name} as {file_format}")
    return await _download(request, account_id, actor, file_format, export)


def _copper_account_id(account_id: int) -> int:
    with read_transaction(account_id) as session:
        return accounts.get_copper_account_id(session, account_id)


async def _download(
    request: Request, account_id: int, actor: str, file_format: ExportFormat, export: Export
) -> Response:
    """Start the download.

    The first rows are read before the response starts, so that a failure is an error response, not a truncated file.
    """
    state = web_state(request)
    async with AsyncExitStack() as resources:
        await resources.enter_async_context(state.capacity.exports.slot(account_id))
        batches = exports.stream(state.export_pools, account_id, export.statement, export.params)
        await resources.enter_async_context(aclosing(batches))
        try:
            first_rows: list[Row] = list(await anext(batches, []))
        except exports.ExportRunningError:
            raise BusyError(own_share=True, retry_after=RETRY_SECONDS, detail=EXPORT_RUNNING) from None
        await run_in_threadpool(_audit, account_id, actor, export)
        headers = {"Content-Disposition": f'attachment; filename="patina-{export.name}.{file_format}"'}
        content = _content(file_format, export, first_rows, batches)
        return Download(content, resources.pop_all(), headers=headers, media_type=MEDIA_TYPES[file_format])


async def _content(
    file_format: ExportFormat, export: Export, first_rows: list[Row], batches: AsyncIterator[Sequence[Row]]
) -> AsyncIterator[bytes]:
    encode = _csv if file_format == "csv" else _jsonl
    if file_format == "csv":
        yield _csv(export.columns, [export.columns])
    yield encode(export.columns, [export.format_row(row) for row in first_rows])
    async for batch in batches:
        for start in range(0, len(batch), CHUNK_ROWS):
            started_at = time.monotonic()
            chunk = encode(export.columns, [export.format_row(row) for row in batch[start : start + CHUNK_ROWS]])
            seconds = time.monotonic() - started_at
            yield chunk
            # Leaves most of the event loop's time to other requests, however fast the client reads.
            await asyncio.sleep(min(SLEEP_RATIO * seconds, MAX_SLEEP_SECONDS))


class Download(StreamingResponse):
    """A streamed file. Its `resources` are released when it ends, in whatever way.

    A client that reads nothing for `STALLED_SECONDS` gets a truncated file, which it notices.
    """

    def __init__(self, content: AsyncIterator[bytes], resources: AsyncExitStack, **options: Any) -> None:
        super().__init__(content, **options)
        self._resources = resources

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(STALLED_SECONDS):
                await send(message)

        async with self._resources:
            try:
                await super().__call__(scope, receive, send_in_time)
            except TimeoutError:
                log.warning("export.stalled", seconds=STALLED_SECONDS)


def _audit(account_id: int, actor: str, export: Export) -> None:
    """Write the export to the audit log: only the first of each topic per hour, because a client may make thousands."""
    detail = f"{export.topic}, {export.detail}" if export.detail else export.topic
    with account_transaction(account_id) as session:
        audit.record_hourly(session, account_id, actor, "rows.exported", export.topic, detail)


def _csv(_: Sequence[str], rows: Sequence[Row]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    writer.writerows([[spreadsheets.escape_cell(value) for value in row] for row in rows])
    return buffer.getvalue().encode()


def _jsonl(columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    return b"".join(orjson.dumps(dict(zip(columns, row, strict=True))) + b"\n" for row in rows)
