"""How many decimals a currency has (ISO 4217); two where nothing else is said."""

from __future__ import annotations

from decimal import Decimal

NONE = ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV")
PACIFIC_AND_AFRICAN_FRANCS = ("XAF", "XOF", "XPF")
THREE = ("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND")
DECIMALS = {**dict.fromkeys((*NONE, *PACIFIC_AND_AFRICAN_FRANCS), 0), **dict.fromkeys(THREE, 3), "CLF": 4, "UYW": 4}


def decimals(value: Decimal, currency: str | None) -> int:
    """How many decimals to write: the currency's own; finer amounts, should a vendor send one, are not cut."""
    exponent = value.normalize().as_tuple().exponent
    given = -exponent if isinstance(exponent, int) else 0
    return max(DECIMALS.get(currency or "", 2), given)


def amount(value: Decimal, currency: str | None) -> str:
    """`value` with the currency's own decimals, as machines read it."""
    return f"{value.normalize():.{decimals(value, currency)}f}"
