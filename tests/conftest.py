"""Fixtures: a database per test, and the sandbox and the web process over real HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import settings as hypothesis_settings

from runtime.settings import override_settings
from sandbox.world import World as SandboxWorld
from store.db.database import dispose_engine
from tests.support import databases
from tests.support.folders import folder_for_all_users
from tests.support.ordering import long_tests_first
from tests.support.processes import Processes, terminate
from tests.support.reused_database import ReusedDatabase
from tests.support.snapshots import Addresses, Snapshot, Snapshots, addresses, serving_sandbox, serving_web
from tests.support.world import Sandbox, World
from web.app import create

# The first example also imports what it needs, and the machine may be busy.
hypothesis_settings.register_profile("without_deadline", deadline=None)
hypothesis_settings.load_profile("without_deadline")
UNIT = Path(__file__).resolve().parent / "unit"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start long tests first, in every process; the other tests are in random order."""
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = long_tests_first(items, _seconds, processes)


def _seconds(item: pytest.Item) -> float:
    """How long a test takes that is marked as `long`, otherwise 0."""
    marker = item.get_closest_marker("long")
    return float(marker.kwargs["seconds"]) if marker else 0


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

        shared_client.clear()


@pytest.fixture(scope="session")
def app() -> FastAPI:
    """The app, created once, because it has no database state until it is served."""
    return create()


@pytest.fixture(scope="session")
def reused_database(services: None) -> Iterator[ReusedDatabase]:
    """The database of this test process."""
    reused = ReusedDatabase()
    yield reused
    reused.drop()


@pytest.fixture(scope="session")
def snapshots(app: FastAPI, reused_database: ReusedDatabase) -> Snapshots:
    """Snapshots of a connected account."""
    return Snapshots(app, reused_database)


@pytest.fixture
def snapshot(request: pytest.FixtureRequest) -> Snapshot | None:
    """The connected account from which the test starts; None without `world`, or with a new database."""
    if "world" not in request.fixturenames or request.node.get_closest_marker("new_database"):
        return None
    snapshots: Snapshots = request.getfixturevalue("snapshots")
    return snapshots.latest()


@pytest.fixture
def database(
    request: pytest.FixtureRequest, snapshot: Snapshot | None, reused_database: ReusedDatabase
) -> Iterator[str]:
    """A migrated database, and what Redis keeps of accounts: empty and unused unless the test uses `world`."""
    for prefix in databases.ACCOUNT_PREFIXES:
        databases.clear_budgets(prefix)
    if request.node.get_closest_marker("new_database"):
        with databases.temporary() as name:
            yield name
        return
    name = reused_database.use(snapshot.rows if snapshot else None)
    if snapshot:
        snapshot.restore_redis()
    yield name
    dispose_engine()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user may enter, for programs that run as another user."""
    with folder_for_all_users() as folder:
        yield folder


@pytest.fixture
def sockets() -> Iterator[Addresses]:
    """The sockets of the test's servers."""
    with addresses() as sockets:
        yield sockets


@pytest.fixture
def sandbox(snapshot: Snapshot | None, sockets: Addresses) -> Iterator[Sandbox]:
    """A sandbox without rate limits, empty unless the test uses `world`."""
    data = snapshot.sandbox_world(sockets.urls) if snapshot else SandboxWorld()
    with serving_sandbox(data, sockets.sandbox) as sandbox:
        yield sandbox


@pytest.fixture
def web(database: str, sandbox: Sandbox, sockets: Addresses, app: FastAPI) -> Iterator[httpx.Client]:
    """The web process."""
    with serving_web(app, sockets.web) as client:
        yield client


@pytest.fixture
def unconnected(sandbox: Sandbox, web: httpx.Client) -> World:
    """Both vendors and Patina, not connected yet."""
    world = World(sandbox, web)
    world.enable_xero_webhook()
    return world


@pytest.fixture
def world(request: pytest.FixtureRequest, sandbox: Sandbox, web: httpx.Client, snapshot: Snapshot | None) -> World:
    """An account connected to one organisation, both empty."""
    if snapshot is None:
        unconnected: World = request.getfixturevalue("unconnected")
        return unconnected.open()
    return snapshot.copy_of_world(sandbox, web)


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
        count.clear()
    databases.clear_budgets("throttle")
    yield
    for count in counts:
        count.clear()


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Processes that a test starts, terminated at its end."""
    started: Processes = []
    yield started
    terminate(started)
