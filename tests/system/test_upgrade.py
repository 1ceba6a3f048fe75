"""Rolling upgrades: the code before the latest migration works on the schema after it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from alembic.script import ScriptDirectory

from runtime.settings import override_settings
from sandbox import server
from store.db.migrations import alembic_config, migrate
from tests.chaos import free_port
from tests.integration.test_webhook_endpoints import delivery, event, sign
from tests.support import databases
from tests.support.processes import Processes, patina
from tests.support.serving import responds, wait_until
from tests.support.world import Sandbox, World

ROOT = Path(__file__).resolve().parents[2]


def git(*arguments: str) -> bytes:
    completed = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, timeout=60, check=False)
    if completed.returncode:
        pytest.skip(f"needs the project's history: {completed.stderr.decode().strip()[:100]}")
    return completed.stdout


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The code as it was just before the latest migration was added.

    The baseline has no release before it: the tests that need one begin to run with the next migration.
    """
    script = ScriptDirectory.from_config(alembic_config()).get_revision("head")
    if script.down_revision is None:
        pytest.skip("the baseline is the first migration: no release precedes it")
    path = str(Path(script.path).relative_to(ROOT))
    commits = git("log", "--diff-filter=A", "--format=%H", "--", path).decode().split()
    if not commits:
        pytest.skip("the latest migration is not committed yet")
    archive = git("archive", f"{commits[-1]}^")
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive, check=True, timeout=60)
    assert not (tmp_path / path).exists()
    return tmp_path


@pytest.fixture
def upgraded(older: Path) -> Iterator[str]:
    """A database that the older code created and today's code migrated."""
    with databases.temporary(template="template0") as name:
        databases.clear_budgets()
        command = [sys.executable, "-m", "cli", "migrate"]
        environment = {**os.environ, "PYTHONPATH": str(older)}
        subprocess.run(command, cwd=older, env=environment, check=True, capture_output=True, timeout=120)
        migrate()
        yield name


@pytest.fixture
def old_web(older: Path, upgraded: str, sandbox: Sandbox, processes: Processes) -> Iterator[httpx.Client]:
    """Web, worker and scheduler of the older code on the newest schema."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    override_settings({**server.environment(sandbox.url), "PUBLIC_URL": url})
    environment = {**os.environ, "PORT": str(port), "PYTHONPATH": str(older), "SWEEP_INTERVAL_SECONDS": "1"}
    for name in ("web", "worker", "scheduler"):
        command = [sys.executable, "-m", "cli", name]
        processes.append(subprocess.Popen(command, cwd=older, env=environment, stdout=subprocess.DEVNULL))

    wait_until(lambda: responds(f"{url}/readyz"), description="the older web process, ready")
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        yield client


def test_the_older_code_stores_applies_and_serves_on_the_newer_schema(
    old_web: httpx.Client, sandbox: Sandbox, processes: Processes
) -> None:
    world = World(sandbox, old_web, workers=True)
    world.enable_xero_webhook()
    world.open()
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    invoice = world.invoice("ann@acme.test")
    wait_until(lambda: world.invoice_numbers("companies", company) == [invoice.number])
    world.sandbox.simulate("pay_invoice", invoice=invoice.id)
    wait_until(lambda: [row["status"] for row in world.rows("people", person)] == ["PAID"])
    world.check()
    assert all(process.poll() is None for process in processes), "none of the older processes ended"


def test_web_and_worker_exit_within_thirty_seconds_of_sigterm_without_loss(world: World, processes: Processes) -> None:
    """Both are stopped while a request and a slow vendor call are in progress."""
    person = world.person("ann@acme.test")
    world.settle()
    world.workers = True
    port = free_port()
    worker, web = patina("worker"), patina("web", environment={"PORT": str(port)})
    processes += [worker, web]
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: responds(f"{url}/readyz"), description="the web process")
    world.sandbox.faults(api=[{"vendor": "xero", "type": "latency", "path": "Invoices", "seconds": 3.0}])
    body = delivery(event(world.tenants[0], resourceId=world.invoice("ann@acme.test").id))
    wait_until(lambda: world.sandbox.calls("Invoices") > 0, description="a call that the vendor is slow to answer")
    with socket.create_connection(("127.0.0.1", port)) as line:
        headers = {"host": "patina", "content-type": "application/json", "x-xero-signature": sign(body)}
        headers["content-length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        line.sendall(f"POST /webhooks/xero HTTP/1.1\r\n{head}\r\n".encode() + body[:10])
        time.sleep(0.3)
        started = time.monotonic()
        web.terminate()
        worker.terminate()
        time.sleep(0.5)
        line.sendall(body[10:])
        line.settimeout(20)
        assert line.recv(100).startswith(b"HTTP/1.1 200"), "what was begun is answered"
    assert web.wait(30) is not None
    assert worker.wait(max(30 - (time.monotonic() - started), 0.1)) is not None
    world.sandbox.faults()
    processes.append(patina("worker"))
    processes.append(patina("scheduler"))
    wait_until(lambda: len(world.rows("people", person)) == 1, description="the invoice")
    world.settle()
    world.check()
