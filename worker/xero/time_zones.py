"""Xero's names of time zones (OpenAPI 16.1, schema TimeZone): Windows' own, in capitals without blanks or dots."""

from __future__ import annotations

import re

from tzlocal.windows_tz import win_tz

NO_LETTER = re.compile(r"[ .\-]")
# What Windows, or the table of its names, knows no longer.
RETIRED = {
    "KAMCHATKASTANDARDTIME": "Asia/Kamchatka",
    "MIDATLANTICSTANDARDTIME": "Atlantic/South_Georgia",
}
# The table keeps some zones by older names, which some systems leave out; these are their names today.
TODAYS_NAMES = {
    "America/Buenos_Aires": "America/Argentina/Buenos_Aires",
    "America/Godthab": "America/Nuuk",
    "America/Indianapolis": "America/Indiana/Indianapolis",
    "Asia/Calcutta": "Asia/Kolkata",
    "Asia/Katmandu": "Asia/Kathmandu",
    "Asia/Rangoon": "Asia/Yangon",
    "Europe/Kiev": "Europe/Kyiv",
}


def _as_xero_writes(name: str) -> str:
    return NO_LETTER.sub("", name).upper()


BY_XERO_NAME = {_as_xero_writes(windows): iana for windows, iana in win_tz.items()} | RETIRED


def iana_names(xero_name: str) -> tuple[str, ...]:
    """The IANA names of a zone, today's first; none of one that is unknown. Windows' own spelling is understood too."""
    known = BY_XERO_NAME.get(_as_xero_writes(xero_name))
    if known is None:
        return ()
    return (TODAYS_NAMES[known], known) if known in TODAYS_NAMES else (known,)
