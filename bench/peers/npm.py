"""Peers that are npm packages: installed from a lock with names, versions and hashes, which names no registry."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bench.peers.peer import PeerUnavailableError

INSTALL_SECONDS = 300


def install(folder: Path) -> None:
    """Install the packages of a folder's lock; raises `PeerUnavailableError` without npm or a reachable registry."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise PeerUnavailableError("the peer needs Node.js with npm")
    try:
        completed = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PeerUnavailableError(f"npm did not install the peer within {INSTALL_SECONDS} s") from None
    if completed.returncode:
        raise PeerUnavailableError(f"npm could not install the peer: {completed.stderr.strip()[-200:]}")
