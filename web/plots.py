"""Small plots as SVG, made here: no script, and coloured by the style sheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from store.freshness import Hour, quantile

HOURS = 24
WIDTH, HEIGHT = 640, 180
LEFT, RIGHT, TOP, BOTTOM = 48, 44, 12, 24
# The seconds at which a line is drawn, and what stands beside it; the scale is logarithmic between the outer ones.
LINES = ((0.05, ""), (0.1, "0.1 s"), (1.0, "1 s"), (10.0, "10 s"), (60.0, "1 min"), (600.0, "10 min"), (3_600.0, "1 h"))
LEAST = 0.05


@dataclass(frozen=True)
class Plot:
    """What the template draws: lines across with their words, hours below, two curves with a dot for each hour."""

    width: int
    height: int
    left: int
    right: int
    bottom: int
    lines: tuple[tuple[float, str], ...]
    hours: tuple[tuple[float, str], ...]
    median: tuple[tuple[float, float], ...]
    worst: tuple[tuple[float, float], ...]


def freshness(hours: Sequence[Hour], now: datetime | None = None) -> Plot | None:
    """The median and the slowest hundredth of each of the last 24 hours; None when nothing happened in them."""
    this = (now or datetime.now(UTC)).replace(minute=0, second=0, microsecond=0)
    first = this - timedelta(hours=HOURS - 1)
    shown = [hour for hour in hours if hour.events and hour.at >= first]
    if not shown:
        return None
    most = max(quantile([hour], 0.99) or LEAST for hour in shown)
    top = next((at for at, _ in LINES if at >= most and at >= 1), LINES[-1][0])

    def across(at: datetime) -> float:
        part = (at - first) / timedelta(hours=HOURS - 1)
        return round(LEFT + part * (WIDTH - LEFT - RIGHT), 1)

    def down(seconds: float) -> float:
        part = math.log(min(max(seconds, LEAST), top) / LEAST) / math.log(top / LEAST)
        return round(HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM), 1)

    def curve(share: float) -> tuple[tuple[float, float], ...]:
        return tuple((across(hour.at), down(quantile([hour], share) or LEAST)) for hour in shown)

    return Plot(
        WIDTH,
        HEIGHT,
        LEFT,
        WIDTH - RIGHT,
        HEIGHT - BOTTOM,
        tuple((down(at), word) for at, word in LINES if word and at <= top),
        tuple(
            (across(at), f"{at:%H}:00")
            for at in (first + timedelta(hours=step) for step in range(HOURS))
            if at.hour % 6 == 0
        ),
        curve(0.5),
        curve(0.99),
    )
