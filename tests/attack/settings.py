"""The settings of an installation under attack, in force before anything else is imported."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from runtime.settings import override
from sandbox import server
from tests.chaos import ROOT, free_port

HOME = ROOT / ".patina" / "attack"
API_MINUTE_LIMIT = 1_500
# The name that the documented configuration of nginx has.
HOST = "patina.example.com"


@contextmanager
def only_one() -> Iterator[None]:
    """Keep a second run in the same working copy out until the block ends."""
    HOME.parent.mkdir(parents=True, exist_ok=True)
    with HOME.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("attack: another run is at work in this folder; wait until it has ended") from None
        yield


def settle() -> None:
    """Begin with an empty folder, and the settings of an ordinary installation of which nothing is due meanwhile."""
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    web, vendors = free_port(), free_port()
    values = {
        **server.environment(f"http://127.0.0.1:{vendors}"),
        # The sandbox lets everybody in; here strangers are to need an invitation.
        "COPPER_ACCOUNTS": "",
        "ALLOWED_HOSTS": HOST,
        "PATINA_HOME": str(HOME),
        "EMBEDDED_SERVICES": "true",
        "DATABASE_URL": "",
        "REDIS_URL": "",
        "REDIS_NAMESPACE": "attack",
        "PORT": str(web),
        "PUBLIC_URL": f"http://127.0.0.1:{web}",
        "WORKER_PROCESSES": "1",
        "WORKER_THREADS": "4",
        "CONNECT_TIMEOUT": "5",
        "READ_TIMEOUT": "30",
        "SWEEP_SECONDS": "1",
        "CATCH_UP_SECONDS": "86400",
        "RECONCILE_HOUR": str((datetime.now(UTC).hour + 12) % 24),
        "ROTATION_SECONDS": "86400",
        "HISTORY_CALLS": "0",
        # The vendors' minute is two seconds here: no attack is to wait for it.
        "LIMIT_WINDOW_SECONDS": "2",
        "COPPER_MINUTE_LIMIT": "5000",
        "XERO_MINUTE_LIMIT": "1000",
        "API_MINUTE_LIMIT": str(API_MINUTE_LIMIT),
        # nginx is the one proxy; every other client of an attack has an address of its own.
        "TRUSTED_PROXIES": "127.0.0.1",
        "METRICS_TOKEN": "the-token-of-the-attack",
        "LOG_LEVEL": "info",
        "LOG_FORMAT": "json",
    }
    override(values)
