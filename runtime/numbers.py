"""Whole numbers in untrusted text (forms, headers, messages, searches), and numbers with their nouns for people."""

from __future__ import annotations

import re

MAX_ID = 2**63 - 1
"""The largest ID: PostgreSQL's bigint, and more than either vendor uses."""
DIGITS = re.compile(r"[0-9]{1,19}")


def whole_number(text: str, *, minimum: int = 0, maximum: int = MAX_ID) -> int | None:
    """`text` as a whole number from `minimum` to `maximum`; None for anything else.

    It may only consist of up to 19 ASCII digits: `str.isdigit` also accepts "²", which `int` rejects, and "٣", which
    `int` accepts. The caller strips surrounding blanks of what a user typed.
    """
    if DIGITS.fullmatch(text) is None:
        return None
    number = int(text)
    return number if minimum <= number <= maximum else None


def count_noun(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun: 1 row, 2,000 rows."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
