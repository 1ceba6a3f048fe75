"""Check the locked packages for known vulnerabilities with pip-audit: `make audit`, and part of `make check`.

The programs bundled in packages, which pip-audit does not know, are listed with their versions for a manual check.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from scripts import inventory

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 120
VULNERABLE, NOT_AUDITED = 1, 3


def main(*options: str) -> int:
    """Returns the exit code: 0 without vulnerabilities, 1 with some, 3 if the audit was not possible.

    With `--may-be-offline` it is 0 also if the audit was not possible; the last line of the output says so.
    """
    arguments = [sys.executable, "-m", "pip_audit", "-r", "requirements.lock", "--disable-pip", "--require-hashes"]
    arguments += ["--progress-spinner", "off", "--timeout", "10", "--format", "json"]
    programs = ", ".join(f"{program.name} {program.version}" for program in inventory.list_programs())
    print(f"not covered by pip-audit, check the vendors' advisories: {programs}")
    try:
        completed = subprocess.run(
            arguments, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
        packages = json.loads(completed.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print("NOT AUDITED: the vulnerability service did not respond; run `make audit` again where it is reachable")
        return 0 if "--may-be-offline" in options else NOT_AUDITED
    vulnerabilities = [(package, vulnerability) for package in packages for vulnerability in package.get("vulns", ())]
    for package, vulnerability in vulnerabilities:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    verdict = "failed" if vulnerabilities else "ok"
    print(f"audit {verdict}: {len(packages)} packages, {len(vulnerabilities)} vulnerabilities")
    return VULNERABLE if vulnerabilities else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
