"""Whole numbers in text that somebody else wrote: forms, headers, messages, searches."""

from __future__ import annotations

import re

MAX_ID = 2**63 - 1
"""The largest id: PostgreSQL's bigint, and more than either vendor uses."""
DIGITS = re.compile(r"[0-9]{1,19}")


def whole_number(text: str, *, minimum: int = 0, maximum: int = MAX_ID) -> int | None:
    """The whole number that `text` is, from `minimum` to `maximum`; None for anything else.

    Nothing but ASCII digits counts, at most 19 of them: `str.isdigit` is also true of "²", which `int` refuses, and
    of "٣", which it takes. Blanks around the digits are for the caller to strip where a person types.
    """
    if DIGITS.fullmatch(text) is None:
        return None
    number = int(text)
    return number if minimum <= number <= maximum else None
