"""Xero's time zone names (OpenAPI 16.1, schema TimeZone): Windows' names in capitals, without separators."""

from __future__ import annotations

import re

from tzlocal.windows_tz import win_tz

SEPARATORS = re.compile(r"[ .\-]")
# Names that current Windows versions, or tzlocal's table of them, no longer have.
RETIRED = {
    "KAMCHATKASTANDARDTIME": "Asia/Kamchatka",
    "MIDATLANTICSTANDARDTIME": "Atlantic/South_Georgia",
}
# tzlocal's table has older names of some zones, which some systems leave out. These are their current names.
CURRENT_NAMES = {
    "America/Buenos_Aires": "America/Argentina/Buenos_Aires",
    "America/Godthab": "America/Nuuk",
    "America/Indianapolis": "America/Indiana/Indianapolis",
    "Asia/Calcutta": "Asia/Kolkata",
    "Asia/Katmandu": "Asia/Kathmandu",
    "Asia/Rangoon": "Asia/Yangon",
    "Europe/Kiev": "Europe/Kyiv",
}


def _xero_spelling(name: str) -> str:
    return SEPARATORS.sub("", name).upper()


BY_XERO_NAME = {_xero_spelling(windows): iana for windows, iana in win_tz.items()} | RETIRED


def iana_names(xero_name: str) -> tuple[str, ...]:
    """The IANA names of a time zone, the current one first; empty if it is unknown. Accepts Windows' spelling too."""
    iana_name = BY_XERO_NAME.get(_xero_spelling(xero_name))
    if iana_name is None:
        return ()
    return (CURRENT_NAMES[iana_name], iana_name) if iana_name in CURRENT_NAMES else (iana_name,)
