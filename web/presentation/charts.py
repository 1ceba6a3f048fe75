"""Charts as SVG, without scripts. The style sheet colours them, so they follow light and dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from store.ingest.event_latency import HourlyLatency, quantile

HOURS = 24
WIDTH, HEIGHT = 640, 180
LEFT, RIGHT, TOP, BOTTOM = 48, 44, 12, 24
# Grid lines in seconds, with their labels. The scale is logarithmic.
GRID_LINES = (
    (0.05, ""),
    (0.1, "0.1 s"),
    (1.0, "1 s"),
    (10.0, "10 s"),
    (60.0, "1 min"),
    (600.0, "10 min"),
    (3_600.0, "1 h"),
)
MIN_SECONDS = 0.05


@dataclass(frozen=True)
class LatencyChart:
    """What the template draws: labelled grid lines, the hours of the x-axis, and two curves with a dot per hour."""

    width: int
    height: int
    left: int
    right: int
    bottom: int
    lines: tuple[tuple[float, str], ...]
    hours: tuple[tuple[float, str], ...]
    median: tuple[tuple[float, float], ...]
    worst: tuple[tuple[float, float], ...]


def latency_chart(hours: Sequence[HourlyLatency], now: datetime | None = None) -> LatencyChart | None:
    """The median and the 99th percentile of each of the last 24 hours; None if there were no events."""
    current_hour = (now or datetime.now(UTC)).replace(minute=0, second=0, microsecond=0)
    first_hour = current_hour - timedelta(hours=HOURS - 1)
    hours_with_events = [hour for hour in hours if hour.events and hour.hour >= first_hour]
    if not hours_with_events:
        return None
    slowest = max(quantile([hour], 0.99) or MIN_SECONDS for hour in hours_with_events)
    top = next((seconds for seconds, _ in GRID_LINES if seconds >= slowest and seconds >= 1), GRID_LINES[-1][0])

    def x(at: datetime) -> float:
        share = (at - first_hour) / timedelta(hours=HOURS - 1)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(seconds: float) -> float:
        share = math.log(min(max(seconds, MIN_SECONDS), top) / MIN_SECONDS) / math.log(top / MIN_SECONDS)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def curve(percentile: float) -> tuple[tuple[float, float], ...]:
        return tuple((x(hour.hour), y(quantile([hour], percentile) or MIN_SECONDS)) for hour in hours_with_events)

    return LatencyChart(
        WIDTH,
        HEIGHT,
        LEFT,
        WIDTH - RIGHT,
        HEIGHT - BOTTOM,
        tuple((y(seconds), label) for seconds, label in GRID_LINES if label and seconds <= top),
        tuple(
            (x(at), f"{at:%H}:00")
            for at in (first_hour + timedelta(hours=step) for step in range(HOURS))
            if at.hour % 6 == 0
        ),
        curve(0.5),
        curve(0.99),
    )
