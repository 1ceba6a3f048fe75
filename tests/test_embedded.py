"""The embedded servers: shared, started once, healed after kills, stopped with the last user."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runtime.servers import KINDS, Server
from tests.processes import ROOT
from tests.serving import wait_until

USER = """
import sys, time
from pathlib import Path
from runtime.embedded import use
print(use(sys.argv[1], Path(sys.argv[2])), flush=True)
sys.stdin.read()
"""
kinds = pytest.mark.parametrize("kind", ["postgres", "redis"])


class User:
    """A process that uses an embedded server until it is let go."""

    def __init__(self, kind: str, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, kind, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, self.process.communicate(timeout=20)[1]
        return line

    def leave(self) -> None:
        self.process.communicate("", timeout=20)


def server_of(kind: str, home: Path) -> Server:
    return KINDS[kind](home / kind)


def alive(kind: str, home: Path) -> psutil.Process:
    server = server_of(kind, home)
    wait_until(lambda: server.running() is not None and server.ready(), what=f"{kind} to run")
    found = server.running()
    assert found is not None
    return found


def gone(kind: str, home: Path) -> None:
    server = server_of(kind, home)
    wait_until(lambda: server.running() is None, seconds=40, what=f"the end of {kind}")


@kinds
def test_processes_that_start_at_once_share_one_server_which_stops_with_the_last(kind: str, tmp_path: Path) -> None:
    users = [User(kind, tmp_path) for _ in range(4)]
    assert len({user.url() for user in users}) == 1
    server = alive(kind, tmp_path)
    for user in users[:3]:
        user.leave()
    time.sleep(0.1)
    assert server.is_running()
    users[3].leave()
    gone(kind, tmp_path)


@kinds
@pytest.mark.parametrize("victim", ["server", "owner", "both"])
def test_a_killed_server_or_owner_is_back_by_itself(kind: str, victim: str, tmp_path: Path) -> None:
    user = User(kind, tmp_path)
    user.url()
    server = alive(kind, tmp_path)
    owners = [one for one in psutil.process_iter(["cmdline"]) if str(tmp_path / kind) in (one.info["cmdline"] or [])]
    killed = {"server": [server], "owner": owners, "both": [*owners, server]}[victim]
    assert killed
    for one in killed:
        one.kill()
    psutil.wait_procs(killed, timeout=10)
    if victim != "owner":
        wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
        assert alive(kind, tmp_path).pid != server.pid
    wait_until(lambda: _owners(kind, tmp_path) == 1, what="a new owner")
    assert server_of(kind, tmp_path).ready()
    user.leave()
    gone(kind, tmp_path)


def _owners(kind: str, home: Path) -> int:
    return sum(str(home / kind) in (one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"]))


@kinds
def test_pid_and_socket_files_of_a_dead_server_do_not_keep_it_from_starting(kind: str, tmp_path: Path) -> None:
    user = User(kind, tmp_path)
    user.url()
    user.leave()
    gone(kind, tmp_path)
    server = server_of(kind, tmp_path)
    wait_until(lambda: _owners(kind, tmp_path) == 0, what="the owner's end")
    pid_file = server.data / "postmaster.pid" if kind == "postgres" else server.home / "server.pid"
    pid_file.write_text(f"{os.getpid()}\n/nonexistent\n1\n5432\n\n\n0 0\nready\n")
    (server.run / (".s.PGSQL.5432" if kind == "postgres" else "redis.sock")).write_text("")

    again = User(kind, tmp_path)
    assert again.url() == server.url
    alive(kind, tmp_path)
    again.leave()
    gone(kind, tmp_path)


@kinds
def test_data_survives_and_a_very_long_path_works(kind: str, tmp_path: Path) -> None:
    home = tmp_path / ("deep-" * 15) / ("down-" * 10)
    for expected in ("none", "kept"):
        user = User(kind, home)
        url = user.url()
        assert _remember(kind, url) == expected
        user.leave()
        gone(kind, home)


def _remember(kind: str, url: str) -> str:
    """Read what was remembered, then remember `kept`."""
    if kind == "redis":
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
    """A folder of a user who is not root, on a path short enough for sockets: a longer one depends on who asks."""
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="patina-") as folder:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@kinds
def test_a_plain_user_can_run_them_too(kind: str, plain_home: Path) -> None:
    for place in (plain_home.parent, ROOT, Path(sys.executable).resolve()):
        for parent in (place, *place.parents):
            if parent.stat().st_mode & 0o005 != 0o005:
                pytest.skip(f"{parent} is closed to other users")
    nobody = plain_home.stat()
    process = subprocess.Popen(
        [sys.executable, "-c", USER, kind, str(plain_home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        user=nobody.st_uid,
        group=nobody.st_gid,
        env={**os.environ, "HOME": str(plain_home)},
    )
    assert process.stdout is not None
    assert process.stdout.readline(), process.communicate(timeout=20)[1]
    server = alive(kind, plain_home)
    assert server.uids().effective == nobody.st_uid
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    gone(kind, plain_home)
