"""A deploy: the code before the latest migration works on the schema after it, until the last process is replaced."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from alembic.script import ScriptDirectory

from runtime.settings import override
from sandbox import server
from store.database import alembic_config
from tests.chaos import free_port
from tests.conftest import Processes
from tests.serving import wait_until
from tests.world import Sandbox, World

ROOT = Path(__file__).resolve().parent.parent


def git(*words: str) -> bytes:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"needs the project's history: {done.stderr.decode().strip()[:100]}")
    return done.stdout


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The code as it was just before the latest migration came."""
    script = ScriptDirectory.from_config(alembic_config()).get_revision("head")
    path = str(Path(script.path).relative_to(ROOT))
    came = git("log", "--diff-filter=A", "--format=%H", "--", path).decode().split()
    if not came:
        pytest.skip("the latest migration is not committed yet")
    archive = git("archive", f"{came[-1]}^")
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive, check=True, timeout=60)
    assert not (tmp_path / path).exists()
    return tmp_path


@pytest.fixture
def old_web(older: Path, database: str, sandbox: Sandbox, processes: Processes) -> Iterator[httpx.Client]:
    """Web, worker and scheduler of the older code on the newest schema."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    override({**server.environment(sandbox.url), "PUBLIC_URL": url})
    environment = {**os.environ, "PORT": str(port), "PYTHONPATH": str(older), "SWEEP_SECONDS": "1"}
    for name in ("web", "worker", "scheduler"):
        words = [sys.executable, "-m", "cli", name]
        processes.append(subprocess.Popen(words, cwd=older, env=environment, stdout=subprocess.DEVNULL))

    def is_up() -> bool:
        try:
            return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(is_up, what="the older web process, ready")
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        yield client


def test_the_older_code_keeps_events_applies_them_and_answers_on_the_newer_schema(
    old_web: httpx.Client, sandbox: Sandbox, processes: Processes
) -> None:
    world = World(sandbox, old_web, workers=True)
    world.listen()
    world.open()
    company = world.company()
    person = world.person("ann@acme.test", company=company)
    invoice = world.invoice("ann@acme.test")
    wait_until(lambda: world.shown("companies", company) == [invoice.number])
    world.sandbox.act("pay_invoice", invoice=invoice.id)
    wait_until(lambda: world.rows("people", person)[0]["status"] == "PAID")
    world.check()
    assert all(one.poll() is None for one in processes), "none of the older processes ended"
