"""`make bench`: measures everything, writes docs/performance.md. `ARGS="--only reads --rounds 5 --json out.json"`.

A part that failed is measured again by itself: with the file of the run that it is missing from, the page is whole.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import page, stage
from bench.figures import Figure
from tests import databases

FATES = {True: "met   ", False: "MISSED", None: "      "}
PART_SECONDS = 3_600


def main() -> int:
    """Measure; the last line says how it went. Exit 1 when a part could not be measured, 0 whether goals were met or
    not: the page says which."""
    stage.settle_settings()
    from bench.measures import MEASURES

    reader = argparse.ArgumentParser(prog="make bench", description=__doc__)
    told = "a part; the page is of all parts, and written when --json has them"
    reader.add_argument("--only", choices=list(MEASURES), action="append", help=told)
    reader.add_argument("--rounds", type=int, default=5)
    reader.add_argument("--json", type=Path, help="a file for the figures, for machines")
    chosen = reader.parse_args()
    names = chosen.only or list(MEASURES)
    if len(names) == 1:
        title, measure = MEASURES[names[0]]
        databases.make_template()
        print(f"{title} …", file=sys.stderr, flush=True)
        sections = [(title, measure(chosen.rounds))]
        for one in sections[0][1]:
            print(f"  {FATES[one.met]} {one.what}: {one.middle:.3g} {one.unit} ({one.goal or 'no goal'})", flush=True)
    else:
        sections = [section for name in names for section in _apart(name, chosen.rounds)]
    whole = dict(sections)
    if chosen.json:
        whole = {**(_kept(chosen.json) if chosen.only else {}), **whole}
        figures = {title: [vars(one) for one in found] for title, found in whole.items()}
        chosen.json.write_text(json.dumps(figures, indent=1))
    titles = [title for title, _ in MEASURES.values()]
    if whole.keys() >= set(titles):
        command = f'make bench ARGS="--rounds {chosen.rounds}"'
        print(f"written: {page.write([(title, whole[title]) for title in titles], command).name}")
    everything = [one for _, found in sections for one in found]
    goals = [one for one in everything if one.goal]
    well = "ok" if len(sections) == len(names) else f"failed in {len(names) - len(sections)} of {len(names)} parts"
    print(f"bench {well}: {len(everything)} figures, {sum(one.met is True for one in goals)} of {len(goals)} goals met")
    return 0 if well == "ok" else 1


def _apart(name: str, rounds: int) -> list[tuple[str, list[Figure]]]:
    """A part measured by a process of its own, so that no part finds what another one left; [] when it failed."""
    with tempfile.NamedTemporaryFile(suffix=".json") as kept:
        words = ["--only", name, "--rounds", str(rounds), "--json", kept.name]
        done = subprocess.run([sys.executable, "-m", "bench", *words], timeout=PART_SECONDS, check=False)
        if done.returncode:
            return []
        return list(_kept(Path(kept.name)).items())


def _kept(path: Path) -> dict[str, list[Figure]]:
    """The figures in a file, by their part's title; none where there is no such file yet."""
    told = json.loads(path.read_text() or "{}") if path.exists() else {}
    return {
        title: [Figure(**{**one, "values": tuple(one["values"])}) for one in found] for title, found in told.items()
    }


if __name__ == "__main__":
    sys.exit(main())
