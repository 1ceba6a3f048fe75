"""A measurement: the values of each round, usually as ratios to a baseline, and the goal for their median."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from pydantic import TypeAdapter


def format_number(value: float) -> str:
    """A number with three digits, or as many as it has before the point."""
    return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Figure:
    """One row of the report: `values` of the rounds, in `unit`.

    `goal` is text, '' if there is none. `is_met` says whether the median meets it, `miss_reason` why it does not.
    """

    name: str
    values: tuple[float, ...]
    unit: str
    goal: str = ""
    is_met: bool | None = None
    baseline: str = ""
    note: str = ""
    miss_reason: str = ""
    details: dict[str, str] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return median(self.values)

    @property
    def median_text(self) -> str:
        """The median, rounded, with a digit more where rounding would hide that the goal was missed."""
        text = format_number(self.median)
        if self.is_met is False and text in self.goal.split():
            return f"{self.median:.4g}"
        return text


@dataclass(frozen=True)
class Part:
    """A part of the report: its figures, the day on which they were measured (UTC), and how many minutes that took."""

    title: str
    day: str
    minutes: float
    figures: tuple[Figure, ...]


PARTS = TypeAdapter(list[Part])


def save_parts(path: Path, parts: list[Part]) -> None:
    """Write parts as JSON."""
    path.write_bytes(PARTS.dump_json(parts, indent=1) + b"\n")


def load_parts(path: Path) -> list[Part]:
    """The parts of a JSON file; none if it is empty or does not exist."""
    content = path.read_bytes() if path.exists() else b""
    return PARTS.validate_json(content) if content else []


@dataclass
class Timer:
    """The seconds that a block took."""

    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Timer]:
    """Time a block."""
    timer, started = Timer(), time.perf_counter()
    yield timer
    timer.seconds = time.perf_counter() - started


_stops_early = True


def measure_all_rounds() -> None:
    """Let `rounds_in_time` count all rounds in this process, however long they take."""
    global _stops_early
    _stops_early = False


def rounds_in_time(rounds: int, seconds: float) -> Iterator[int]:
    """Count up to `rounds`, but begin none after `seconds`, so that a part ends in time on a slow machine, too."""
    started = time.monotonic()
    for number in range(rounds):
        if number and _stops_early and time.monotonic() - started > seconds:
            print(f"  {number} of {rounds} rounds, because they take long", flush=True)
            return
        yield number


def quantile(values: Iterable[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


def alternate(
    rounds: int, measure: Callable[[], float], measure_baseline: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Rates of both, measured alternately, so that variations of the machine affect both."""
    rates, baseline_rates = [], []
    for _ in range(rounds):
        baseline_rates.append(measure_baseline())
        rates.append(measure())
    return rates, baseline_rates


def at_least(
    name: str,
    rates: list[float],
    baseline_rates: list[float],
    minimum: float,
    baseline: str,
    *,
    note: str = "",
    miss_reason: str = "",
) -> Figure:
    """A ratio of rates to the baseline's, with a minimum as goal."""
    figure = ratio(name, rates, baseline_rates, baseline)
    is_met = figure.median >= minimum
    return replace(figure, goal=f"at least {format_number(minimum)}", is_met=is_met, note=note, miss_reason=miss_reason)


def ratio(name: str, rates: list[float], baseline_rates: list[float], baseline: str) -> Figure:
    """A ratio of rates to the baseline's, without a goal."""
    values = tuple(a / b for a, b in zip(rates, baseline_rates, strict=True))
    details = {"ours": f"{median(rates):,.0f} per second", "baseline": f"{median(baseline_rates):,.0f} per second"}
    return Figure(name, values, "times", baseline=baseline, details=details)


def at_most(
    name: str,
    values: Iterable[float],
    maximum: float,
    unit: str,
    *,
    baseline: str = "",
    note: str = "",
    miss_reason: str = "",
    **details: str,
) -> Figure:
    """A figure with a maximum as goal."""
    measured = tuple(values)
    is_met = median(measured) <= maximum
    return Figure(
        name,
        measured,
        unit,
        f"at most {format_number(maximum)} {unit}",
        is_met,
        baseline,
        note,
        miss_reason,
        dict(details),
    )


def ratio_at_most(
    name: str,
    values: Sequence[float],
    baseline_values: Sequence[float],
    unit: str,
    maximum: float,
    baseline: str,
    *,
    note: str = "",
    miss_reason: str = "",
) -> Figure:
    """A ratio of amounts in `unit` to the baseline's, with a maximum as goal."""
    ratios = (value / baseline_value for value, baseline_value in zip(values, baseline_values, strict=True))
    figure = at_most(name, ratios, maximum, "times", baseline=baseline, note=note, miss_reason=miss_reason)
    amounts = {"ours": values, "baseline": baseline_values}
    return replace(figure, details={name: f"{median(measured):.3g} {unit}" for name, measured in amounts.items()})
