"""Fixtures: a database of its own for each test, the sandbox and the web process over real HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runtime.settings import override
from sandbox import server
from sandbox.limits import Limits
from sandbox.world import World as SandboxWorld
from tests import databases
from tests.serving import serving
from tests.world import Sandbox, World

Processes = list[subprocess.Popen[bytes]]
KEY = "4Zf0m3Qn0mX1s1x4m5hY4mU0c0pM2o1o7h0lJ7S0p1E="


@pytest.fixture(scope="session", autouse=True)
def services() -> None:
    """The embedded servers of the tests, and settings that hold for all of them."""
    override(
        {
            "PATINA_HOME": str(databases.HOME),
            "REDIS_URL": databases.redis_address(),
            "REDIS_NAMESPACE": f"test-{uuid.uuid4().hex[:12]}",
            "ENCRYPTION_KEYS": KEY,
            "LOG_LEVEL": "error",
            "LOG_FORMAT": "json",
            "LEASE_SECONDS": "10",
            "SWEEP_SECONDS": "0.3",
            "CONNECT_TIMEOUT": "2",
            "READ_TIMEOUT": "5",
            **server.environment("http://127.0.0.1:9"),
        }
    )
    databases.make_template()


@pytest.fixture
def database() -> Iterator[str]:
    """A migrated, empty database."""
    with databases.fresh() as name:
        yield name


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An empty sandbox without call limits."""
    with serving(server.create(SandboxWorld(), limits=Limits(on=False))) as url:
        override(server.environment(url))
        yield Sandbox(url)


@pytest.fixture
def web(database: str, sandbox: Sandbox) -> Iterator[httpx.Client]:
    """The web process."""
    from web.app import create

    with serving(create()) as url:
        override({"PUBLIC_URL": url})
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            yield client


@pytest.fixture
def unconnected(sandbox: Sandbox, web: httpx.Client) -> World:
    """Both vendors and Patina up, nothing connected yet."""
    world = World(sandbox, web)
    world.listen()
    return world


@pytest.fixture
def world(unconnected: World) -> World:
    """An account connected to one organisation, both empty."""
    return unconnected.open()


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Processes that a test starts, stopped at its end."""
    started: Processes = []
    yield started
    for one in started:
        one.terminate()
    for one in started:
        try:
            one.wait(15)
        except subprocess.TimeoutExpired:
            one.kill()


def patina(*words: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start a `patina` command with this test's settings."""
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *words],
        cwd=Path(__file__).resolve().parent.parent,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
