"""Processes that tests start: Patina's commands, and their termination."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

Processes = list[subprocess.Popen[bytes]]
ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 3.0


def patina(
    *arguments: str, environment: dict[str, str] | None = None, stderr: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start a `patina` command with this test's settings; a worker has one process unless the test sets more."""
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT,
        env={"WORKER_PROCESSES": "1", **os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=stderr,
    )


def terminate(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Terminate processes, all at once; kill those that still run after `STOP_SECONDS`, with their children."""
    for process in processes:
        process.terminate()
    _, running = psutil.wait_procs(
        [psutil.Process(process.pid) for process in processes if process.poll() is None], STOP_SECONDS
    )
    for parent in running:
        for member in (*parent.children(recursive=True), parent):
            with suppress(psutil.NoSuchProcess):
                member.kill()
    for process in processes:
        process.wait()
