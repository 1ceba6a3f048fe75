"""Starts a real installation on embedded services, and always stops it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from runtime import service_urls
from runtime.settings import settings
from store.db.migrations import migrate
from tests.attack.settings import HOME
from tests.attack.site import Site, program
from tests.chaos import Environment, free_port
from tests.support.processes import Processes, terminate
from tests.support.serving import responds, wait_until
from tests.support.world import Sandbox, World
from web.server import raise_file_limit

PROCESSES = ("web", "worker", "scheduler")
OPEN_FILES = 8_192
START_SECONDS = 180


@contextmanager
def installation() -> Iterator[Site]:
    """Run the installation until the block ends."""
    # Thousands of long polls need as many open files.
    raise_file_limit(OPEN_FILES)
    environment, processes = Environment(HOME), Processes()
    try:
        yield _start(environment, processes)
    finally:
        terminate(processes)
        environment.close()


def _start(environment: Environment, processes: Processes) -> Site:
    url, vendors = settings().public_url, urlsplit(settings().xero_api_url).port
    service_urls.database_url()
    service_urls.redis_url()
    migrate()
    environment.start("sandbox", "--port", str(vendors), "--size", "0", "--no-limits")
    for name in PROCESSES:
        environment.start(name)
    wait_until(
        lambda: responds(f"http://127.0.0.1:{vendors}/control/state"), seconds=START_SECONDS, description="the sandbox"
    )
    wait_until(lambda: responds(f"{url}/readyz"), seconds=START_SECONDS, description="the web process")
    site = Site(HOME, Sandbox(f"http://127.0.0.1:{vendors}"), url, workers=True)
    site.web_process = psutil.Process(environment.children["web"].pid)
    _start_nginx(site, processes)
    World(site.sandbox, httpx.Client(base_url=url, timeout=30, trust_env=False), workers=True).enable_xero_webhook()
    return site


def _start_nginx(site: Site, processes: Processes) -> None:
    """Start nginx with the documented configuration, if it is installed."""
    if program("nginx") is None:
        return
    from tests.system.test_proxy import run_nginx

    folder = site.home / "nginx"
    folder.mkdir()
    process, port, *_ = run_nginx(folder, settings().port, free_port())
    processes.append(process)
    site.proxy = f"https://127.0.0.1:{port}"
    site.plain_proxy = _plain_address(folder)
    with site.through_nginx() as client:
        wait_until(lambda: _is_up(client), seconds=30, description="nginx")


def _plain_address(folder: Path) -> str | None:
    """The address on which nginx listens without TLS."""
    for line in (folder / "site.conf").read_text().splitlines():
        parts = line.strip().rstrip(";").split()
        if parts[:1] == ["listen"] and "ssl" not in parts and parts[1].startswith("127.0.0.1:"):
            return f"http://{parts[1]}"
    return None


def _is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False
