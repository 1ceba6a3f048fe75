"""Fields of vendors' answers that could not be read, by account, so that a change at a vendor is noticed.

The table is small: a row for each field of a resource in which something could not be read, whatever the number of
invoices or people. An empty field name stands for whole rows that could not be kept, having no id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson
from sqlalchemy import text
from sqlmodel import Session

from store.database import touched

RECENT_DAYS = 7
MAX_LISTED = 200
WHOLE_ROW = ""

COUNT = text("""
    INSERT INTO unreadable_field AS old (account_id, organisation_id, resource, field, rows, last_row_id)
    SELECT :account, :organisation, :resource, field, rows, row_id
    FROM json_to_recordset(CAST(:fields AS json)) AS f(field text, rows bigint, row_id text)
    ORDER BY field
    ON CONFLICT (account_id, organisation_id, resource, field) DO UPDATE
    SET rows = old.rows + EXCLUDED.rows, last_row_id = EXCLUDED.last_row_id, last_seen_at = now()
""")
RECENT = text("""
    SELECT organisation_id, resource, field, rows, last_row_id, last_seen_at FROM unreadable_field
    WHERE account_id = :account AND last_seen_at > now() - make_interval(days => :days)
    ORDER BY organisation_id, resource, field LIMIT :limit
""")
PURGE = text("DELETE FROM unreadable_field WHERE last_seen_at < now() - make_interval(days => :days)")


@dataclass(frozen=True)
class UnreadableField:
    """A field (or, with an empty name, whole rows) of a resource such as `contacts` that could not be read.

    `organisation_id` is 0 for Copper; `rows` counts how often since it was first seen.
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


def count(
    session: Session,
    account_id: int,
    organisation_id: int,
    resource: str,
    fields: Sequence[tuple[str, int, str]],
) -> None:
    """Add to the counts of a resource: each field's name, in how many rows, and the id of one of them."""
    rows = [{"field": name, "rows": rows, "row_id": row_id} for name, rows, row_id in fields]
    params = {
        "account": account_id,
        "organisation": organisation_id,
        "resource": resource,
        "fields": orjson.dumps(rows).decode(),
    }
    session.execute(COUNT, params)


def recent(session: Session, account_id: int, days: int = RECENT_DAYS) -> list[UnreadableField]:
    """What could not be read in the last `days`; at most 200 fields."""
    params = {"account": account_id, "days": days, "limit": MAX_LISTED}
    return [UnreadableField(**row._mapping) for row in session.execute(RECENT, params)]


def purge(session: Session, days: int) -> int:
    """Delete what was last seen more than `days` ago; returns how many fields."""
    return touched(session, PURGE, {"days": days})


def summary(fields: Sequence[UnreadableField]) -> list[str]:
    """One sentence for each resource, such as `3 fields of Xero contacts could not be read: Name, …`."""
    by_resource: dict[str, list[UnreadableField]] = {}
    for field in fields:
        by_resource.setdefault(f"{field.vendor.capitalize()} {field.resource}", []).append(field)
    return [sentence for name, found in by_resource.items() for sentence in _sentences(name, found)]


def _sentences(name: str, fields: Sequence[UnreadableField]) -> list[str]:
    names = sorted({field.field for field in fields} - {WHOLE_ROW})
    whole = sum(field.rows for field in fields if field.field == WHOLE_ROW)
    said = []
    if names:
        counted = "1 field" if len(names) == 1 else f"{len(names)} fields"
        said.append(f"{counted} of {name} could not be read: {', '.join(names)}")
    if whole:
        said.append(f"{whole:,} {name} could not be read at all")
    return said
