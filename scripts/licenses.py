"""The licenses of all locked packages, by pip-licenses: `make licenses` writes docs/licenses.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from scripts import inventory

ROOT = Path(__file__).resolve().parent.parent
# Licenses that must not be combined with proprietary code; the LGPL of Dramatiq and psycopg may.
FORBIDDEN = re.compile(r"AGPL|Affero|(?<!L)GPL(?!.*exception)|GNU General Public", re.IGNORECASE)

# Only stated in the package's license file.
OVERRIDES = {"axe-playwright-python": "MIT (with axe-core: MPL-2.0)"}


def list_locked_packages() -> list[str]:
    """The locked packages that are installed; the others are for other platforms."""
    names = re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    return [name for name in names if _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return distribution(name) is not None
    except PackageNotFoundError:
        return False


def get_licenses() -> dict[str, str]:
    """The license of each locked package."""
    arguments = [sys.executable, "-m", "piplicenses", "--format", "json", "--with-system", "--from", "mixed"]
    completed = subprocess.run(
        [*arguments, "--packages", *list_locked_packages()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=ROOT,
    )
    licenses_by_package = {
        _normalise(package["Name"]): " ".join(package["License"].split()) for package in json.loads(completed.stdout)
    }
    return {
        name: (OVERRIDES.get(name) or licenses_by_package.get(_normalise(name), "UNKNOWN"))[:80]
        for name in list_locked_packages()
    }


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.lower())


def main() -> None:
    """Print the page."""
    print("# Licenses\n")
    print("Of all packages in `requirements.lock`, as the packages declare them. Written by `make licenses`.\n")
    print("| package | license |\n|---|---|")
    for name, license in get_licenses().items():
        print(f"| {name} | {license.replace('|', '/')} |")
    print("\n## Programs bundled in packages\n")
    print("Package metadata does not list these; each reported its own version.\n")
    print("| program | version | license | package |\n|---|---|---|---|")
    for program in inventory.list_programs():
        print(f"| {program.name} | {program.version} | {program.license} | {program.package} |")


if __name__ == "__main__":
    main()
