"""`make bench` runs all measurements and writes docs/performance.md. `ARGS="--only reads --rounds 5 --json out.json"`.

A part can be measured again with `--only` and the JSON file of a run: the report then has all parts of that file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from bench import environment, report
from bench.figures import Figure, measure_all_rounds, timed
from tests.support import databases

VERDICTS = {True: "met   ", False: "MISSED", None: "      "}
PART_TIMEOUT_SECONDS = 1_800


def main() -> int:
    """Measure; the last line is a summary. Exits with 1 if a part could not be measured.

    Missed goals do not change the exit code: the report names them.
    """
    environment.apply_settings()
    # Imported after the settings are applied, because the import connects to Redis.
    from bench import fleet, memory
    from bench.measures import MEASURES

    options = _parse_options(list(MEASURES))
    names = options.only or list(MEASURES)
    if options.all_rounds:
        measure_all_rounds()
    figures_by_title = _load(options.json) if options.json and options.only else {}
    if len(names) == 1:
        title, measure = MEASURES[names[0]]
        if options.accounts and names == ["fleet"]:
            measure = partial(fleet.measure, accounts=options.accounts)
        if options.load_seconds and names == ["memory"]:
            measure = partial(memory.measure, load_seconds=options.load_seconds)
        databases.make_template()
        print(f"{title} …", file=sys.stderr, flush=True)
        with timed() as timer:
            figures = measure(options.rounds)
        _print(figures, timer.seconds)
        parts: Iterable[list[tuple[str, list[Figure]]]] = [[(title, figures)]]
    else:
        parts = (_measure_in_subprocess(name, options) for name in names)
    sections = []
    for part in parts:
        sections += part
        figures_by_title.update(part)
        # After each part, because an interruption should cost that part only.
        _save(options.json, figures_by_title)
    titles = [title for title, _ in MEASURES.values()]
    missing = [title for title in titles if title not in figures_by_title]
    if not options.no_report and (options.json or not missing):
        command = f'make bench ARGS="--rounds {options.rounds}"'
        measured_sections = [(title, figures_by_title[title]) for title in titles if title not in missing]
        path = report.write(measured_sections, command, missing)
        print(f"written: {path.name}")
    measured = [figure for _, figures in sections for figure in figures]
    with_goal = [figure for figure in measured if figure.goal]
    failed = len(names) - len(sections)
    verdict = f"failed in {failed} of {len(names)} parts" if failed else "ok"
    met = sum(figure.is_met is True for figure in with_goal)
    print(f"bench {verdict}: {len(measured)} figures, {met} of {len(with_goal)} goals met")
    return 1 if failed else 0


def _print(figures: list[Figure], seconds: float) -> None:
    for figure in figures:
        verdict, goal = VERDICTS[figure.is_met], figure.goal or "no goal"
        print(f"  {verdict} {figure.name}: {figure.median:.3g} {figure.unit} ({goal})", flush=True)
    print(f"  measured in {seconds / 60:.1f} min", flush=True)


def _parse_options(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    only_help = "measure this part only; with --json it is added to the report"
    parser.add_argument("--only", choices=names, action="append", help=only_help)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--all-rounds", action="store_true", help="measure all rounds, however long they take")
    parser.add_argument("--accounts", type=int, help="accounts of the part fleet, if measured alone; few to try it")
    parser.add_argument("--load-seconds", type=float, help="load of the part memory, if measured alone; 3600: an hour")
    parser.add_argument("--json", type=Path, help="file for the figures as JSON")
    parser.add_argument("--no-report", action="store_true", help="leave docs/performance.md as it is")
    return parser.parse_args()


def _measure_in_subprocess(name: str, options: argparse.Namespace) -> list[tuple[str, list[Figure]]]:
    """Measure a part in a process of its own, so that parts do not affect each other; [] if it failed."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        arguments = ["--only", name, "--rounds", str(options.rounds), "--json", file.name, "--no-report"]
        arguments += ["--all-rounds"] if options.all_rounds else []
        completed = subprocess.run(
            [sys.executable, "-m", "bench", *arguments], timeout=PART_TIMEOUT_SECONDS, check=False
        )
        if completed.returncode:
            return []
        return list(_load(Path(file.name)).items())


def _save(path: Path | None, figures_by_title: dict[str, list[Figure]]) -> None:
    if path is not None:
        rows = {title: [vars(figure) for figure in figures] for title, figures in figures_by_title.items()}
        path.write_text(json.dumps(rows, indent=1))


def _load(path: Path) -> dict[str, list[Figure]]:
    """The figures of a JSON file by their part's title; {} if the file does not exist."""
    payload = json.loads(path.read_text() or "{}") if path.exists() else {}
    return {
        title: [Figure(**{**figure, "values": tuple(figure["values"])}) for figure in figures]
        for title, figures in payload.items()
    }


if __name__ == "__main__":
    sys.exit(main())
