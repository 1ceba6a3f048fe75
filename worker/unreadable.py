"""Counting what could not be read of a vendor's answer: a metric, a log line a field, and a row in the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import structlog

from store import unreadable_fields
from store.database import transaction
from store.unreadable_fields import WHOLE_ROW
from worker import instruments
from worker.parsing import ParseResult

log = structlog.get_logger()


@dataclass(frozen=True)
class AnswerSource:
    """Whose answer it is: a vendor's (`xero`, `copper`), for an organisation (0: Copper) of an account.

    The account is 0 while it is being connected: nothing is kept for it then.
    """

    vendor: str
    account_id: int
    organisation_id: int
    resource: str


def report(result: ParseResult[Any], source: AnswerSource) -> None:
    """Count the fields and the rows that could not be read; logs name fields and ids, never a value."""
    counted = [(name, found.rows, found.row_id) for name, found in sorted(result.fields.items())]
    if result.unreadable_rows:
        counted.append((WHOLE_ROW, result.unreadable_rows, next(iter(result.unreadable), "")))
    report_fields(counted, source)


def report_answer(source: AnswerSource) -> None:
    """Count an answer of which nothing could be read."""
    report_fields([(WHOLE_ROW, 1, "")], source)


def report_fields(counted: list[tuple[str, int, str]], source: AnswerSource) -> None:
    """Count fields by name, each with a number of rows and the id of one of them."""
    for name, rows, row_id in counted:
        instruments.UNREADABLE.labels(source.vendor, source.resource, name).inc(rows)
        log.warning(
            "field.unreadable" if name else "row.unreadable",
            vendor=source.vendor,
            account=source.account_id,
            organisation=source.organisation_id,
            resource=source.resource,
            field=name,
            row=row_id,
            rows=rows,
        )
    if counted and source.account_id:
        with transaction() as session:
            place = (source.account_id, source.organisation_id)
            unreadable_fields.count(session, *place, source.resource, counted)
