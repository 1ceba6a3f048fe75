"""How late a record's money is: a bar by days overdue for each currency, and how it has paid so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from babel import Locale

from runtime.numbers import count_noun
from store.read_model.balances import Ageing, Balance, PaymentHistory
from store.read_model.overdue_sql import AGEING_COLUMNS
from web.presentation import labels, locales

LABELS = {"not_due": "Not due", **{name: f"{label} overdue" for name, label in labels.AGEING_LABELS.items()}}
# A small amount beside a very large one stays visible.
MIN_WIDTH = Decimal("1.5")


@dataclass(frozen=True)
class AgeingSegment:
    """A part of the bar: its amount, and where it is, in hundredths of the bar's length.

    `name` is the column of the amount, which the colour goes by.
    """

    name: str
    label: str
    amount: str
    start: str
    width: str


@dataclass(frozen=True)
class AgeingBar:
    """What is open in one currency, by days overdue; `description` says it in words."""

    segments: tuple[AgeingSegment, ...]
    description: str


@dataclass(frozen=True)
class PaymentView:
    """How a record has paid: on average ('' if unknown), and on which day last; `last_full` says which invoice."""

    average: str
    last: str
    last_full: str


def build_payment_view(history: PaymentHistory | None, locale: Locale) -> PaymentView | None:
    """The line about a record's payments; None without any."""
    if history is None:
        return None
    total = "" if history.total is None else locales.format_amount(history.total, history.currency or "", locale)
    full_date = locales.format_full_date(history.paid_on, locale)
    return PaymentView(
        average=_average(history, locale),
        last=locales.format_short_date(history.paid_on, history.today, locale),
        last_full=", ".join(filter(None, (history.number, total, full_date))),
    )


def _average(history: PaymentHistory, locale: Locale) -> str:
    if history.average_days is None:
        return ""
    days = locales.format_number(history.average_days, locale)
    duration = "at once" if history.average_days <= 0 else f"in {days} {'day' if history.average_days == 1 else 'days'}"
    return f"Pays {duration} on average ({count_noun(history.invoices, 'invoice')})"


def build_bars(balances: Iterable[Balance], locale: Locale) -> tuple[AgeingBar, ...]:
    """A bar for each currency in which sales invoices are overdue."""
    return tuple(_bar(balance, locale) for balance in balances if balance.overdue > 0 and not balance.is_purchase)


def _bar(ageing: Ageing, locale: Locale) -> AgeingBar:
    amounts = {name: amount for name in ("not_due", *AGEING_COLUMNS) if (amount := getattr(ageing, name)) > 0}
    widths = _widths(list(amounts.values()))
    starts = [sum(widths[:index], Decimal()) for index in range(len(widths))]
    segments = tuple(
        AgeingSegment(
            name, LABELS[name], locales.format_amount(amount, ageing.currency, locale), f"{start:.2f}", f"{width:.2f}"
        )
        for (name, amount), start, width in zip(amounts.items(), starts, widths, strict=True)
    )
    words = ", ".join(f"{segment.amount} {segment.label.lower()}" for segment in segments)
    return AgeingBar(segments, f"By age: {words}")


def _widths(amounts: list[Decimal]) -> list[Decimal]:
    """Shares of 100, each at least `MIN_WIDTH`."""
    total = sum(amounts, Decimal())
    widths = [max(amount / total * 100, MIN_WIDTH) for amount in amounts]
    scale = 100 / sum(widths, Decimal())
    return [width * scale for width in widths]
