"""Start-up time of the command line and the web process."""

from __future__ import annotations

import subprocess
import sys
import time

from bench import environment
from bench.figures import Figure, at_most, timed

GOAL_HELP, GOAL_WEB = 1.5, 4.0


def _run_seconds(*arguments: str) -> float:
    with timed() as timer:
        subprocess.run([sys.executable, *arguments], cwd=environment.ROOT, check=True, capture_output=True, timeout=60)
    return timer.seconds


def measure(rounds: int) -> list[Figure]:
    """Relative to importing the two libraries that everything needs."""
    help_ratios, web_ratios = [], []
    with environment.populated_database():
        _run_seconds("-m", "cli", "--help")
        for _ in range(rounds):
            libraries = _run_seconds("-c", "import fastapi, sqlmodel")
            help_ratios.append(_run_seconds("-m", "cli", "--help") / libraries)
            web_ratios.append(_web_seconds() / libraries)
    baseline = "importing fastapi and sqlmodel"
    return [
        at_most("`patina --help`", help_ratios, GOAL_HELP, "times", baseline=baseline),
        at_most("the web process, until it responds", web_ratios, GOAL_WEB, "times", baseline=baseline),
    ]


def _web_seconds() -> float:
    """Seconds from the start of the process to its first response."""
    started = time.perf_counter()
    with environment.start_web("cli", "web"):
        return time.perf_counter() - started
