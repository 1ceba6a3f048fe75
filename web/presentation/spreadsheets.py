"""Protection against formula injection in CSV files (OWASP)."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

# Also their full-width and other compatibility forms in Unicode.
FORMULA_SIGNS = frozenset("=+-@")
# Characters at which a spreadsheet may start another cell, whatever separator its import uses.
SEPARATORS = re.compile(r"([;\t\n\r\v\f\x85\u2028\u2029]+)")
# Spaces, control and zero-width characters, which a spreadsheet may skip at the start of a cell.
SKIPPED_CATEGORIES = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})


def escape_cell(value: Any) -> Any:
    """A value for a CSV file: a text without formulas, or a date or time as ISO 8601."""
    if isinstance(value, str):
        # Most texts are names, numbers and addresses, which need no further checks.
        if value[:1].isalnum() and not SEPARATORS.search(value):
            return value
        return "".join(_escape(part) for part in SEPARATORS.split(value))
    return value.isoformat() if hasattr(value, "isoformat") else value


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may take a text for a formula: the first visible character is a formula sign."""
    first_visible = next(
        (character for character in text if unicodedata.category(character) not in SKIPPED_CATEGORIES), ""
    )
    return unicodedata.normalize("NFKC", first_visible) in FORMULA_SIGNS


def _escape(text: str) -> str:
    return f"'{text}" if is_formula(text) else text
