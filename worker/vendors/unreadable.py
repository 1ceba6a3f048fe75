"""Report fields and rows of a vendor's response that could not be read: in a metric, in the log and in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from runtime import metrics
from store.db.database import transaction
from store.mirror import unreadable_fields
from store.mirror.unreadable_fields import WHOLE_ROW
from worker.vendors.parsing import ParseResult

log = structlog.get_logger()


@dataclass(frozen=True)
class ResponseSource:
    """Where a response came from: a vendor (`xero`, `copper`), for an organisation (0: Copper) of an account.

    The account is 0 while it is being connected: nothing is stored for it then.
    """

    vendor: str
    account_id: int
    organisation_id: int
    resource: str


def report_unreadable_rows(result: ParseResult[Any], source: ResponseSource) -> None:
    """Report the fields and the rows that could not be read. Logs contain field names and ids, never a value."""
    fields = [(name, count.rows, count.row_id) for name, count in sorted(result.dropped_fields.items())]
    if result.unreadable_rows:
        fields.append((WHOLE_ROW, result.unreadable_rows, next(iter(result.unreadable), "")))
    _report(fields, source)


def report_unreadable_response(source: ResponseSource) -> None:
    """Report a response of which nothing could be read."""
    _report([(WHOLE_ROW, 1, "")], source)


def _report(fields: Sequence[tuple[str, int, str]], source: ResponseSource) -> None:
    """Report fields: each with its name, the number of rows and the id of one of them."""
    for name, row_count, row_id in fields:
        metrics.UNREADABLE_FIELDS.labels(source.vendor, source.resource, name).inc(row_count)
        log.warning(
            "field.unreadable" if name else "row.unreadable",
            vendor=source.vendor,
            account=source.account_id,
            organisation=source.organisation_id,
            resource=source.resource,
            field=name,
            row=row_id,
            rows=row_count,
        )
    if fields and source.account_id:
        with transaction() as session:
            unreadable_fields.record(session, source.account_id, source.organisation_id, source.resource, fields)
