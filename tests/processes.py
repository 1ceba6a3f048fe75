"""Processes that tests start: Patina's commands, and an end for all that was started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

Processes = list[subprocess.Popen[bytes]]
ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS = 3.0


def patina(
    *words: str, environment: dict[str, str] | None = None, stderr: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start a `patina` command with this test's settings; a worker is one process where the test does not say more."""
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *words],
        cwd=ROOT,
        env={"WORKER_PROCESSES": "1", **os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=stderr,
    )


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, all at once; those that are still there after a while are killed, and their children."""
    for one in processes:
        one.terminate()
    _, left = psutil.wait_procs([psutil.Process(one.pid) for one in processes if one.poll() is None], STOP_SECONDS)
    for parent in left:
        for each in (*parent.children(recursive=True), parent):
            with suppress(psutil.NoSuchProcess):
                each.kill()
    for one in processes:
        one.wait()
