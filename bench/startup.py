"""Start-up: the time until a process responds, what its imports take, and the size of what is installed."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter

from bench import environment, sizes
from bench.figures import Figure, ratio_at_most, timed

GOAL_HELP, GOAL_WEB = 1.5, 4.0
LIBRARIES = "importing fastapi and sqlmodel"
# What each process imports, as `python -c` runs it.
IMPORTS = {
    "`patina --help`": "import cli.root; cli.root.app(['--help'], standalone_mode=False)",
    "the web process": "import cli.root, cli.web, runtime.embedded",
    "a worker": "import cli.root, cli.worker, runtime.embedded; cli.worker._import_jobs()",
    "the scheduler": "import cli.root, cli.scheduler, runtime.embedded",
}
IMPORT_LINE = re.compile(r"^import time: +(\d+) \| +\d+ \| +([\w.]+)$", re.MULTILINE)
LISTED_PACKAGES = 5


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=environment.ROOT, check=True, capture_output=True, text=True, timeout=60
    )


def _run_seconds(*arguments: str) -> float:
    with timed() as timer:
        _run(*arguments)
    return timer.seconds


def measure(rounds: int) -> list[Figure]:
    """Start-up times relative to importing the two libraries that everything needs; then what they consist of."""
    library_seconds, help_seconds, web_seconds = [], [], []
    with environment.populated_database():
        _run_seconds("-m", "cli", "--help")
        for _ in range(rounds):
            library_seconds.append(_run_seconds("-c", "import fastapi, sqlmodel"))
            help_seconds.append(_run_seconds("-m", "cli", "--help"))
            web_seconds.append(_web_seconds())
    return [
        ratio_at_most("`patina --help`", help_seconds, library_seconds, "s", GOAL_HELP, LIBRARIES),
        ratio_at_most("the web process, until it responds", web_seconds, library_seconds, "s", GOAL_WEB, LIBRARIES),
        *(_measure_imports(rounds, name, code) for name, code in IMPORTS.items()),
        *sizes.measure(),
    ]


def _web_seconds() -> float:
    """Seconds from the start of the process to its first response."""
    started = time.perf_counter()
    with environment.start_web("cli", "web"):
        return time.perf_counter() - started


def _measure_imports(rounds: int, name: str, code: str) -> Figure:
    """Milliseconds of the imports of a process; the details name the packages that take the most of them."""
    totals, packages = [], Counter[str]()
    for _ in range(rounds):
        modules = IMPORT_LINE.findall(_run("-X", "importtime", "-c", code).stderr)
        totals.append(sum(int(microseconds) for microseconds, _ in modules) / 1_000)
        for microseconds, module in modules:
            packages[module.partition(".")[0]] += int(microseconds)
    details = {
        package: f"{microseconds / rounds / 1_000:.0f} ms"
        for package, microseconds in packages.most_common(LISTED_PACKAGES)
    }
    return Figure(f"imports of {name}", tuple(totals), "ms", details=details)
