"""How many decimals a currency has (ISO 4217); two where nothing else is said."""

from __future__ import annotations

from decimal import Decimal

NONE = ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV")
PACIFIC_AND_AFRICAN_FRANCS = ("XAF", "XOF", "XPF")
THREE = ("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND")
DECIMALS = {**dict.fromkeys((*NONE, *PACIFIC_AND_AFRICAN_FRANCS), 0), **dict.fromkeys(THREE, 3), "CLF": 4, "UYW": 4}


def decimals(value: Decimal, currency: str | None) -> int:
    """How many decimals to write: the currency's own; finer amounts, should a vendor send one, are not cut."""
    return len(amount(value, currency).partition(".")[2])


def amount(value: Decimal | str, currency: str | None) -> str:
    """`value` with the currency's own decimals, as machines read it."""
    text = value if isinstance(value, str) else f"{value:f}"
    whole, _, given = text.partition(".")
    places = DECIMALS.get(currency or "", 2)
    if len(given) == places:
        return text
    shown = given.rstrip("0").ljust(places, "0")
    return f"{whole}.{shown}" if shown else whole
