"""`@supabase/stripe-sync-engine`: Stripe's objects into PostgreSQL, one webhook and one upsert at a time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bench.peers import npm, peer
from bench.peers.peer import PeerUnavailableError

HERE = Path(__file__).resolve().parent
RUN_SECONDS = 600


def install() -> None:
    """Install the locked packages; raises `PeerUnavailableError` without npm or a reachable registry."""
    npm.install(HERE)


def rate(benchmark: str, *counts: int) -> float:
    """The peer's rate per second for `upserts` (invoices) or `webhooks` (events, invoices), on the current database."""
    # Its migrations make objects the superuser's.
    url = peer.database_url(peer.SUPERUSER)
    command = ["node", "stripe_sync.cjs", benchmark, url, *map(str, counts)]
    completed = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    if completed.returncode:
        raise PeerUnavailableError(f"the peer failed: {completed.stderr.strip()[-500:]}")
    result = json.loads(completed.stdout.splitlines()[-1])
    return float(result["done"] / result["seconds"])
