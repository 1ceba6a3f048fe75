"""`make bench` runs all measurements, and writes docs/performance.md and its figures as JSON, docs/performance.json.

With `ARGS="--only reads --rounds 5"` a part is measured alone; the other parts of the page stay as they were measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench import environment, report
from bench.figures import Figure, Part, load_parts, measure_all_rounds, save_parts, timed
from tests.support import databases

VERDICTS = {True: "met   ", False: "MISSED", None: "      "}
PART_TIMEOUT_SECONDS = 1_800


def main() -> int:
    """Measure; the last line is a summary. Exits with 1 if a part could not be measured.

    Missed goals do not change the exit code: the report names them.
    """
    environment.apply_settings()
    # Imported after the settings are applied, because the import connects to Redis.
    from bench.measures import MEASURES

    options = _parse_options(list(MEASURES))
    names = options.only or list(MEASURES)
    titles = [title for title, _ in MEASURES.values()]
    path = options.json or (None if options.no_report else report.FIGURES)
    parts = {part.title: part for part in (load_parts(path) if path else [])}
    measured: list[Part] = []
    for name in names:
        measured += [_measure(name, options)] if len(names) == 1 else _measure_in_subprocess(name, options)
        parts.update({part.title: part for part in measured})
        # After each part, because an interruption should cost that part only.
        if path:
            save_parts(path, [parts[title] for title in titles if title in parts])
    if not options.no_report:
        _write_report(parts, titles)
    figures = [figure for part in measured for figure in part.figures]
    with_goal = [figure for figure in figures if figure.goal]
    failed = len(names) - len(measured)
    verdict = f"failed in {failed} of {len(names)} parts" if failed else "ok"
    met = sum(figure.is_met is True for figure in with_goal)
    print(f"bench {verdict}: {len(figures)} figures, {met} of {len(with_goal)} goals met")
    return 1 if failed else 0


def _write_report(parts: Mapping[str, Part], titles: Sequence[str]) -> None:
    if missing := [title for title in titles if title not in parts]:
        print(f"{report.PAGE.name} stays as it is, because these parts were not measured: {', '.join(missing)}")
        return
    report.write([parts[title] for title in titles])
    print(f"written: {report.PAGE.name}")


def _measure(name: str, options: argparse.Namespace) -> Part:
    from bench import fleet, memory
    from bench.measures import MEASURES

    title, measure = MEASURES[name]
    if options.all_rounds:
        measure_all_rounds()
    if options.accounts and name == "fleet":
        measure = partial(fleet.measure, accounts=options.accounts)
    if options.load_seconds and name == "memory":
        measure = partial(memory.measure, load_seconds=options.load_seconds)
    databases.make_template()
    print(f"{title} …", file=sys.stderr, flush=True)
    with timed() as timer:
        figures = measure(options.rounds)
    _print(figures, timer.seconds)
    return Part(title, f"{datetime.now(UTC):%Y-%m-%d}", round(timer.seconds / 60, 1), tuple(figures))


def _print(figures: list[Figure], seconds: float) -> None:
    for figure in figures:
        verdict, goal = VERDICTS[figure.is_met], figure.goal or "no goal"
        print(f"  {verdict} {figure.name}: {figure.median_text} {figure.unit} ({goal})", flush=True)
    print(f"  measured in {seconds / 60:.1f} min", flush=True)


def _parse_options(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    only_help = "measure this part only, and leave the others of the report as they were measured"
    parser.add_argument("--only", choices=names, action="append", help=only_help)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--all-rounds", action="store_true", help="measure all rounds, however long they take")
    accounts_help = "accounts of the part fleet, if measured alone: few, to try it; leaves the report as it is"
    parser.add_argument("--accounts", type=int, help=accounts_help)
    parser.add_argument("--load-seconds", type=float, help="load of the part memory, if measured alone; 3600: an hour")
    parser.add_argument("--json", type=Path, help="file for the figures as JSON instead of docs/performance.json")
    parser.add_argument(
        "--no-report", action="store_true", help="leave docs/performance.md and its figures as they are"
    )
    options = parser.parse_args()
    options.no_report = options.no_report or options.accounts is not None
    return options


def _measure_in_subprocess(name: str, options: argparse.Namespace) -> list[Part]:
    """Measure a part in a process of its own, so that parts do not affect each other; [] if it failed."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        arguments = ["--only", name, "--rounds", str(options.rounds), "--json", file.name, "--no-report"]
        arguments += ["--all-rounds"] if options.all_rounds else []
        try:
            completed = subprocess.run(
                [sys.executable, "-m", "bench", *arguments], timeout=PART_TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"  {name} took longer than {PART_TIMEOUT_SECONDS} s", flush=True)
            return []
        return [] if completed.returncode else load_parts(Path(file.name))


if __name__ == "__main__":
    sys.exit(main())
