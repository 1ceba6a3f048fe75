"""A host of the cluster with its services, which are restarted when they end, as systemd does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.failover.programs import PATH
from tests.support.hosts import Host
from tests.support.processes import ROOT

RESTART_SECONDS = 1.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Service:
    """A program that runs on a host as a system user (by default root)."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = "root"


class Machine:
    """A host whose services can be stopped and frozen, and which can be cut off."""

    def __init__(self, host: Host, folder: Path, services: Sequence[Service]) -> None:
        self.host, self.folder = host, folder
        self.services = {service.name: service for service in services}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._is_on = False

    def switch_on(self) -> None:
        """Start all services, as the host does when it boots."""
        with self._lock:
            self._is_on = True
            for service in self.services.values():
                self._start(service)

    def _start(self, service: Service) -> None:
        command: list[str] = list(service.command)
        if service.user != "root":
            identity = [f"--reuid={service.user}", f"--regid={service.user}", "--init-groups"]
            command = ["setpriv", *identity, "--no-new-privs", "--inh-caps=-all", *command]
        environment = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": str(self.folder), **service.environment}
        with (self.folder / f"{service.name}.log").open("ab") as log:
            self._processes[service.name] = subprocess.Popen(
                self.host.command(command),
                cwd=ROOT if service.user == "root" else self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def restart_ended(self) -> None:
        """Start the services again that have ended, unless the host is switched off."""
        with self._lock:
            if self._is_on:
                for name, process in self._processes.items():
                    if process.poll() is not None:
                        self._start(self.services[name])

    def kill(self) -> None:
        """End all processes at once, as a power failure does."""
        with self._lock:
            self._is_on = False
            self.host.signal(signal.SIGKILL)
            for process in self._processes.values():
                process.wait(STOP_SECONDS)
            # Orphans of the services, and what they had started meanwhile.
            self.host.signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop all processes where they are. Twice, because a process may have started another meanwhile."""
        for _ in range(2):
            self.host.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let all processes continue."""
        self.host.signal(signal.SIGCONT)

    def switch_off(self) -> None:
        """End everything; PostgreSQL in order, because it has shared memory to give back."""
        with self._lock:
            self._is_on = False
        self.thaw()
        for process in self._processes.values():
            process.kill()
        self.host.signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        while self.host.process_ids() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.kill()


class Supervisor:
    """Restarts ended services of all machines until it is closed."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self._machines, self._stopping = machines, threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="supervisor")
        self._thread.start()

    def _work(self) -> None:
        while not self._stopping.wait(RESTART_SECONDS):
            for machine in self._machines:
                machine.restart_ended()

    def close(self) -> None:
        """Restart nothing any more."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)


def make_folder(path: Path, user: str = "root") -> Path:
    """A folder that only `user` may enter (root's: everybody may pass through it)."""
    path.mkdir(parents=True)
    if user == "root":
        path.chmod(0o711)
    else:
        path.chmod(0o700)
        shutil.chown(path, user, user)
    return path


def write_file(path: Path, text: str, user: str = "root") -> Path:
    """A file that only `user` may read, because it contains passwords."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    if user != "root":
        shutil.chown(path, user, user)
    return path
