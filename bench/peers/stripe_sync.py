"""`@supabase/stripe-sync-engine`: Stripe's objects into PostgreSQL, one webhook and one upsert at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from store.database import conninfo

HERE = Path(__file__).resolve().parent
INSTALL_SECONDS, RUN_SECONDS = 300, 600


class NoPeerError(Exception):
    """The peer cannot be measured here; the text says why."""


def install() -> None:
    """Install what the lock names; raises `NoPeerError` without npm, or where no registry answers."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise NoPeerError("the peer needs Node.js with npm, and neither is here")
    told = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if told.returncode:
        raise NoPeerError(f"npm could not install the peer: {told.stderr.strip()[-200:]}")


def rate(what: str, *counts: int) -> float:
    """How many a second of `upserts` (invoices) or `webhooks` (events, on so many invoices), on this process's
    database."""
    command = ["node", "stripe_sync.cjs", what, _address(), *map(str, counts)]
    told = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    if told.returncode:
        raise NoPeerError(f"the peer failed: {told.stderr.strip()[-500:]}")
    found = json.loads(told.stdout.splitlines()[-1])
    return float(found["done"] / found["seconds"])


def _address() -> str:
    """The database as node-postgres reads it: the folder of the socket is a parameter there as well."""
    parts = urlsplit(conninfo())
    named = {name: values[0] for name, values in parse_qs(parts.query).items()}
    host, port = named.get("host", parts.hostname or ""), named.get("port", parts.port or 5432)
    return f"postgresql://{parts.username or 'postgres'}@localhost:{port}{parts.path}?host={quote(str(host), safe='')}"
