"""Downloads: rows as CSV or JSON Lines, written while they are read."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal

import orjson
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from store import audit, exports
from store.database import bound
from store.models import RecordType
from web import links, spreadsheets, words
from web.currencies import amount

Form = Literal["csv", "jsonl"]
MEDIA: dict[Form, str] = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}
Row = Sequence[Any]
INVOICE_COLUMNS = (
    *("record_type", "record_id", "record_name", "invoice_id", "number", "type", "status", "issuer", "issue_date"),
    *("due_date", "total_due", "balance_due", "currency", "created_at", "created_at_source", "overdue_days", "url"),
)
CONTACT_COLUMNS = (*("organisation", "contact_id", "name", "emails", "currency", "invoices", "open", "overdue", "url"),)
RECORD_COLUMNS = ("record_type", "record_id", "name", "why", "url")


async def invoices(
    request: Request, account_id: int, who: str, form: Form, kind: RecordType | None = None, record: int | None = None
) -> Response:
    """One record's rows, or the whole account's."""

    def written(row: Row) -> Row:
        (record_type, record_id, name, invoice_id, number, type_, status, issuer, issued, due, *rest) = row
        total, balance, currency, created_at, source, short_code, overdue_days = rest
        return (
            *(record_type, record_id, name, invoice_id, number, type_, status, issuer, issued, due),
            *(amount(total, currency), amount(balance, currency), currency, created_at, source),
            *(overdue_days, links.invoice(type_, invoice_id, short_code)),
        )

    chosen = {"type": kind.value if kind else None, "record": record}
    name = f"invoices-{kind.value}-{record}" if kind else "invoices"
    return await _download(request, account_id, who, name, form, exports.INVOICES, chosen, INVOICE_COLUMNS, written)


async def unmatched_contacts(request: Request, account_id: int, who: str, form: Form) -> Response:
    """Contacts with sales invoices that no record matches."""

    def written(row: Row) -> Row:
        (_, organisation, short_code, contact_id, name, emails, currency, count, open_, overdue) = row
        url = links.contact(contact_id, short_code)
        sums = (amount(open_, currency), amount(overdue, currency))
        return (organisation, contact_id, name, emails or "", currency, count, *sums, url)

    chosen = {"currency": None}
    statement = exports.UNMATCHED_CONTACTS
    return await _download(
        request, account_id, who, "unmatched-contacts", form, statement, chosen, CONTACT_COLUMNS, written
    )


async def unmatched_records(
    request: Request, account_id: int, copper_account_id: int, who: str, form: Form
) -> Response:
    """Records that no contact matches."""

    def written(row: Row) -> Row:
        (record_type, record_id, name, has_address) = row
        return (
            *(record_type, record_id, name, words.unmatched(record_type, has_address)),
            links.record(copper_account_id, record_type, record_id),
        )

    statement = exports.UNMATCHED_RECORDS
    return await _download(
        request, account_id, who, "unmatched-records", form, statement, {"type": None}, RECORD_COLUMNS, written
    )


async def _download(
    request: Request,
    account_id: int,
    who: str,
    name: str,
    form: Form,
    statement: str,
    chosen: dict[str, Any],
    columns: Sequence[str],
    written: Callable[[Row], Row],
) -> Response:
    """The answer. Its first rows are read before it begins, so that what fails is still an error and no torn file."""
    batches = exports.stream(request.app.state.exporting, account_id, statement, chosen)
    first: list[Row] = list(await anext(batches, []))
    await run_in_threadpool(_note, account_id, who, f"{name} as {form}")

    async def body() -> AsyncIterator[bytes]:
        write = _csv if form == "csv" else _jsonl
        if form == "csv":
            yield _csv(columns, [columns])
        yield write(columns, [written(row) for row in first])
        async for batch in batches:
            yield write(columns, [written(row) for row in batch])

    headers = {"Content-Disposition": f'attachment; filename="patina-{name}.{form}"'}
    return StreamingResponse(body(), 200, headers, media_type=MEDIA[form])


def _note(account_id: int, who: str, what: str) -> None:
    with bound(account_id) as session:
        audit.note(session, account_id, who, "rows.exported", what)


def _csv(_: Sequence[str], rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    writer.writerows([[spreadsheets.cell(value) for value in row] for row in rows])
    return text.getvalue().encode()


def _jsonl(columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    return b"".join(orjson.dumps(dict(zip(columns, row, strict=True))) + b"\n" for row in rows)
