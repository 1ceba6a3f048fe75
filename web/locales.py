"""Numbers, money and dates as the reader's own language writes them, by what the browser asks for."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from functools import lru_cache

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_skeleton
from babel.numbers import format_decimal
from fastapi import Request

from web.currencies import decimals

USUAL = Locale("en", "GB")
MOST_LANGUAGES = 10


def of(request: Request) -> Locale:
    """The first language of `Accept-Language` that is known here; British English otherwise."""
    return _chosen(request.headers.get("accept-language", "")[:500])


@lru_cache(maxsize=500)
def _chosen(header: str) -> Locale:
    wanted: list[tuple[float, int, str]] = []
    for place, part in enumerate(header.split(",")[:MOST_LANGUAGES]):
        tag, _, quality = part.strip().partition(";q=")
        try:
            wanted.append((-float(quality or 1), place, tag.strip()))
        except ValueError:
            continue
    for quality_below_zero, _, tag in sorted(wanted):
        if quality_below_zero < 0 and (found := _known(tag)):
            return found
    return USUAL


def _known(tag: str) -> Locale | None:
    try:
        return Locale.parse(tag, sep="-") if tag and tag != "*" else None
    except (ValueError, TypeError, UnknownLocaleError):
        return None


def money(value: Decimal, currency: str | None, locale: Locale) -> str:
    """An amount with its currency's own decimals, without its code."""
    places = decimals(value, currency)
    pattern = "#,##0" + ("." + "0" * places if places else "")
    return format_decimal(value, format=pattern, locale=locale)


def count(value: int, locale: Locale) -> str:
    """A whole number."""
    return format_decimal(value, locale=locale)


def day(value: date, today: date, locale: Locale) -> str:
    """A date, short: with the year when it is not this one."""
    return format_skeleton("MMMd" if value.year == today.year else "yMMMd", value, locale=locale)


def full_day(value: date, locale: Locale) -> str:
    """A date in full."""
    return format_date(value, "full", locale=locale)
