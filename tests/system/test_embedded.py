"""The embedded servers: shared, started once, restarted after kills, stopped with their last user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from runtime.servers import SERVERS, Postgres, Server
from tests.support.processes import ROOT
from tests.support.serving import wait_until

USER = """
import sys, time
from pathlib import Path
from runtime.embedded import use
print(use(sys.argv[1], Path(sys.argv[2])), flush=True)
sys.stdin.read()
"""
each_server = pytest.mark.parametrize("name", ["postgres", "redis"])


class User:
    """A process that uses an embedded server until it is stopped."""

    def __init__(self, name: str, home: Path, **options: Any) -> None:
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-c", USER, name, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            **options,
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, self.process.communicate(timeout=20)[1]
        return line

    def leave(self) -> None:
        self.process.communicate("", timeout=20)


def server_of(name: str, home: Path) -> Server:
    return SERVERS[name](home / name)


def running_process(name: str, home: Path) -> psutil.Process:
    server = server_of(name, home)
    wait_until(lambda: server.running_process() is not None and server.is_ready(), description=f"{name} to run")
    process = server.running_process()
    assert process is not None
    return process


def count_supervisors(name: str, home: Path) -> int:
    return sum(str(home / name) in (process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))


def wait_for_end(name: str, home: Path) -> None:
    """Wait until the server and its supervisor, which then cleans up, have ended."""
    server = server_of(name, home)
    wait_until(lambda: server.running_process() is None, seconds=40, description=f"the end of {name}")
    wait_until(lambda: count_supervisors(name, home) == 0, description="the supervisor's end")


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A folder that every user may enter, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="patina-") as folder:
        yield Path(folder)


@each_server
def test_processes_share_one_server_which_stops_with_the_last_of_them(name: str, tmp_path: Path) -> None:
    users = [User(name, tmp_path) for _ in range(4)]
    assert len({user.url() for user in users}) == 1
    server = running_process(name, tmp_path)
    for user in users[:3]:
        user.leave()
    time.sleep(0.1)
    assert server.is_running()
    users[3].leave()
    wait_for_end(name, tmp_path)


@each_server
@pytest.mark.parametrize("victim", ["server", "supervisor", "both"])
def test_a_killed_server_or_supervisor_is_restarted(name: str, victim: str, tmp_path: Path) -> None:
    user = User(name, tmp_path)
    user.url()
    server = running_process(name, tmp_path)
    supervisors = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(tmp_path / name) in (process.info["cmdline"] or [])
    ]
    killed = {"server": [server], "supervisor": supervisors, "both": [*supervisors, server]}[victim]
    assert killed
    for process in killed:
        process.kill()
    psutil.wait_procs(killed, timeout=10)
    if victim != "supervisor":
        wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
        assert running_process(name, tmp_path).pid != server.pid
    wait_until(lambda: count_supervisors(name, tmp_path) == 1, description="a new supervisor")
    assert server_of(name, tmp_path).is_ready()
    user.leave()
    wait_for_end(name, tmp_path)


@each_server
def test_pid_and_socket_files_of_a_dead_server_do_not_keep_it_from_starting(name: str, open_home: Path) -> None:
    user = User(name, open_home)
    user.url()
    user.leave()
    wait_for_end(name, open_home)
    server = server_of(name, open_home)
    pid_file = server.data / ("postmaster.pid" if name == "postgres" else "server.pid")
    pid_file.write_text(f"{os.getpid()}\n/nonexistent\n1\n5432\n\n\n0 0\nready\n")
    server.socket_dir.mkdir()
    (server.socket_dir / (".s.PGSQL.5432" if name == "postgres" else "redis.sock")).write_text("")

    second_user = User(name, open_home)
    assert second_user.url() == server.url
    running_process(name, open_home)
    second_user.leave()
    wait_for_end(name, open_home)


@each_server
def test_data_survives_and_a_very_long_path_works(name: str, tmp_path: Path) -> None:
    home = tmp_path / ("deep-" * 15) / ("down-" * 10)
    for expected in ("none", "kept"):
        user = User(name, home)
        url = user.url()
        assert _get_and_set(name, url) == expected
        user.leave()
        wait_for_end(name, home)


def _get_and_set(name: str, url: str) -> str:
    """Read the stored word, then store `kept`."""
    if name == "redis":
        import redis

        client = redis.Redis.from_url(url)
        before = client.getset("memory", "kept")
        return bytes(before).decode() if isinstance(before, bytes) else "none"
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS memory (word text)")
        row = connection.execute("SELECT word FROM memory").fetchone()
        connection.execute("INSERT INTO memory VALUES ('kept')")
    return str(row[0]) if row else "none"


@pytest.fixture
def plain_home() -> Iterator[Path]:
    """A folder of an unprivileged user, with a path short enough for sockets."""
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="patina-") as folder:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@each_server
def test_an_unprivileged_user_can_run_the_servers(name: str, plain_home: Path) -> None:
    for path in (plain_home.parent, ROOT, Path(sys.executable).resolve()):
        for parent in (path, *path.parents):
            if parent.stat().st_mode & 0o005 != 0o005:
                pytest.skip(f"{parent} is closed to other users")
    nobody = plain_home.stat()
    environment = {**os.environ, "HOME": str(plain_home)}
    user = User(name, plain_home, user=nobody.st_uid, group=nobody.st_gid, env=environment)
    user.url()
    server = running_process(name, plain_home)
    assert server.uids().effective == nobody.st_uid
    user.process.send_signal(signal.SIGKILL)
    user.process.wait(10)
    wait_for_end(name, plain_home)


CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a server as somebody else")


def _status(process: psutil.Process) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@as_root
@each_server
@pytest.mark.parametrize("home", ["tmp_path", "open_home"])
def test_a_server_started_by_root_has_its_own_user_and_no_capabilities(
    name: str, home: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(home)
    user = User(name, folder)
    user.url()
    server, status = server_of(name, folder), _status(running_process(name, folder))
    assert {int(status[name], 16) for name in CAPABILITIES} == {0}
    uid = int(status["Uid"].split()[1])
    with pytest.raises(KeyError):
        pwd.getpwuid(uid)
    for private in (server.data, server.socket_dir):
        assert (private.stat().st_uid, private.stat().st_mode & 0o777) == (uid, 0o700)
    user.leave()
    wait_for_end(name, folder)


@as_root
def test_only_the_user_who_runs_patina_can_connect_to_the_embedded_postgresql(open_home: Path) -> None:
    user = User("postgres", open_home)
    url, server = user.url(), Postgres(open_home / "postgres")
    ask = [
        str(server.bin / "psql"),
        url,
        "-tAc",
        "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = 'patina'",
    ]
    completed = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True)
    assert completed.stdout.strip() == "patina|f"
    server.socket_dir.chmod(0o777)
    (server.socket_dir / ".s.PGSQL.5432").chmod(0o777)
    for role in ("patina", "postgres"):
        refused = subprocess.run(
            [
                str(server.bin / "psql"),
                "-h",
                str(server.socket_dir),
                "-U",
                role,
                "-d",
                "patina",
                "-w",
                "-c",
                "SELECT 1",
            ],
            capture_output=True,
            text=True,
            timeout=20,
            user="nobody",
            cwd="/",
        )
        assert refused.returncode == 2
        assert "Peer authentication failed" in refused.stderr
    user.leave()
    wait_for_end("postgres", open_home)


@each_server
def test_nothing_is_left_outside_its_home_once_a_server_has_stopped(name: str, tmp_path: Path) -> None:
    home = tmp_path / ("deep-" * 15) / ("down-" * 10)
    user = User(name, home)
    user.url()
    server = server_of(name, home)
    assert server.socket_dir.exists()
    assert home not in server.socket_dir.parents
    user.leave()
    wait_for_end(name, home)
    assert not server.socket_dir.exists()
    assert (home / name / "data").exists()
    if server.state_dir != server.home:
        assert not server.state_dir.exists()


@each_server
def test_a_server_whose_folder_is_removed_ends(name: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    user = User(name, home)
    user.url()
    process = server_of(name, home).running_process()
    assert process is not None
    user.leave()
    shutil.rmtree(home, ignore_errors=True)
    wait_until(lambda: not process.is_running(), seconds=45, description="the server's end")
    wait_until(lambda: count_supervisors(name, home) == 0, description="the supervisor's end")


@each_server
def test_a_private_folder_gets_its_permissions_corrected_and_a_foreign_one_is_refused(
    name: str, open_home: Path
) -> None:
    server = server_of(name, open_home)
    server.socket_dir.mkdir(parents=True)
    server.socket_dir.chmod(0o777)
    server.prepare()
    assert server.socket_dir.stat().st_mode & 0o777 == 0o700
    if os.geteuid() == 0:
        os.chown(server.socket_dir, 12_345, 12_345)
        with pytest.raises(RuntimeError, match="belongs to another user"):
            server.prepare()


@pytest.mark.parametrize("command", ["web", "worker", "scheduler", "status", "migrate"])
def test_a_missing_url_is_an_error_and_never_an_empty_database(command: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PATINA_HOME": str(tmp_path / "home"), "DATABASE_URL": "", "EMBEDDED_SERVICES": ""}
    completed = subprocess.run(
        [sys.executable, "-m", "cli", command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert completed.returncode == 1
    assert completed.stderr.startswith("DATABASE_URL is not set: PostgreSQL 15 or newer"), completed.stderr
    assert "patina --embedded" in completed.stderr
    assert not (tmp_path / "home").exists()
