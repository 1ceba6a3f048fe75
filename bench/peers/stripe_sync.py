"""`@supabase/stripe-sync-engine`: Stripe's objects into PostgreSQL, one webhook and one upsert at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from store.db.database import conninfo

HERE = Path(__file__).resolve().parent
INSTALL_SECONDS, RUN_SECONDS = 300, 600


class PeerUnavailableError(Exception):
    """The peer cannot be measured here; the message says why."""


def install() -> None:
    """Install the locked packages; raises `PeerUnavailableError` without npm or a reachable registry."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise PeerUnavailableError("the peer needs Node.js with npm")
    completed = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if completed.returncode:
        raise PeerUnavailableError(f"npm could not install the peer: {completed.stderr.strip()[-200:]}")


def rate(benchmark: str, *counts: int) -> float:
    """The peer's rate per second for `upserts` (invoices) or `webhooks` (events, invoices), on the current database."""
    command = ["node", "stripe_sync.cjs", benchmark, _database_url(), *map(str, counts)]
    completed = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    if completed.returncode:
        raise PeerUnavailableError(f"the peer failed: {completed.stderr.strip()[-500:]}")
    result = json.loads(completed.stdout.splitlines()[-1])
    return float(result["done"] / result["seconds"])


def _database_url() -> str:
    """The database URL as node-postgres reads it: the directory of the socket is a query parameter."""
    parts = urlsplit(conninfo())
    named = {name: values[0] for name, values in parse_qs(parts.query).items()}
    host, port = named.get("host", parts.hostname or ""), named.get("port", parts.port or 5432)
    return f"postgresql://{parts.username or 'postgres'}@localhost:{port}{parts.path}?host={quote(str(host), safe='')}"
