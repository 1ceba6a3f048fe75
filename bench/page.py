"""The page of results: docs/performance.md, with a plot of every ratio against its goal."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from textwrap import shorten

from bench.figures import Figure

DOCS = Path(__file__).resolve().parent.parent / "docs"
PLOT = "images/performance.svg"
WIDTH, LINE, LABELS, BAR = 860, 26, 430, 380
MOST = 2.0


def write(sections: Sequence[tuple[str, Sequence[Figure]]], command: str) -> Path:
    """Write page and plot; returns the page."""
    figures = [one for _, found in sections for one in found if one.goal]
    (DOCS / PLOT).write_text(plot(figures))
    page = DOCS / "performance.md"
    before, _, _ = page.read_text().partition("<!-- measured -->") if page.exists() else ("", "", "")
    page.write_text(f"{before}<!-- measured -->\n\n{_measured(sections, command)}")
    return page


def _measured(sections: Sequence[tuple[str, Sequence[Figure]]], command: str) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, Python {platform.python_version()}"
    lines = [
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {machine}.",
        "",
        f"![Each figure against its goal]({PLOT})",
        "",
    ]
    for name, found in sections:
        lines += [f"## {name}", "", "| what | against | median | least to most | goal | |", "|---|---|---|---|---|---|"]
        lines += [_row(one) for one in found] + [""]
    return "\n".join(lines)


def _row(one: Figure) -> str:
    told = "; ".join(f"{name}: {value}" for name, value in one.details.items())
    what = one.what + (f" ({told})" if told else "") + (f". {one.note}" if one.note else "")
    what += f". Missed, as {one.why}" if one.met is False and one.why else ""
    spread = f"{_number(min(one.values))} to {_number(max(one.values))}"
    fate = {True: "met", False: "**missed**", None: ""}[one.met]
    return f"| {what} | {one.yardstick} | {_number(one.middle)} {one.unit} | {spread} | {one.goal} | {fate} |"


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.3g}"


def plot(figures: Sequence[Figure]) -> str:
    """Bars of how far each figure is from its goal: to the right of the line it is met."""
    height = LINE * (len(figures) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number, one in enumerate(figures):
        top = LINE * number + 6
        share, *ends = (min(_share(one, value), MOST) / MOST for value in (one.middle, *one.values))
        colour = "#2e7d5b" if one.met else "#b3452c"
        parts.append(f'<text x="{LABELS - 8}" y="{top + 13}" text-anchor="end">{_label(one)}</text>')
        parts.append(f'<rect x="{LABELS}" y="{top}" width="{BAR * share:.1f}" height="{LINE - 9}" fill="{colour}"/>')
        middle, low, high = top + (LINE - 9) / 2, LABELS + BAR * min(ends), LABELS + BAR * max(ends)
        parts.append(
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#222" stroke-width="2"/>'
        )
    goal = LABELS + BAR / MOST
    parts.append(
        f'<line x1="{goal}" x2="{goal}" y1="0" y2="{height - LINE + 6}" stroke="#333" stroke-dasharray="4 3"/>'
    )
    told = "the goal (bars end at twice it; dark: least to most of the rounds)"
    parts.append(f'<text x="{goal}" y="{height - 6}" text-anchor="middle">{told}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _label(one: Figure) -> str:
    return escape(shorten(one.what.replace("`", ""), 66, placeholder=" …"))


def _share(one: Figure, value: float) -> float:
    """How often the goal is reached by a value of the figure: 1 is the goal itself."""
    goal = float(one.goal.split()[2])
    if one.goal.startswith("at least"):
        return value / goal
    return goal / value if value > 0 else MOST
