"""Peers that are npm packages: installed from a lock with names, versions and hashes, which names no registry."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from store.db.database import conninfo

SUPERUSER = "postgres"
INSTALL_SECONDS = 300


class PeerUnavailableError(Exception):
    """The peer cannot be measured here; the message says why."""


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


def database_url(user: str = "") -> str:
    """The database URL as node-postgres reads it, by default with our own user.

    The directory of the socket is a query parameter.
    """
    parts = urlsplit(conninfo())
    named = {name: values[0] for name, values in parse_qs(parts.query).items()}
    host, port = named.get("host", parts.hostname or ""), named.get("port", parts.port or 5432)
    user = user or parts.username or SUPERUSER
    return f"postgresql://{user}@localhost:{port}{parts.path}?host={quote(str(host), safe='')}"
