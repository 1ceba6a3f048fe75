"""Fixtures: a database per test, and the sandbox and the web process over real HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from runtime.settings import override_settings
from sandbox import server
from sandbox.limits import Limits
from sandbox.world import World as SandboxWorld
from tests.support import databases
from tests.support.processes import Processes, terminate
from tests.support.serving import http_client, serving
from tests.support.world import Sandbox, World

UNIT = Path(__file__).resolve().parent / "unit"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Print the seed of the test order after a failure, because another order may not reproduce it."""
    if exitstatus == pytest.ExitCode.TESTS_FAILED:
        seed = config.getoption("randomly_seed", default=None)
        terminalreporter.write_line(f"in the order of --randomly-seed={seed}")


@pytest.fixture(scope="session", autouse=True)
def services(request: pytest.FixtureRequest) -> None:
    """A migrated template for the tests' databases; unit tests need no service."""
    if any(UNIT not in item.path.parents for item in request.session.items):
        override_settings({"REDIS_URL": databases.redis_url()})
        databases.make_template()


@pytest.fixture(autouse=True)
def settings_as_they_were() -> Iterator[None]:
    """Restore the settings after a test, and drop the client of another Redis, which any thread may have created."""
    before = dict(os.environ)
    yield
    is_elsewhere = os.environ.get("REDIS_URL") != before.get("REDIS_URL")
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    override_settings(before)
    if is_elsewhere:
        from runtime.redis_client import shared_client

        shared_client.cache_clear()


@pytest.fixture
def database() -> Iterator[str]:
    """A migrated, empty database, and unused budgets."""
    with databases.temporary() as name:
        databases.clear_budgets()
        yield name


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An empty sandbox without rate limits."""
    with serving(server.create(SandboxWorld(), limits=Limits(enabled=False))) as url:
        override_settings(server.environment(url))
        yield Sandbox(url)


@lru_cache(maxsize=1)
def _app() -> FastAPI:
    """The app, created once, because it has no database state until it is served."""
    from web.app import create

    return create()


@pytest.fixture
def web(database: str, sandbox: Sandbox) -> Iterator[httpx.Client]:
    """The web process."""
    with serving(_app()) as url:
        override_settings({"PUBLIC_URL": url})
        with http_client(url) as client:
            yield client


@pytest.fixture
def unconnected(sandbox: Sandbox, web: httpx.Client) -> World:
    """Both vendors and Patina, not connected yet."""
    world = World(sandbox, web)
    world.enable_xero_webhook()
    return world


@pytest.fixture
def world(unconnected: World) -> World:
    """An account connected to one organisation, both empty."""
    return unconnected.open()


@pytest.fixture
def no_counts() -> Iterator[None]:
    """Reset all rate limits before and after the test."""
    from web.auth import rate_limits

    counts = (
        rate_limits._address_counts,
        rate_limits._key_counts,
        rate_limits._fallback_counts,
        rate_limits._sign_in_attempts,
        rate_limits._unknown_key_counts,
    )
    for count in counts:
        count.cache_clear()
    databases.clear_budgets("throttle")
    yield
    for count in counts:
        count.cache_clear()


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Processes that a test starts, terminated at its end."""
    started: Processes = []
    yield started
    terminate(started)
