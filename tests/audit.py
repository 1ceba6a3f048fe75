"""Known vulnerabilities of what the lock names, by pip-audit: part of `make check`, where a registry answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120


def main() -> int:
    """Ask; the exit code is 1 when something is known, 0 when nothing is or nobody answers."""
    words = [sys.executable, "-m", "pip_audit", "-r", "requirements.lock", "--disable-pip", "--require-hashes"]
    words += ["--progress-spinner", "off", "--timeout", "10", "--format", "json"]
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
        told = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        print("audit skipped: no registry answers")
        return 0
    found = [(one, bad) for one in told["dependencies"] for bad in one.get("vulns", ())]
    for one, bad in found:
        print(
            f"{one['name']} {one['version']}: {bad['id']}, mended in {', '.join(bad['fix_versions']) or 'no version'}"
        )
    print(f"audit {'failed' if found else 'ok'}: {len(told['dependencies'])} packages, {len(found)} vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
