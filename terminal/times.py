"""Times as the command line writes them: for people in UTC and saying so, for machines in ISO 8601."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def to_the_second(at: datetime | None) -> str:
    """A time for people, or `never`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if at else "never"


def to_the_minute(at: datetime | None) -> str:
    """The same, as short as a list wants it."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if at else "never"


def json_value(value: Any) -> str:
    """What JSON has no form for, as text: a time in ISO 8601 with its offset."""
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)
