"""Normalisation of phone numbers, so that national and international spellings can be compared by their last digits."""

from __future__ import annotations

import re
import unicodedata

MIN_DIGITS, MAX_DIGITS = 8, 15
"""An international number has at most 15 digits (ITU-T E.164); fewer than 8 identify nobody."""
MAX_TEXT = 500
MAX_PHONES = 20

SEPARATORS = re.compile(r"[,;/|\n]|\bor\b", re.IGNORECASE)
EXTENSION = re.compile(r"(?:\bext(?:ension|n)?|x|#)[.:\s]*\d+\s*$", re.IGNORECASE)
TRUNK_PREFIX = "(0)"


def normalise_phones(*texts: str | None) -> tuple[str, ...]:
    """The phone numbers in some texts, at most 20, sorted: digits without leading zeros, from 8 to 15 of them.

    `+64 9 555 1234` is 6495551234 and `(09) 555-1234` is 95551234: one ends with the other. Extensions are left out,
    and so are numbers that repeat one digit. Only the first 500 characters of each text are searched.
    """
    phones: set[str] = set()
    for text in texts:
        for part in SEPARATORS.split((text or "")[:MAX_TEXT]):
            digits = _digits(EXTENSION.sub("", part.replace(TRUNK_PREFIX, "")))
            if MIN_DIGITS <= len(digits) <= MAX_DIGITS and len(set(digits)) > 1 and len(phones) < MAX_PHONES:
                phones.add(digits)
    return tuple(sorted(phones))


def _digits(text: str) -> str:
    decimals = (unicodedata.decimal(char, None) for char in text)
    return "".join(str(decimal) for decimal in decimals if decimal is not None).lstrip("0")
