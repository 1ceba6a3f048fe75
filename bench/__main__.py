"""`make bench`: measures everything, writes docs/performance.md. `ARGS="--only reads --rounds 5 --json out.json"`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench import page, stage
from bench.figures import Figure
from tests import databases

FATES = {True: "met   ", False: "MISSED", None: "      "}


def main() -> int:
    """Measure; the last line says how it went. Exit 0 whether goals were met or not: the page says which."""
    stage.settle_settings()
    from bench.measures import MEASURES

    reader = argparse.ArgumentParser(prog="make bench", description=__doc__)
    reader.add_argument("--only", choices=list(MEASURES), action="append", help="a part; the page is left as it is")
    reader.add_argument("--rounds", type=int, default=5)
    reader.add_argument("--json", type=Path, help="a file for the figures, for machines")
    chosen = reader.parse_args()
    databases.make_template()
    sections: list[tuple[str, list[Figure]]] = []
    for name in chosen.only or list(MEASURES):
        title, measure = MEASURES[name]
        print(f"{title} …", file=sys.stderr, flush=True)
        found = measure(chosen.rounds)
        sections.append((title, found))
        for one in found:
            print(
                f"  {FATES[one.met]} {one.what}: {one.middle:.3g} {one.unit} ({one.goal or 'no goal'})",
                flush=True,
            )
    if chosen.json:
        told = {title: [vars(one) for one in found] for title, found in sections}
        chosen.json.write_text(json.dumps(told, indent=1))
    if not chosen.only:
        command = f'make bench ARGS="--rounds {chosen.rounds}"'
        print(f"written: {page.write(sections, command).name}")
    everything = [one for _, found in sections for one in found]
    goals = [one for one in everything if one.goal]
    print(f"bench ok: {len(everything)} figures, {sum(one.met is True for one in goals)} of {len(goals)} goals met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
