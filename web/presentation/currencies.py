"""The number of decimals of a currency (ISO 4217); two unless listed here."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

WITHOUT_DECIMALS = ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV")
PACIFIC_AND_AFRICAN_FRANCS = ("XAF", "XOF", "XPF")
THREE_DECIMALS = ("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND")
DECIMALS = {
    **dict.fromkeys((*WITHOUT_DECIMALS, *PACIFIC_AND_AFRICAN_FRANCS), 0),
    **dict.fromkeys(THREE_DECIMALS, 3),
    "CLF": 4,
    "UYW": 4,
}


def decimal_places(value: Decimal, currency: str | None) -> int:
    """The number of decimals to write: the currency's own, or more if a vendor sends a finer amount."""
    return len(format_amount(value, currency).partition(".")[2])


def round_amount(value: Decimal, currency: str) -> Decimal:
    """A computed amount, rounded half up to the currency's own number of decimals; `value` has at most 26 digits."""
    return value.quantize(Decimal(1).scaleb(-DECIMALS.get(currency, 2)), ROUND_HALF_UP)


def format_amount(value: Decimal | str, currency: str | None) -> str:
    """`value` with the currency's own number of decimals, and a point as the separator."""
    text = value if isinstance(value, str) else f"{value:f}"
    whole, _, fraction = text.partition(".")
    places = DECIMALS.get(currency or "", 2)
    if len(fraction) == places:
        return text
    digits = fraction.rstrip("0").ljust(places, "0")
    return f"{whole}.{digits}" if digits else whole


def format_optional_amount(value: Decimal | str | None, currency: str | None) -> str | None:
    """As `format_amount`; None for an amount that the vendor did not give."""
    return None if value is None else format_amount(value, currency)
