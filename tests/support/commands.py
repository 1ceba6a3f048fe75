"""Running `patina` commands, each in a process of its own that is forked from one with all modules imported.

Importing the modules takes longer than most commands. It has no effects (`tests/unit/test_imports.py`), so a forked
process behaves like a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

from cli import main
from runtime.settings import settings
from tests.support.processes import ROOT

TIMEOUT_SECONDS = 60
# Dramatiq reads environment variables when it is imported, so a worker must be a new process.
NOT_FORKED = "worker"


def patina(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with this test's settings, and with `environment`."""
    variables = {**os.environ, **environment}
    if NOT_FORKED in arguments:
        return _run_new(arguments, variables)
    return _run_forked(arguments, variables)


def _run_new(arguments: tuple[str, ...], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def _run_forked(arguments: tuple[str, ...], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        output, error = Path(folder) / "stdout", Path(folder) / "stderr"
        process = _context().Process(target=_main, args=(arguments, dict(environment), str(output), str(error)))
        process.start()
        process.join(TIMEOUT_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, TIMEOUT_SECONDS)
        return subprocess.CompletedProcess(arguments, process.exitcode, output.read_text(), error.read_text())


@lru_cache(maxsize=1)
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.command_modules"])
    return context


def _main(arguments: tuple[str, ...], environment: dict[str, str], output: str, error: str) -> None:
    """Run in the forked process: the command, with its own environment, output and arguments."""
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    settings.clear()
    for path, stream in ((output, 1), (error, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.argv = ["patina", *arguments]
    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
