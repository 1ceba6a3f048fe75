"""Starting: the command line, and the web process until it answers."""

from __future__ import annotations

import subprocess
import sys
import time

from bench import stage
from bench.figures import Figure, at_most, timed

GOAL_HELP, GOAL_WEB = 1.5, 4.0


def _seconds(*words: str) -> float:
    with timed() as clock:
        subprocess.run([sys.executable, *words], cwd=stage.ROOT, check=True, capture_output=True, timeout=60)
    return clock.seconds


def measure(rounds: int) -> list[Figure]:
    """Each against importing the two libraries that nothing here could do without."""
    helps, webs = [], []
    with stage.database():
        _seconds("-m", "cli", "--help")
        for _ in range(rounds):
            libraries = _seconds("-c", "import fastapi, sqlmodel")
            helps.append(_seconds("-m", "cli", "--help") / libraries)
            webs.append(_web_ready() / libraries)
    yardstick = "importing fastapi and sqlmodel"
    return [
        at_most("`patina --help`", helps, GOAL_HELP, "times", yardstick=yardstick),
        at_most("the web process, until it answers", webs, GOAL_WEB, "times", yardstick=yardstick),
    ]


def _web_ready() -> float:
    """Seconds from the start of the process to its first answer."""
    began = time.perf_counter()
    with stage.web("cli", "web"):
        return time.perf_counter() - began
