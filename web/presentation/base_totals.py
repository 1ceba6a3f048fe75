"""What is outstanding on a record in the base currency of its organisations, in words."""

from __future__ import annotations

from collections.abc import Sequence

from babel import Locale

from store.read_model.base_totals import BaseTotal
from web.presentation import locales
from web.presentation.currencies import round_amount


def base_total_texts(totals: Sequence[BaseTotal], locale: Locale) -> tuple[str, ...]:
    """A line for each base currency that is known; with its organisations if there are several currencies."""
    return tuple(_text(total, locale, with_names=len(totals) > 1) for total in totals if total.base_currency)


def _text(total: BaseTotal, locale: Locale, *, with_names: bool) -> str:
    prefix = f"{total.organisations}: " if with_names else ""
    if not total.invoices:
        return f"{prefix}No total in {total.base_currency}: {_unknown_rates(total, locale)}."
    rounded = round_amount(total.open, total.base_currency)
    amount = f"{total.base_currency} {locales.format_money(rounded, total.base_currency, locale)}"
    text = f"{prefix}≈ {amount} outstanding in all, at the invoices' own exchange rates"
    return f"{text}. Not included: {_unknown_rates(total, locale)}." if total.invoices_without_rate else text


def _unknown_rates(total: BaseTotal, locale: Locale) -> str:
    count = locales.format_number(total.invoices_without_rate, locale)
    if total.invoices_without_rate == 1:
        return "the exchange rate of 1 invoice isn't known"
    return f"the exchange rates of {count} invoices aren't known"
