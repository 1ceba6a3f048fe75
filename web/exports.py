"""Downloads: rows as CSV or JSON Lines, written while they are read; one at a time an account."""

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

from store import accounts, audit, exports
from store.database import Role, bound
from store.models import RecordType
from web import links, spreadsheets, words
from web.concurrency import EXPORT_RUNS, BusyError, Capacity
from web.currencies import amount

log = structlog.get_logger()
Form = Literal["csv", "jsonl"]
# So many rows are written at once, while nobody else is served; then an export rests for so many times as long.
CHUNK, REST, MAX_REST_SECONDS = 50, 4, 0.1
# A reader who takes nothing for so long has the download ended: it holds a connection and a snapshot of the database.
STALLED_SECONDS = 30.0
RETRY_SECONDS = 30
MEDIA: dict[Form, str] = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}
Row = Sequence[Any]
INVOICE_COLUMNS = (
    *("record_type", "record_id", "record_name", "invoice_id", "number", "type", "status", "issuer", "issue_date"),
    *("due_date", "total_due", "balance_due", "currency", "created_at", "created_at_source", "overdue_days", "url"),
)
CONTACT_COLUMNS = (*("organisation", "contact_id", "name", "emails", "currency", "invoices", "open", "overdue", "url"),)
RECORD_COLUMNS = ("record_type", "record_id", "name", "why", "url")


@dataclass(frozen=True)
class Export:
    """What is exported: a statement with its parameters, how its rows are written, and the file's name.

    `topic` and `detail` are for the audit log: what kind of rows, and which.
    """

    name: str
    statement: str
    params: Mapping[str, Any]
    columns: Sequence[str]
    write: Callable[[Row], Row]
    topic: str
    detail: str = ""


async def invoices(
    request: Request, account_id: int, who: str, form: Form, kind: RecordType | None = None, record: int | None = None
) -> Response:
    """One record's rows, or the whole account's."""

    def write(row: Row) -> Row:
        (record_type, record_id, name, invoice_id, number, type_, status, issuer, issued, due, *rest) = row
        total, balance, currency, created_at, source, short_code, overdue_days = rest
        return (
            *(record_type, record_id, name, invoice_id, number, type_, status, issuer, issued, due),
            *(amount(total, currency), amount(balance, currency), currency, created_at, source),
            *(overdue_days, links.invoice(type_, invoice_id, short_code)),
        )

    params = {"type": kind.value if kind else None, "record": record}
    name, topic, detail = "invoices", f"invoices as {form}", ""
    if kind:
        name, topic = f"invoices-{kind.value}-{record}", f"invoices of single records as {form}"
        detail = f"first {kind.value} {record}"
    export = Export(name, exports.INVOICES, params, INVOICE_COLUMNS, write, topic, detail)
    return await _download(request, account_id, who, form, export)


async def unmatched_contacts(request: Request, account_id: int, who: str, form: Form) -> Response:
    """Contacts with sales invoices that no record matches."""

    def write(row: Row) -> Row:
        (_, organisation, short_code, contact_id, name, emails, currency, count, open_, overdue) = row
        url = links.contact(contact_id, short_code)
        sums = (amount(open_, currency), amount(overdue, currency))
        return (organisation, contact_id, name, emails or "", currency, count, *sums, url)

    name, statement = "unmatched-contacts", exports.UNMATCHED_CONTACTS
    export = Export(name, statement, {"currency": None}, CONTACT_COLUMNS, write, f"{name} as {form}")
    return await _download(request, account_id, who, form, export)


async def unmatched_records(request: Request, account_id: int, who: str, form: Form) -> Response:
    """Records that no contact matches."""
    copper_account_id = await run_in_threadpool(_copper_account, account_id)

    def write(row: Row) -> Row:
        (record_type, record_id, name, has_address) = row
        return (
            *(record_type, record_id, name, words.unmatched(record_type, has_address)),
            links.record(copper_account_id, record_type, record_id),
        )

    name, statement = "unmatched-records", exports.UNMATCHED_RECORDS
    export = Export(name, statement, {"type": None}, RECORD_COLUMNS, write, f"{name} as {form}")
    return await _download(request, account_id, who, form, export)


def _copper_account(account_id: int) -> int:
    with bound(account_id, Role.READS) as session:
        return accounts.copper_account(session, account_id)


async def _download(request: Request, account_id: int, who: str, form: Form, export: Export) -> Response:
    """The answer. Its first rows are read before it begins, so that what fails is still an error and no torn file."""
    capacity: Capacity = request.app.state.capacity
    async with AsyncExitStack() as held:
        await held.enter_async_context(capacity.exports.place(account_id))
        rows = exports.stream(request.app.state.exporting, account_id, export.statement, export.params)
        await held.enter_async_context(aclosing(rows))
        try:
            first: list[Row] = list(await anext(rows, []))
        except exports.ExportRunningError:
            raise BusyError(own_share=True, retry_after=RETRY_SECONDS, detail=EXPORT_RUNS) from None
        await run_in_threadpool(_note, account_id, who, export)
        headers = {"Content-Disposition": f'attachment; filename="patina-{export.name}.{form}"'}
        body = _written(form, export, first, rows)
        return Download(body, held.pop_all(), headers=headers, media_type=MEDIA[form])


async def _written(
    form: Form, export: Export, first: list[Row], rows: AsyncIterator[Sequence[Row]]
) -> AsyncIterator[bytes]:
    write = _csv if form == "csv" else _jsonl
    if form == "csv":
        yield _csv(export.columns, [export.columns])
    yield write(export.columns, [export.write(row) for row in first])
    async for batch in rows:
        for start in range(0, len(batch), CHUNK):
            began = time.monotonic()
            text = write(export.columns, [export.write(row) for row in batch[start : start + CHUNK]])
            took = time.monotonic() - began
            yield text
            # Most of the event loop's time is everybody else's, however fast the reader is.
            await asyncio.sleep(min(REST * took, MAX_REST_SECONDS))


class Download(StreamingResponse):
    """A file that is written while it is read; what it holds is given back when it ends, however it does.

    A reader who takes nothing for `STALLED_SECONDS` gets a torn file, which its client notices.
    """

    def __init__(self, body: AsyncIterator[bytes], held: AsyncExitStack, **options: Any) -> None:
        super().__init__(body, **options)
        self._held = held

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(STALLED_SECONDS):
                await send(message)

        async with self._held:
            try:
                await super().__call__(scope, receive, send_in_time)
            except TimeoutError:
                log.warning("export.stalled", seconds=STALLED_SECONDS)


def _note(account_id: int, who: str, export: Export) -> None:
    """Note an export. A program may make thousands an hour: of each kind an hour's first one is on the log."""
    detail = f"{export.topic}, {export.detail}" if export.detail else export.topic
    with bound(account_id) as session:
        audit.note_hourly(session, account_id, who, "rows.exported", export.topic, detail)


def _csv(_: Sequence[str], rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    writer.writerows([[spreadsheets.cell(value) for value in row] for row in rows])
    return text.getvalue().encode()


def _jsonl(columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    return b"".join(orjson.dumps(dict(zip(columns, row, strict=True))) + b"\n" for row in rows)
