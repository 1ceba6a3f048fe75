"""Fixtures: a database of its own for each test, the sandbox and the web process over real HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache

import httpx
import pytest
from fastapi import FastAPI

from runtime.settings import override
from sandbox import server
from sandbox.limits import Limits
from sandbox.world import World as SandboxWorld
from tests import databases
from tests.processes import Processes, end
from tests.serving import http_client, serving
from tests.world import Sandbox, World


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Name the seed of the tests' order where one failed: another order may not show it."""
    if exitstatus == pytest.ExitCode.TESTS_FAILED:
        seed = config.getoption("randomly_seed", default=None)
        terminalreporter.write_line(f"in the order of --randomly-seed={seed}")


@pytest.fixture(scope="session", autouse=True)
def services() -> None:
    """A migrated template for the tests' databases."""
    databases.make_template()


@pytest.fixture(autouse=True)
def settings_as_they_were() -> Iterator[None]:
    """What a test sets ends with it; so does a client of another Redis, which any thread may have made meanwhile."""
    before = dict(os.environ)
    yield
    is_elsewhere = os.environ.get("REDIS_URL") != before.get("REDIS_URL")
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    override(before)
    if is_elsewhere:
        from worker.broker import client

        client.cache_clear()


@pytest.fixture
def database() -> Iterator[str]:
    """A migrated, empty database, and budgets of which nothing is spent."""
    with databases.fresh() as name:
        databases.forget_budgets()
        yield name


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An empty sandbox without call limits."""
    with serving(server.create(SandboxWorld(), limits=Limits(on=False))) as url:
        override(server.environment(url))
        yield Sandbox(url)


@lru_cache(maxsize=1)
def _app() -> FastAPI:
    """Made once: it holds nothing of a database until it is served."""
    from web.app import create

    return create()


@pytest.fixture
def web(database: str, sandbox: Sandbox) -> Iterator[httpx.Client]:
    """The web process."""
    with serving(_app()) as url:
        override({"PUBLIC_URL": url})
        with http_client(url) as client:
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
def no_counts() -> Iterator[None]:
    """Limits of which nothing is used up, before and after."""
    from web import throttle

    counts = (throttle._addresses, throttle._keys, throttle._own, throttle._key_tries, throttle._unknown_keys)
    for count in counts:
        count.cache_clear()
    databases.forget_budgets("throttle")
    yield
    for count in counts:
        count.cache_clear()


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Processes that a test starts, stopped at its end."""
    started: Processes = []
    yield started
    end(started)
