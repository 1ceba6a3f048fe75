"""Numbers, amounts and dates in the reader's locale, by the browser's Accept-Language."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from functools import lru_cache

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_skeleton
from babel.numbers import format_decimal
from fastapi import Request

from web.presentation.currencies import decimal_places

DEFAULT = Locale("en", "GB")
MAX_LANGUAGES = 10


def negotiate(request: Request) -> Locale:
    """The supported locale that `Accept-Language` prefers; British English otherwise."""
    return _negotiate(request.headers.get("accept-language", "")[:500])


@lru_cache(maxsize=500)
def _negotiate(header: str) -> Locale:
    preferences: list[tuple[float, int, str]] = []
    for position, part in enumerate(header.split(",")[:MAX_LANGUAGES]):
        tag, _, quality = part.strip().partition(";q=")
        try:
            preferences.append((-float(quality or 1), position, tag.strip()))
        except ValueError:
            continue
    for negative_quality, _, tag in sorted(preferences):
        if negative_quality < 0 and (locale := _parse(tag)):
            return locale
    return DEFAULT


def _parse(tag: str) -> Locale | None:
    try:
        return Locale.parse(tag, sep="-") if tag and tag != "*" else None
    except (ValueError, TypeError, UnknownLocaleError):
        return None


def format_money(value: Decimal, currency: str | None, locale: Locale) -> str:
    """An amount with its currency's own number of decimals, without the currency code."""
    places = decimal_places(value, currency)
    pattern = "#,##0" + ("." + "0" * places if places else "")
    return format_decimal(value, format=pattern, locale=locale)


def format_amount(value: Decimal, currency: str, locale: Locale) -> str:
    """An amount after its currency code; without one if the currency is ''."""
    return f"{currency} {format_money(value, currency, locale)}".strip()


def format_number(value: int, locale: Locale) -> str:
    """A whole number."""
    return format_decimal(value, locale=locale)


def format_short_date(value: date, today: date, locale: Locale) -> str:
    """A short date; with the year if it is not the current one."""
    return format_skeleton("MMMd" if value.year == today.year else "yMMMd", value, locale=locale)


def format_full_date(value: date, locale: Locale) -> str:
    """A full date with the day of the week."""
    return format_date(value, "full", locale=locale)
