"""A connected account as a snapshot: connecting one takes longer than most tests, so tests start from copies of it.

A copy consists of the rows of a database, the sandbox's saved data with the addresses of the test's servers, and the
call budgets in Redis.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import httpx
from fastapi import FastAPI

from runtime.redis_client import shared_client
from runtime.settings import override_settings, settings
from sandbox import server
from sandbox.limits import Limits
from sandbox.world import WORLD
from sandbox.world import World as SandboxWorld
from tests.support import databases
from tests.support.reused_database import ReusedDatabase, Rows
from tests.support.serving import http_client, listener, serving, url_of
from tests.support.world import Sandbox, World

# An older snapshot would count as behind with its syncs.
MAX_AGE_SECONDS = 45


@dataclass(frozen=True)
class Addresses:
    """The sockets of a test's servers."""

    sandbox: socket.socket
    web: socket.socket

    @property
    def urls(self) -> tuple[str, str]:
        """The URLs of the sandbox and of the web process."""
        return url_of(self.sandbox), url_of(self.web)


@contextmanager
def addresses() -> Iterator[Addresses]:
    """Sockets on free ports, closed when the block ends."""
    with listener() as sandbox, listener() as web:
        yield Addresses(sandbox, web)


@dataclass(frozen=True)
class Snapshot:
    """A connected account: its rows, the sandbox's data and URLs, its budgets and known keys in Redis, and its ids."""

    rows: Rows
    sandbox: bytes
    urls: tuple[str, str]
    redis: tuple[tuple[bytes, bytes, int], ...]
    world: World
    made_at: float

    def sandbox_world(self, urls: tuple[str, str]) -> SandboxWorld:
        """A copy of the sandbox's data, with the URLs of other servers."""
        data = self.sandbox
        for old_url, new_url in zip(self.urls, urls, strict=True):
            data = data.replace(old_url.encode(), new_url.encode())
        return WORLD.validate_json(data)

    def restore_redis(self) -> None:
        """Restore the budgets and the known keys in Redis as they were."""
        for key, value, milliseconds in self.redis:
            shared_client().restore(key, max(milliseconds, 0), value, replace=True)

    def copy_of_world(self, sandbox: Sandbox, web: httpx.Client) -> World:
        """The account, on the servers of a test."""
        world = replace(self.world, sandbox=sandbox, web=web, contacts={}, companies={}, links=set(), pins=set())
        world.tenants, world.time_zones = [*world.tenants], [*world.time_zones]
        world.record_heartbeats()
        return world


@contextmanager
def serving_sandbox(data: SandboxWorld, listening: socket.socket) -> Iterator[Sandbox]:
    """Serve a sandbox without rate limits, and make this process its client."""
    with serving(server.create(data, limits=Limits(enabled=False)), listening) as url:
        override_settings(server.environment(url))
        yield Sandbox(url)


@contextmanager
def serving_web(app: FastAPI, listening: socket.socket) -> Iterator[httpx.Client]:
    """Serve the web process."""
    override_settings({"PUBLIC_URL": url_of(listening)})
    with serving(app, listening) as url, http_client(url) as client:
        yield client


class Snapshots:
    """The snapshot of a test process, made again when it is too old."""

    def __init__(self, app: FastAPI, reused: ReusedDatabase) -> None:
        self._app = app
        self._database = reused
        self._latest: Snapshot | None = None

    def latest(self) -> Snapshot:
        """A snapshot of at most `MAX_AGE_SECONDS`."""
        if self._latest is None or time.monotonic() - self._latest.made_at > MAX_AGE_SECONDS:
            self._latest = self._make()
        return self._latest

    def _make(self) -> Snapshot:
        data = SandboxWorld()
        self._database.use()
        databases.clear_budgets()
        with (
            addresses() as sockets,
            serving_sandbox(data, sockets.sandbox) as sandbox,
            serving_web(self._app, sockets.web) as web,
        ):
            world = World(sandbox, web)
            world.enable_xero_webhook()
            world.open()
            urls = sockets.urls
        rows = self._database.rows()
        # A web process that finds its own old heartbeat starts catch-ups, as after an outage.
        rows.tables.pop("heartbeat", None)
        return Snapshot(rows, WORLD.dump_json(data), urls, tuple(_dump_redis()), world, time.monotonic())


def _dump_redis() -> Iterator[tuple[bytes, bytes, int]]:
    for prefix in databases.ACCOUNT_PREFIXES:
        for key in shared_client().scan_iter(f"*{settings().redis_namespace}:{prefix}*", count=1_000):
            value = shared_client().dump(key)
            if value is not None:
                yield key, value, shared_client().pttl(key)
