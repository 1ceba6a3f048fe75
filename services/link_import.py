"""Links between Xero contacts and Copper records as a CSV file: read and checked row by row, and written out."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from runtime.numbers import whole_number
from services import manual_links
from store.accounts import xero_organisations
from store.accounts.xero_organisations import Organisation
from store.db.database import account_transaction
from store.db.enums import RecordType
from store.read_model import contact_links
from store.read_model.contact_links import Link, LinkStatus

COLUMNS = ("organisation", "contact", "record_type", "record_id")
MAX_ROWS = 10_000
MAX_BYTES = 5_000_000
BATCH_SIZE = 500
MAX_VALUE_IN_ERROR = 60
SPREADSHEET_SIGNS = "=+-@'"
"""Signs that begin a formula, or that protect a text from being one."""
ERROR_MESSAGES = {
    LinkStatus.UNKNOWN_CONTACT: "the organisation has no contact with this ID",
    LinkStatus.UNKNOWN_RECORD: "Copper has no such record; check record_type and record_id",
}


class LinkFileError(ValueError):
    """The whole file cannot be read; the message says why and what to do."""


@dataclass(frozen=True)
class ImportRow:
    """A row of the file by the number of its line: the link, or the error in it."""

    line: int
    link: Link | None
    error: str = ""


@dataclass(frozen=True)
class ImportOutcome:
    """What became of a row, or would become of it: both ends by their names, or the error."""

    line: int
    description: str
    status: LinkStatus | None
    error: str = ""


def read_rows(account_id: int, content: bytes) -> list[ImportRow]:
    """The rows of a CSV file with a header, at most 10,000; raises `LinkFileError` if it is no such file."""
    if len(content) > MAX_BYTES:
        raise LinkFileError(f"the file is larger than {MAX_BYTES:,} bytes; split it")
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise LinkFileError(f"line 1: the header lacks {', '.join(missing)}; it needs {','.join(COLUMNS)}")
        organisations = _organisations_by_name(account_id)
        rows: list[ImportRow] = []
        for values in reader:
            if len(rows) == MAX_ROWS:
                raise LinkFileError(f"the file has more than {MAX_ROWS:,} rows; split it")
            rows.append(_read_row(reader.line_num, values, organisations))
    except UnicodeDecodeError:
        raise LinkFileError("the file is not UTF-8; save it as CSV UTF-8") from None
    except csv.Error as error:
        raise LinkFileError(f"line {reader.line_num}: not CSV ({error})") from None
    return rows


def _read_row(line: int, values: Mapping[str, str | None], organisations: Mapping[str, int | None]) -> ImportRow:
    organisation, contact, record_type, record_id = ((values[column] or "").strip() for column in COLUMNS)
    organisation_id, number = organisations.get(organisation.casefold()), whole_number(record_id)
    if organisation_id is None:
        problem = "several organisations are named" if organisation.casefold() in organisations else "no organisation"
        return _row_error(
            line, "organisation", f"{problem} {_quoted(organisation)}; use its name or its Xero tenant ID"
        )
    try:
        contact_id = UUID(contact)
    except ValueError:
        return _row_error(line, "contact", f"{_quoted(contact)} isn't a Xero contact ID")
    if record_type.lower() not in set(RecordType):
        return _row_error(line, "record_type", f"{_quoted(record_type)}: use lead, person, company or opportunity")
    if number is None:
        return _row_error(line, "record_id", f"{_quoted(record_id)} isn't a Copper ID")
    return ImportRow(line, Link(organisation_id, contact_id, RecordType(record_type.lower()), number))


def _row_error(line: int, column: str, message: str) -> ImportRow:
    return ImportRow(line, None, f"{column}: {message}")


def _quoted(value: str) -> str:
    return f'"{value[:MAX_VALUE_IN_ERROR]}"'


def _organisations_by_name(account_id: int) -> dict[str, int | None]:
    """Organisations by tenant ID and by name; None for a name that several have."""
    with account_transaction(account_id) as session:
        organisations = xero_organisations.list_connected(session, account_id)
    by_name: dict[str, int | None] = {}
    for organisation in organisations:
        name = organisation.name.strip().casefold()
        by_name[name] = None if name in by_name else organisation.id
    return {**by_name, **{str(organisation.tenant_id): organisation.id for organisation in organisations}}


def check(account_id: int, rows: Sequence[ImportRow]) -> Iterator[list[ImportOutcome]]:
    """What would become of each row, a batch at a time; changes nothing."""
    seen: set[Link] = set()
    for batch in _batches(rows):
        links = [row.link for row in batch if row.link]
        with account_transaction(account_id) as session:
            statuses = contact_links.check_many(session, account_id, links)
            ends = contact_links.describe_ends(session, account_id, links)
        statuses = [
            LinkStatus.ALREADY_LINKED if link in seen and not status.is_error else status
            for link, status in zip(links, statuses, strict=True)
        ]
        seen.update(links)
        yield _outcomes(batch, statuses, ends)


def apply(account_id: int, rows: Sequence[ImportRow], *, actor: str) -> Iterator[list[ImportOutcome]]:
    """Make the links, one transaction a batch; a row with an error changes nothing."""
    batch_id = None
    for batch in _batches(rows):
        links = [row.link for row in batch if row.link]
        made = manual_links.create_batch(account_id, links, actor=actor, batch_id=batch_id)
        batch_id = made.id
        with account_transaction(account_id) as session:
            ends = contact_links.describe_ends(session, account_id, links)
        yield _outcomes(batch, [outcome.status for outcome in made.outcomes], ends)


def _batches(rows: Sequence[ImportRow]) -> Iterator[Sequence[ImportRow]]:
    for start in range(0, len(rows), BATCH_SIZE):
        yield rows[start : start + BATCH_SIZE]


def _outcomes(
    batch: Sequence[ImportRow], statuses: Sequence[LinkStatus], ends: Sequence[tuple[str, str]]
) -> list[ImportOutcome]:
    results = iter(zip(statuses, ends, strict=True))
    outcomes = []
    for row in batch:
        if row.link is None:
            outcomes.append(ImportOutcome(row.line, "", None, row.error))
            continue
        status, (contact, record) = next(results)
        description = f"{contact} to {record} ({row.link.record_type.value} {row.link.record_id})"
        outcomes.append(ImportOutcome(row.line, description, status, ERROR_MESSAGES.get(status, "")))
    return outcomes


def export(account_id: int) -> Iterator[tuple[str, str, str, str]]:
    """Every link in the columns of the file, in the order of its key."""
    with account_transaction(account_id) as session:
        organisations = xero_organisations.list_connected(session, account_id)
    names = {organisation.id: _export_name(organisation, organisations) for organisation in organisations}
    after: Link | None = None
    while True:
        with account_transaction(account_id) as session:
            links = contact_links.list_after(session, account_id, after, BATCH_SIZE)
        for link in links:
            name = names.get(link.organisation_id, "")
            yield name, str(link.contact_id), link.record_type.value, str(link.record_id)
        if len(links) < BATCH_SIZE:
            return
        after = links[-1]


def _export_name(organisation: Organisation, organisations: Sequence[Organisation]) -> str:
    """The name, or the tenant ID if the name is not unique, or a spreadsheet could take it for a formula."""
    name = organisation.name.strip()
    is_unique = sum(other.name.strip().casefold() == name.casefold() for other in organisations) == 1
    return name if is_unique and name and name[0] not in SPREADSHEET_SIGNS else str(organisation.tenant_id)
