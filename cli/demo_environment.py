"""The environment of the demo: the sandbox, web, worker and scheduler as child processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from rich.console import Console

from cli.errors import DemoError
from runtime import logs, service_urls
from runtime.settings import override_settings, settings
from sandbox import server
from store.db import migrations

WEB_PORT, SANDBOX_PORT = 8700, 8701
ADMIN_EMAIL, ADMIN_API_KEY = "sam@demo.copper.test", "sandbox-copper-key"
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 12.0
# The sandbox enforces the vendors' default limits, so the demo resets these settings to their defaults.
LIMIT_SETTINGS = (
    "XERO_CALLS_PER_MINUTE",
    "XERO_MAX_CONCURRENT_CALLS",
    "XERO_CALLS_PER_DAY",
    "XERO_APP_CALLS_PER_MINUTE",
    "COPPER_CALLS_PER_MINUTE",
)


@dataclass
class DemoEnvironment:
    """The child processes of the demo, their URLs and logs. `panel_url` is set once the panel is installed."""

    console: Console
    size: int
    home: Path = field(default_factory=lambda: settings().patina_home.resolve())
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    web_url: str = ""
    sandbox_url: str = ""
    panel_url: str = ""
    _claims: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> DemoEnvironment:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        web_port, sandbox_port = self._claim_port(WEB_PORT), self._claim_port(SANDBOX_PORT)
        self.web_url, self.sandbox_url = f"http://127.0.0.1:{web_port}", f"http://127.0.0.1:{sandbox_port}"
        override_settings(
            {
                "PATINA_HOME": str(self.home),
                "EMBEDDED_SERVICES": "true",
                "DATABASE_URL": "",
                "REDIS_URL": "",
                "ENCRYPTION_KEYS": "",
                "WEB_HOST": "127.0.0.1",
                "PORT": str(web_port),
                "PUBLIC_URL": self.web_url,
                "COPPER_WEBHOOK_URL": "",
                "WORKER_PROCESSES": "2",
                "FIELD_WRITE_INTERVAL_SECONDS": "1",
                **dict.fromkeys(LIMIT_SETTINGS, ""),
                "LOG_FORMAT": "json",
                "LOG_LEVEL": "warning",
                **server.environment(self.sandbox_url),
            }
        )
        logs.configure("demo")
        (self.home / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.step("starting PostgreSQL and Redis"):
            service_urls.database_url()
            service_urls.redis_url()
        with self.step("bringing the schema up to date"):
            migrations.migrate()
        with self.step("starting the sandbox (Xero and Copper), web, worker and scheduler"):
            state_file = str(self.home / f"sandbox-{self.size}.json")
            self._start_child("sandbox", "--port", str(sandbox_port), "--size", str(self.size), "--state", state_file)
            for name in ("web", "worker", "scheduler"):
                self._start_child(name)
            self._wait_until_ready(f"{self.sandbox_url}/control/state", "sandbox")
            self._wait_until_ready(f"{self.web_url}/readyz", "web")

    def _claim_port(self, preferred: int) -> int:
        """The preferred port, or any free one if it is in use, or will be by another demo that is starting."""
        for port in (preferred, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                claim = socket.socket(socket.AF_UNIX)
                try:
                    probe.bind(("127.0.0.1", port))
                    number = int(probe.getsockname()[1])
                    # A name without a file, which ends with the process.
                    claim.bind(f"\0patina-demo-{number}")
                except OSError:
                    claim.close()
                    continue
                self._claims.append(claim)
                return number
        raise DemoError("no free port on 127.0.0.1")

    @contextmanager
    def step(self, description: str) -> Iterator[None]:
        """Print a step and how long it took."""
        started = time.monotonic()
        yield
        self.console.print(f"  {description} [dim]({time.monotonic() - started:.1f} s)[/dim]")

    def _start_child(self, name: str, *arguments: str) -> None:
        with self._log_path(name).open("wb") as log:
            self.children[name] = subprocess.Popen(
                [sys.executable, "-m", "cli", name, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=Path(__file__).resolve().parent.parent,
                env={**os.environ},
            )

    def _log_path(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def check(self) -> None:
        """Raise `DemoError` if a child process has exited."""
        for name, child in self.children.items():
            if child.poll() is not None:
                log = self._log_path(name)
                last_lines = log.read_text(errors="replace").strip().splitlines()[-3:]
                raise DemoError(f"{name} ended with {child.returncode}: {' / '.join(last_lines)}. Its log: {log}")

    def _wait_until_ready(self, url: str, name: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            self.check()
            try:
                if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            # A process does not announce that it accepts connections, so it is polled.
            time.sleep(0.05)
        raise DemoError(f"{name} did not respond within {START_TIMEOUT_SECONDS:.0f} s. Its log: {self._log_path(name)}")

    def wait_forever(self) -> None:
        """Keep everything running until Ctrl-C."""
        port = urlsplit(self.sandbox_url).port
        option = "" if port == SANDBOX_PORT else f" --port {port}"
        # Not wrapped, because a URL that is split over two lines cannot be clicked.
        self.console.print(
            f"\nStill running. The panel in the sandbox's Copper:\n  {self.panel_url}\n"
            f"Settings, as an admin (email {ADMIN_EMAIL}, API key {ADMIN_API_KEY}):\n  {self.web_url}\n"
            f"API documentation:\n  {self.web_url}/docs\n"
            f"The sandbox's data and counts:\n  {self.sandbox_url}/control/state\n"
            f"Simulate a user of Xero or Copper from another terminal:\n  .venv/bin/patina sandbox{option} simulate\n"
            "Ctrl-C stops every process.",
            markup=False,
            soft_wrap=True,
        )
        while True:
            # Several children may exit: polling them needs no thread for each.
            time.sleep(0.5)
            self.check()

    def close(self) -> None:
        """Terminate all processes, killing any that hang."""
        for child in self.children.values():
            _send_signal(child, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        for child in self.children.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, deadline - time.monotonic()))
            _send_signal(child, signal.SIGKILL)
        self.children.clear()
        for claim in self._claims:
            claim.close()


def _send_signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal the child; SIGKILL goes to its whole process group."""
    try:
        if number == signal.SIGKILL:
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
    except ProcessLookupError:
        return
