"""Embedded services for whoever has no PostgreSQL or Redis at hand.

Every process of the project asks `database_url()` or `redis_url()`; where EMBEDDED_SERVICES is on, they start a server
where no address is set. It runs under one owner process (`runtime.owner`), shared by all, and stops with the last of
them.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from runtime.owner import START_SECONDS, STOP_SECONDS, lock
from runtime.servers import KINDS, Server
from runtime.settings import SettingsError, meaning, settings

WATCH_SECONDS = 1.0
_held: dict[str, tuple[Server, IO[bytes]]] = {}
_guard = threading.Lock()


class EmbeddedServiceError(Exception):
    """The embedded server did not start; the text says which, why, and where its log is."""


def database_url() -> str:
    """DATABASE_URL, or the embedded PostgreSQL's, started when it is not running.

    Raises `SettingsError` when neither is asked for: no process falls back to an empty database by itself.
    """
    return settings().database_url or _embedded("postgres", "database_url")


def redis_url() -> str:
    """REDIS_URL, or the embedded Redis's, started when it is not running; raises `SettingsError` like the other."""
    return settings().redis_url or _embedded("redis", "redis_url")


def _embedded(kind: str, setting: str) -> str:
    if not settings().embedded_services:
        name = setting.upper()
        raise SettingsError(
            f"{name} is not set: {meaning(setting)}. To try Patina out on this machine, add --embedded:"
            " `patina --embedded status`."
        )
    return use(kind)


def use(kind: str, home: Path | None = None) -> str:
    """The url of the embedded server, kept running for as long as this process lives."""
    folder = (home or settings().patina_home).resolve() / kind
    with _guard:
        key = str(folder)
        if key not in _held:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            server = KINDS[kind](folder)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            users = lock(folder / "users.lock", shared=True, seconds=STOP_SECONDS + 5)
            if users is None:
                raise EmbeddedServiceError(f"the embedded {kind} in {folder} is still stopping; try again")
            _held[key] = (server, users)
            try:
                _ensure(server)
            except EmbeddedServiceError:
                _held.pop(key)[1].close()
                raise
            threading.Thread(target=_watch, args=(server,), daemon=True, name=f"watch-{kind}").start()
        return _held[key][0].url


def _owned(server: Server) -> bool:
    free = lock(server.home / "owner.lock", shared=False, seconds=0)
    if free is None:
        return True
    free.close()
    return False


def _ensure(server: Server) -> None:
    """Have an owner, spawning one when there is none, and wait until the server answers."""
    failure = server.home / "failure"
    deadline = time.monotonic() + START_SECONDS
    while True:
        if not _owned(server):
            failure.unlink(missing_ok=True)
            _spawn(server)
        while time.monotonic() < deadline:
            # Another process starts it: there is nothing to wait on but what it leaves behind.
            time.sleep(0.02)
            if failure.exists():
                raise EmbeddedServiceError(
                    f"the embedded {server.kind} did not start: {failure.read_text()}. Its log: {server.log}"
                )
            if not _owned(server):
                break
            if server.settled.exists() and server.ready():
                return
        if time.monotonic() >= deadline:
            raise EmbeddedServiceError(f"the embedded {server.kind} gave no answer. Its log: {server.log}")


def _spawn(server: Server) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "runtime.owner", server.kind, str(server.home)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    threading.Thread(target=child.wait, daemon=True, name="reap-owner").start()
    deadline = time.monotonic() + 10
    while not _owned(server) and child.poll() is None and time.monotonic() < deadline:
        # Its lock is the one sign of an owner, and the kernel tells nobody when it is taken.
        time.sleep(0.02)


def _watch(server: Server) -> None:
    """Have a new owner when the old one was killed."""
    while True:
        # No child of ours, and a kill leaves no message: it is looked for.
        time.sleep(WATCH_SECONDS)
        if not _owned(server):
            try:
                _ensure(server)
            except EmbeddedServiceError:
                continue
