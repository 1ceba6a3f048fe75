"""Fields of vendors' responses that could not be read, by account, so that a change at a vendor is noticed.

The table is small: one row for each unreadable field of a resource, whatever the number of invoices or people. An
empty field name stands for whole rows that could not be stored because they have no id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from store.db.database import execute_rowcount

RECENT_DAYS = 7
MAX_LISTED = 200
WHOLE_ROW = ""

UPSERT = text("""
    INSERT INTO unreadable_field AS old (account_id, organisation_id, resource, field, rows, last_row_id)
    SELECT :account, :organisation, :resource, field, rows, row_id
    FROM json_to_recordset(CAST(:fields AS json)) AS f(field text, rows bigint, row_id text)
    ORDER BY field
    ON CONFLICT (account_id, organisation_id, resource, field) DO UPDATE
    SET rows = old.rows + EXCLUDED.rows, last_row_id = EXCLUDED.last_row_id, last_seen_at = now()
""")
LIST_RECENT = text("""
    SELECT organisation_id, resource, field, rows, last_row_id, last_seen_at FROM unreadable_field
    WHERE account_id = :account AND last_seen_at > now() - make_interval(days => :days)
    ORDER BY organisation_id, resource, field LIMIT :limit
""")
PURGE = text("DELETE FROM unreadable_field WHERE last_seen_at < now() - make_interval(days => :days)")


@dataclass(frozen=True)
class UnreadableField:
    """A field (or, with an empty name, whole rows) of a resource such as `contacts` that could not be read.

    `organisation_id` is 0 for Copper; `rows` counts the occurrences since the first one.
    """

    organisation_id: int
    resource: str
    field: str
    rows: int
    last_row_id: str
    last_seen_at: datetime

    @property
    def vendor(self) -> str:
        """`copper` or `xero`."""
        return "xero" if self.organisation_id else "copper"


def record(
    session: Session,
    account_id: int,
    organisation_id: int,
    resource: str,
    fields: Sequence[tuple[str, int, str]],
) -> None:
    """Add to the counts of a resource; `fields` are (field name, number of rows, id of one of them)."""
    rows = [{"field": name, "rows": row_count, "row_id": row_id} for name, row_count, row_id in fields]
    params = {
        "account": account_id,
        "organisation": organisation_id,
        "resource": resource,
        "fields": orjson.dumps(rows).decode(),
    }
    session.execute(UPSERT, params)


def list_recent(session: Session, account_id: int, days: int = RECENT_DAYS) -> list[UnreadableField]:
    """The fields that could not be read in the last `days`; at most 200."""
    params = {"account": account_id, "days": days, "limit": MAX_LISTED}
    return [UnreadableField(**row) for row in session.execute(LIST_RECENT, params).mappings()]


def purge(session: Session, days: int) -> int:
    """Delete fields that were last unreadable more than `days` ago; returns how many."""
    return execute_rowcount(session, PURGE, {"days": days})


def summarise(fields: Sequence[UnreadableField]) -> list[str]:
    """One sentence for each resource, such as `3 fields of Xero contacts could not be read: Name, …`."""
    by_resource: dict[str, list[UnreadableField]] = {}
    for field in fields:
        by_resource.setdefault(f"{field.vendor.capitalize()} {field.resource}", []).append(field)
    return [sentence for resource, group in by_resource.items() for sentence in _sentences(resource, group)]


def _sentences(resource: str, fields: Sequence[UnreadableField]) -> list[str]:
    names = sorted({field.field for field in fields} - {WHOLE_ROW})
    whole_rows = sum(field.rows for field in fields if field.field == WHOLE_ROW)
    sentences = []
    if names:
        count = "1 field" if len(names) == 1 else f"{len(names)} fields"
        sentences.append(f"{count} of {resource} could not be read: {', '.join(names)}")
    if whole_rows:
        sentences.append(f"{whole_rows:,} {resource} could not be read at all")
    return sentences
