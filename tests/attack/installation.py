"""Starts a real installation on embedded services, and ends all of it whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from runtime import embedded
from runtime.settings import settings
from store.database import migrate
from tests.attack.settings import HOME
from tests.attack.site import Site, program
from tests.chaos import Stage, free_port
from tests.processes import Processes, end
from tests.serving import answers, wait_until
from tests.world import Sandbox, World
from web.server import allow_files

PROCESSES = ("web", "worker", "scheduler")
OPEN_FILES = 8_192
START_SECONDS = 180


@contextmanager
def installation() -> Iterator[Site]:
    """The installation, for as long as the block lasts."""
    # Held requests by the thousand need as many open files.
    allow_files(OPEN_FILES)
    stage, others = Stage(HOME), Processes()
    try:
        yield _start(stage, others)
    finally:
        end(others)
        stage.close()


def _start(stage: Stage, others: Processes) -> Site:
    url, vendors = settings().public_url, urlsplit(settings().xero_api_url).port
    embedded.database_url()
    embedded.redis_url()
    migrate()
    stage.start("sandbox", "--port", str(vendors), "--size", "0", "--no-limits")
    for name in PROCESSES:
        stage.start(name)
    wait_until(lambda: answers(f"http://127.0.0.1:{vendors}/control/state"), seconds=START_SECONDS, what="the sandbox")
    wait_until(lambda: answers(f"{url}/readyz"), seconds=START_SECONDS, what="the web process")
    site = Site(HOME, Sandbox(f"http://127.0.0.1:{vendors}"), url, workers=True)
    site.web_process = psutil.Process(stage.children["web"].pid)
    _start_nginx(site, others)
    World(site.sandbox, httpx.Client(base_url=url, timeout=30, trust_env=False), workers=True).listen()
    return site


def _start_nginx(site: Site, others: Processes) -> None:
    """The documented configuration before the web process, where nginx is installed."""
    if program("nginx") is None:
        return
    from tests.test_proxy import run_nginx

    folder = site.home / "nginx"
    folder.mkdir()
    process, port, *_ = run_nginx(folder, settings().port, free_port())
    others.append(process)
    site.proxy = f"https://127.0.0.1:{port}"
    site.plain_proxy = _plain_address(folder)
    with site.through_nginx() as client:
        wait_until(lambda: _is_up(client), seconds=30, what="nginx")


def _plain_address(folder: Path) -> str | None:
    """Where nginx listens without TLS."""
    for line in (folder / "site.conf").read_text().splitlines():
        words = line.strip().rstrip(";").split()
        if words[:1] == ["listen"] and "ssl" not in words and words[1].startswith("127.0.0.1:"):
            return f"http://{words[1]}"
    return None


def _is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False
