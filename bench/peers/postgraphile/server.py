"""PostGraphile, which serves the same reads from the same table as Patina.

The login role assumes Patina's role for reads, which sees the rows of one account by row-level security, as
PostGraphile's documentation shows it. Unlike Patina it is given the account, and looks up no API key.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench import load
from bench.peers import npm, peer
from bench.peers.peer import PeerUnavailableError
from store.db.roles import Role
from tests.chaos import free_port
from tests.support import databases
from tests.support.serving import wait_until

HERE = Path(__file__).resolve().parent
PATH, START_SECONDS = "/graphql", 60
# It needs a newer Node.js than many systems have, so the lock brings one along, on Linux.
LOCKED_NODE = HERE / "node_modules" / ".bin" / "node"


@contextmanager
def run(account_id: int) -> Iterator[str]:
    """Run PostGraphile on the current database; yields its URL. Raises `PeerUnavailableError` if it does not start."""
    npm.install(HERE)
    port = free_port()
    role = databases.role_name(Role.READS)
    node = str(LOCKED_NODE) if LOCKED_NODE.exists() else "node"
    production = {"NODE_ENV": "production", "GRAPHILE_ENV": "production"}
    process = subprocess.Popen(
        [node, "server.cjs", str(port), peer.database_url(), role, str(account_id)],
        cwd=HERE,
        env={**os.environ, **production},
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(
            lambda: process.poll() is not None or _listens(url), seconds=START_SECONDS, description="start of the peer"
        )
        if process.poll() is not None:
            raise PeerUnavailableError("PostGraphile did not start")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _listens(url: str) -> bool:
    try:
        httpx.get(url, trust_env=False, timeout=5)
    except httpx.TransportError:
        return False
    return True


def _body(account_id: int, record_type: str, record_id: int, limit: int) -> bytes:
    variables = {"account": str(account_id), "type": record_type, "record": str(record_id), "limit": limit}
    return json.dumps({"documentId": "invoices", "variables": variables}).encode()


def build_request(account_id: int, record_type: str, record_id: int, limit: int) -> bytes:
    """A request for the first page of a record's invoices, for the load."""
    headers = {"content-type": "application/json", "accept": "application/json"}
    return load.build_request("POST", PATH, headers, _body(account_id, record_type, record_id, limit))


def read_invoices(url: str, account_id: int, record_type: str, record_id: int, limit: int) -> list[dict[str, Any]]:
    """The first page of a record's invoices."""
    response = httpx.post(
        f"{url}{PATH}",
        content=_body(account_id, record_type, record_id, limit),
        headers={"content-type": "application/json", "accept": "application/json"},
        trust_env=False,
        timeout=30,
    )
    payload = response.json()
    if "errors" in payload:
        raise PeerUnavailableError(f"PostGraphile refused the read: {payload['errors'][0]['message']}")
    nodes: list[dict[str, Any]] = payload["data"]["allRecordInvoices"]["nodes"]
    return nodes
