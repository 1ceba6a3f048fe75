"""The parts of an API path that name a record: its type, in the plural, and its id."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel

from store.db.enums import RecordType
from web.presentation.problems import ProblemError

MAX_RECORD_ID = 2**63 - 1
RECORD_TYPES = {record_type.plural: record_type for record_type in RecordType}
"""Record types by their plural, as paths spell them."""
PLURALS: list[Any] = list(RECORD_TYPES)

RecordTypePath = Annotated[
    str, Path(description="leads, people, companies or opportunities", json_schema_extra={"enum": PLURALS})
]
RecordId = Annotated[int, Path(ge=0, le=MAX_RECORD_ID, description="the ID of the record in Copper")]


class RecordReference(BaseModel):
    """A Copper record."""

    type: Literal["lead", "person", "company", "opportunity"]
    id: int


def parse_record_type(plural: str) -> RecordType:
    """The record type of a path segment; raises a 404 problem that lists the valid ones."""
    record_type = RECORD_TYPES.get(plural)
    if record_type is None:
        raise ProblemError(404, f"There is no record type {plural[:40]!r}; there are {', '.join(RECORD_TYPES)}.")
    return record_type
