"""`make bench`: measures everything, writes docs/performance.md. `ARGS="--only reads --rounds 5 --json out.json"`."""

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
    reader.add_argument("--only", choices=list(MEASURES), action="append", help="a part; the page is left as it is")
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
    if chosen.json:
        told = {title: [vars(one) for one in found] for title, found in sections}
        chosen.json.write_text(json.dumps(told, indent=1))
    if not chosen.only and len(sections) == len(names):
        command = f'make bench ARGS="--rounds {chosen.rounds}"'
        print(f"written: {page.write(sections, command).name}")
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
        told = json.loads(Path(kept.name).read_text())
    return [
        (title, [Figure(**{**one, "values": tuple(one["values"])}) for one in found]) for title, found in told.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
