"""What a measurement is: rounds of a figure and of its yardstick, and the goal for their ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median


@dataclass(frozen=True)
class Figure:
    """One line of the page: `values` over the rounds, in `unit`.

    `goal` in words, '' where there is none; `met` says whether the median keeps it, `why` what stands in its way.
    """

    what: str
    values: tuple[float, ...]
    unit: str
    goal: str
    met: bool | None
    yardstick: str = ""
    note: str = ""
    why: str = ""
    details: dict[str, str] = field(default_factory=dict)

    @property
    def middle(self) -> float:
        """The median of the rounds."""
        return median(self.values)


@dataclass
class Clock:
    """Seconds that a block took."""

    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Clock]:
    """Time a block."""
    clock, began = Clock(), time.perf_counter()
    yield clock
    clock.seconds = time.perf_counter() - began


def quantile(values: Iterable[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


def ratios(rounds: int, ours: Callable[[], float], yardstick: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Rounds of both, turn by turn, so that the machine's moods strike both."""
    mine, theirs = [], []
    for _ in range(rounds):
        theirs.append(yardstick())
        mine.append(ours())
    return mine, theirs


def at_least(
    what: str,
    mine: list[float],
    theirs: list[float],
    least: float,
    yardstick: str,
    *,
    note: str = "",
    why: str = "",
) -> Figure:
    """A figure of rates: ours over the yardstick's, at least `least`."""
    plain = shown(what, mine, theirs, yardstick)
    met = plain.middle >= least
    return replace(plain, goal=f"at least {least:g}", met=met, note=note, why=why)


def shown(what: str, mine: list[float], theirs: list[float], yardstick: str) -> Figure:
    """A figure of rates, ours over the yardstick's, without a goal."""
    values = tuple(a / b for a, b in zip(mine, theirs, strict=True))
    details = {"ours": f"{median(mine):,.0f} a second", "yardstick": f"{median(theirs):,.0f} a second"}
    return Figure(what, values, "times", "", None, yardstick, details=details)


def at_most(
    what: str,
    values: Iterable[float],
    most: float,
    unit: str,
    *,
    yardstick: str = "",
    note: str = "",
    why: str = "",
    **details: str,
) -> Figure:
    """A figure that must not exceed `most`."""
    kept = tuple(values)
    return Figure(what, kept, unit, f"at most {most:g} {unit}", median(kept) <= most, yardstick, note, why, details)
