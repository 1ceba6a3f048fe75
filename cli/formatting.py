"""How the command line formats times, and numbers with their nouns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

SINGULARS = {
    "people": "person",
    "leads": "lead",
    "companies": "company",
    "opportunities": "opportunity",
    "relations": "relation",
    "contacts": "contact",
    "invoices": "invoice",
}


def to_the_second(at: datetime | None) -> str:
    """A time in UTC, or `never`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if at else "never"


def to_the_minute(at: datetime | None) -> str:
    """A time in UTC without seconds, or `never`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else "never"


def json_default(value: Any) -> str:
    """For `json.dumps`: a time in ISO 8601 with its offset, anything else as text."""
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


def count_rows(number: int, plural: str) -> str:
    """A number of rows whose noun is known in the plural: 1 person, 2 people."""
    return f"{number:,} {SINGULARS.get(plural, plural) if number == 1 else plural}"
