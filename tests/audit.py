"""Known vulnerabilities of what the lock names, by pip-audit: `make audit`, and part of `make check`.

What pip-audit cannot see, the programs within packages, is named with its version for a person to compare.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests import inventory

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120
VULNERABLE, NOT_AUDITED = 1, 3


def main(*options: str) -> int:
    """Ask; the exit code is 0 when nothing is known, 1 when something is, 3 when nobody answers.

    With `--may-be-offline` it is 0 when nobody answers, too: the last line says that nothing was audited.
    """
    words = [sys.executable, "-m", "pip_audit", "-r", "requirements.lock", "--disable-pip", "--require-hashes"]
    words += ["--progress-spinner", "off", "--timeout", "10", "--format", "json"]
    programs = ", ".join(f"{program.name} {program.version}" for program in inventory.programs())
    print(f"not seen by pip-audit, compare with their makers' advisories: {programs}")
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print("NOT AUDITED: nobody answered who knows of vulnerabilities; run `make audit` where somebody does")
        return 0 if "--may-be-offline" in options else NOT_AUDITED
    found = [(package, known) for package in packages for known in package.get("vulns", ())]
    for package, known in found:
        fixed = ", ".join(known["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {known['id']}, fixed in {fixed}")
    print(f"audit {'failed' if found else 'ok'}: {len(packages)} packages, {len(found)} vulnerabilities")
    return VULNERABLE if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
