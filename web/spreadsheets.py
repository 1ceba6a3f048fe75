"""Text for spreadsheets: what one would take for a formula is written as the text that it is."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

# Also in full width and in the other forms that Unicode holds equal to these.
SIGNS = frozenset("=+-@")
# Where a spreadsheet may end a cell, whichever separator it was told: what follows then begins another one.
SEPARATORS = re.compile(r"([;\t\n\r\v\f\x85\u2028\u2029]+)")
# Blanks, controls and characters without a width: a spreadsheet may pass them by before it looks.
PASSED_BY = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})


def cell(value: Any) -> Any:
    """A value as a CSV file holds it: no part of a text begins a formula; times as ISO 8601."""
    if isinstance(value, str):
        # Most texts are names, numbers and addresses: of these nothing needs a closer look.
        if value[:1].isalnum() and not SEPARATORS.search(value):
            return value
        return "".join(_part(part) for part in SEPARATORS.split(value))
    return value.isoformat() if hasattr(value, "isoformat") else value


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may take a text for a formula: the first character that shows is one of the signs."""
    first = next((character for character in text if unicodedata.category(character) not in PASSED_BY), "")
    return unicodedata.normalize("NFKC", first) in SIGNS


def _part(text: str) -> str:
    return f"'{text}" if is_formula(text) else text
