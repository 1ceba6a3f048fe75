"""Embedded PostgreSQL and Redis, for evaluation and tests.

`use` starts a server where none runs. It runs under one supervisor process (`runtime.supervisor`), is shared by all
processes, and stops with the last of them. Only commands and tests import this module: the rest of the project asks
`runtime.service_urls`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from runtime.servers import SERVERS, Server
from runtime.settings import settings
from runtime.supervisor import START_SECONDS, STOP_SECONDS, acquire_lock

WATCH_SECONDS = 1.0
_in_use: dict[str, tuple[Server, IO[bytes]]] = {}
_guard = threading.Lock()


class EmbeddedServiceError(Exception):
    """The embedded server did not start; the message says which one, why, and where its log is."""


def use(server_name: str, home: Path | None = None) -> str:
    """The URL of an embedded server, which keeps running for as long as this process lives."""
    folder = (home or settings().patina_home).resolve() / server_name
    with _guard:
        key = str(folder)
        if key not in _in_use:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            server = SERVERS[server_name](folder)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            users = acquire_lock(server.users_lock_file, shared=True, timeout=STOP_SECONDS + 5)
            if users is None:
                raise EmbeddedServiceError(f"the embedded {server_name} in {folder} is still stopping; try again")
            _in_use[key] = (server, users)
            try:
                _ensure_running(server)
            except EmbeddedServiceError:
                _in_use.pop(key)[1].close()
                raise
            threading.Thread(target=_watch, args=(server,), daemon=True, name=f"watch-{server_name}").start()
        return _in_use[key][0].url


def _has_supervisor(server: Server) -> bool:
    probe = acquire_lock(server.supervisor_lock_file, shared=False, timeout=0)
    if probe is None:
        return True
    probe.close()
    return False


def _ensure_running(server: Server) -> None:
    """Spawn a supervisor unless there is one, and wait until the server is ready."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        if not _has_supervisor(server):
            server.failure_file.unlink(missing_ok=True)
            _spawn(server)
        while time.monotonic() < deadline:
            # Another process starts the server: the files that it writes can only be polled.
            time.sleep(0.02)
            if server.failure_file.exists():
                reason = server.failure_file.read_text()
                raise EmbeddedServiceError(f"the embedded {server.name} did not start: {reason}. Its log: {server.log}")
            if not _has_supervisor(server):
                break
            if server.ready_file.exists() and server.is_ready():
                return
        if time.monotonic() >= deadline:
            raise EmbeddedServiceError(f"the embedded {server.name} did not respond. Its log: {server.log}")


def _spawn(server: Server) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "runtime.supervisor", server.name, str(server.home)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    threading.Thread(target=child.wait, daemon=True, name="reap-supervisor").start()
    deadline = time.monotonic() + 10
    while not _has_supervisor(server) and child.poll() is None and time.monotonic() < deadline:
        # The lock is the only sign of a supervisor, and flock has no notification.
        time.sleep(0.02)


def _watch(server: Server) -> None:
    """Replace a supervisor that was killed."""
    while True:
        # It is no child of ours, so it can only be polled.
        time.sleep(WATCH_SECONDS)
        if not _has_supervisor(server):
            try:
                _ensure_running(server)
            except EmbeddedServiceError:
                continue
