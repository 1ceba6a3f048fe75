"""Installs the clients: the Python ones in a separate environment, because their pins differ from ours, and npm ones.

Both are installed once, under `.patina/clients`, from locks with hashes and without addresses.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
HOME = HERE.parent.parent / ".patina" / "clients"
INSTALL_SECONDS, RUN_SECONDS = 600, 120


def run(command: list[str], *, seconds: float, cwd: Path = HERE) -> str:
    """Run a command and return its output; fails the test with the end of its stderr."""
    completed = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=False)
    assert completed.returncode == 0, f"{' '.join(command[:4])}: {completed.stderr.strip()[-2_000:]}"
    return completed.stdout


def installed(name: str, made_from: bytes, install: Callable[[Path], None]) -> Path:
    """A folder that `install` fills once for all test processes, and again when its sources change."""
    folder = HOME / f"{name}-{hashlib.sha256(made_from).hexdigest()[:12]}"
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            install(folder)
            (folder / "complete").touch()
    return folder


def python() -> str:
    """The Python interpreter of the clients' environment."""
    lock = HERE / "requirements.lock"

    def install(folder: Path) -> None:
        run([sys.executable, "-m", "venv", str(folder)], seconds=INSTALL_SECONDS)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, "--require-hashes", "-r", str(lock)], seconds=INSTALL_SECONDS)

    return str(installed("python", sys.version.encode() + lock.read_bytes(), install) / "bin" / "python")


def drive(driver: str, **values: Any) -> dict[str, Any]:
    """Run a driver and return its JSON output."""
    command = [python(), str(HERE / f"{driver}_driver.py"), json.dumps(values)]
    payload: dict[str, Any] = json.loads(run(command, seconds=RUN_SECONDS).splitlines()[-1])
    return payload


def node_modules(folder_name: str) -> Path:
    """The modules in the lock of `tests/clients/{folder_name}`; the test is skipped without Node.js."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("Node.js with npm is not here")
    source = HERE / folder_name

    def install(folder: Path) -> None:
        folder.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(source / name, folder)
        run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"],
            seconds=INSTALL_SECONDS,
            cwd=folder,
        )

    return installed(folder_name, (source / "package-lock.json").read_bytes(), install) / "node_modules"
