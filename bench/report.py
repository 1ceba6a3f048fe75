"""The report: the table, notes and chart of docs/performance.md. Its other text is written by hand."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from html import escape
from pathlib import Path
from textwrap import shorten

from bench.figures import Figure, Part, format_number

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, FIGURES = DOCS / "performance.md", DOCS / "performance.json"
CHART = "images/performance.svg"
# The report replaces what is between these lines.
BEGIN, END = "<!-- measured -->", "<!-- end of the measurements -->"
WIDTH, LINE_HEIGHT, LABEL_WIDTH, BAR_WIDTH = 860, 26, 430, 380
# Bars end at this multiple of the goal.
MAX_SHARE = 2.0


def write(parts: Sequence[Part]) -> None:
    """Write the table, the notes and the chart."""
    with_goal = [figure for part in parts for figure in part.figures if figure.goal]
    (DOCS / CHART).write_text(_draw_chart(with_goal))
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{_format_parts(parts)}\n{END}{after}")


def _format_parts(parts: Sequence[Part]) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, Python {platform.python_version()}"
    with_goal = [figure for part in parts for figure in part.figures if figure.goal]
    met = sum(figure.is_met is True for figure in with_goal)
    days = sorted({part.day for part in parts})
    lines = [
        f"`make bench`, {' to '.join(sorted({days[0], days[-1]}))}, {machine}: {met} of {len(with_goal)} goals met.",
        "",
        "| measurement | ours | baseline | median ratio | range (rounds) | goal | |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in parts:
        older = f", {part.day}" if part.day != days[-1] else ""
        lines.append(f"| **{part.title}**, {part.minutes:.1f} min{older} | | | | | | |")
        lines += map(_format_row, part.figures)
    notes = [note for part in parts for note in map(_format_note, part.figures) if note]
    return "\n".join([*lines, "", f"![Each figure relative to its goal]({CHART})", "", "## Notes", "", *notes, ""])


def _format_row(figure: Figure) -> str:
    median, is_ratio = f"{figure.median_text} {figure.unit}", "ours" in figure.details
    ours = figure.details.get("ours", median)
    baseline = ": ".join(filter(None, (figure.baseline, figure.details.get("baseline"))))
    rounds = len(figure.values)
    lowest, highest = format_number(min(figure.values)), format_number(max(figure.values))
    value_range = f"{lowest} to {highest} ({rounds})" if rounds > 1 else ""
    verdict = {True: "met", False: "**missed**", None: ""}[figure.is_met]
    columns = (figure.name, ours, baseline, median if is_ratio else "", value_range, figure.goal, verdict)
    return f"| {' | '.join(columns)} |"


def _format_note(figure: Figure) -> str:
    """What the table leaves out: the note, other details, and why a goal was missed; '' if there is nothing."""
    details = [f"{name} {value}" for name, value in figure.details.items() if name not in {"ours", "baseline"}]
    parts = [figure.note, "; ".join(details)]
    parts.append(f"missed because {figure.miss_reason}" if figure.is_met is False and figure.miss_reason else "")
    text = "; ".join(filter(None, parts))
    return f"- **{figure.name}**: {text}." if text else ""


def _draw_chart(figures: Sequence[Figure]) -> str:
    """Bars of each figure relative to its goal: the goal is met if the bar reaches the line."""
    height = LINE_HEIGHT * (len(figures) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number, figure in enumerate(figures):
        top, bar_height = LINE_HEIGHT * number + 6, LINE_HEIGHT - 9
        share, *ends = (
            min(_share_of_goal(figure, value), MAX_SHARE) / MAX_SHARE for value in (figure.median, *figure.values)
        )
        colour = "#2e7d5b" if figure.is_met else "#b3452c"
        label = escape(shorten(figure.name.replace("`", ""), 66, placeholder=" …"))
        parts.append(f'<text x="{LABEL_WIDTH - 8}" y="{top + 13}" text-anchor="end">{label}</text>')
        bar_width = f"{BAR_WIDTH * share:.1f}"
        parts.append(f'<rect x="{LABEL_WIDTH}" y="{top}" width="{bar_width}" height="{bar_height}" fill="{colour}"/>')
        middle = top + bar_height / 2
        low, high = LABEL_WIDTH + BAR_WIDTH * min(ends), LABEL_WIDTH + BAR_WIDTH * max(ends)
        parts.append(
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#222" stroke-width="2"/>'
        )
    goal = LABEL_WIDTH + BAR_WIDTH / MAX_SHARE
    parts.append(
        f'<line x1="{goal}" x2="{goal}" y1="0" y2="{height - LINE_HEIGHT + 6}" stroke="#333" stroke-dasharray="4 3"/>'
    )
    legend = "the goal (bars end at twice the goal; dark line: range of the rounds)"
    parts.append(f'<text x="{goal}" y="{height - 6}" text-anchor="middle">{legend}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _share_of_goal(figure: Figure, value: float) -> float:
    """A value relative to the figure's goal, where 1 is the goal and more is better."""
    goal = float(figure.goal.split()[2])
    if figure.goal.startswith("at least"):
        return value / goal
    return goal / value if value > 0 else MAX_SHARE
