"""The licences of everything in the lock, as pip-licenses reads them: `make licences` writes docs/licences.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tests import inventory

ROOT = Path(__file__).resolve().parent.parent
# What may not be combined with closed work at all; the LGPL of Dramatiq and psycopg may.
REFUSED = re.compile(r"AGPL|Affero|(?<!L)GPL(?!.*exception)|GNU General Public", re.IGNORECASE)

# Stated in the package's licence file alone.
READ = {"axe-playwright-python": "MIT (with axe-core: MPL-2.0)"}


def locked() -> list[str]:
    """Names in the lock that are installed here; others are for other platforms."""
    names = re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    return [name for name in names if _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return distribution(name) is not None
    except PackageNotFoundError:
        return False


def licences() -> dict[str, str]:
    """The licence of each of them."""
    words = [sys.executable, "-m", "piplicenses", "--format", "json", "--with-system", "--from", "mixed"]
    done = subprocess.run(
        [*words, "--packages", *locked()], capture_output=True, text=True, timeout=120, check=True, cwd=ROOT
    )
    found = {_key(one["Name"]): " ".join(one["License"].split()) for one in json.loads(done.stdout)}
    return {name: (READ.get(name) or found.get(_key(name), "UNKNOWN"))[:80] for name in locked()}


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.lower())


def main() -> None:
    """Print the page."""
    print("# Licences\n")
    print("Of everything in `requirements.lock`, as the packages state them. Written by `make licences`.\n")
    print("| package | licence |\n|---|---|")
    for name, licence in licences().items():
        print(f"| {name} | {licence.replace('|', '/')} |")
    print("\n## Programs within packages\n")
    print("No list of packages names these, so each was asked for its version.\n")
    print("| program | version | licence | within the package |\n|---|---|---|---|")
    for program in inventory.programs():
        print(f"| {program.name} | {program.version} | {program.licence} | {program.package} |")


if __name__ == "__main__":
    main()
