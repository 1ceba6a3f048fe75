"""The embedded servers: shared, started once, healed after kills, stopped with the last user."""

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

import psutil
import pytest

from runtime.servers import KINDS, Postgres, Server
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


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A folder that every user may pass to, as a clone in a folder of its own is; `tmp_path` is closed to others."""
    with tempfile.TemporaryDirectory(prefix="patina-") as folder:
        yield Path(folder)


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
def test_pid_and_socket_files_of_a_dead_server_do_not_keep_it_from_starting(kind: str, open_home: Path) -> None:
    user = User(kind, open_home)
    user.url()
    user.leave()
    gone(kind, open_home)
    server = server_of(kind, open_home)
    wait_until(lambda: _owners(kind, open_home) == 0, what="the owner's end")
    pid_file = server.data / ("postmaster.pid" if kind == "postgres" else "server.pid")
    pid_file.write_text(f"{os.getpid()}\n/nonexistent\n1\n5432\n\n\n0 0\nready\n")
    server.run.mkdir()
    (server.run / (".s.PGSQL.5432" if kind == "postgres" else "redis.sock")).write_text("")

    again = User(kind, open_home)
    assert again.url() == server.url
    alive(kind, open_home)
    again.leave()
    gone(kind, open_home)


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


CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a server as somebody else")


def _status(process: psutil.Process) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@as_root
@kinds
@pytest.mark.parametrize("home", ["tmp_path", "open_home"])
def test_a_server_that_root_starts_has_no_capability_and_an_id_of_its_own(
    kind: str, home: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(home)
    user = User(kind, folder)
    user.url()
    server, status = server_of(kind, folder), _status(alive(kind, folder))
    assert {int(status[name], 16) for name in CAPABILITIES} == {0}
    uid = int(status["Uid"].split()[1])
    with pytest.raises(KeyError):
        pwd.getpwuid(uid)
    for private in (server.data, server.run):
        assert (private.stat().st_uid, private.stat().st_mode & 0o777) == (uid, 0o700)
    user.leave()
    gone(kind, folder)


@as_root
def test_only_whoever_runs_patina_reaches_the_embedded_postgresql(open_home: Path) -> None:
    user = User("postgres", open_home)
    url, server = user.url(), Postgres(open_home / "postgres")
    ask = [
        str(server.bin / "psql"),
        url,
        "-tAc",
        "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = 'patina'",
    ]
    told = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True)
    assert told.stdout.strip() == "patina|f"
    server.run.chmod(0o777)
    (server.run / ".s.PGSQL.5432").chmod(0o777)
    for role in ("patina", "postgres"):
        refused = subprocess.run(
            [str(server.bin / "psql"), "-h", str(server.run), "-U", role, "-d", "patina", "-w", "-c", "SELECT 1"],
            capture_output=True,
            text=True,
            timeout=20,
            user="nobody",
            cwd="/",
        )
        assert refused.returncode == 2
        assert "Peer authentication failed" in refused.stderr
    user.leave()
    gone("postgres", open_home)


@kinds
def test_nothing_is_left_outside_its_home_once_a_server_has_stopped(kind: str, tmp_path: Path) -> None:
    home = tmp_path / ("deep-" * 15) / ("down-" * 10)
    user = User(kind, home)
    user.url()
    server = server_of(kind, home)
    assert server.run.exists()
    assert home not in server.run.parents
    user.leave()
    gone(kind, home)
    wait_until(lambda: _owners(kind, home) == 0, what="the owner's end")
    assert not server.run.exists()
    assert (home / kind / "data").exists()
    if server.place != server.home:
        assert not server.place.exists()


@kinds
def test_a_server_whose_folder_is_removed_ends(kind: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    user = User(kind, home)
    user.url()
    process = server_of(kind, home).running()
    assert process is not None
    user.leave()
    shutil.rmtree(home, ignore_errors=True)
    wait_until(lambda: not process.is_running(), seconds=45, what="the server's end")
    wait_until(lambda: _owners(kind, home) == 0, what="the owner's end")


@kinds
def test_a_private_folder_that_is_open_is_closed_and_somebody_elses_is_refused(kind: str, open_home: Path) -> None:
    server = server_of(kind, open_home)
    server.run.mkdir(parents=True)
    server.run.chmod(0o777)
    server.prepare()
    assert server.run.stat().st_mode & 0o777 == 0o700
    if os.geteuid() == 0:
        os.chown(server.run, 12_345, 12_345)
        with pytest.raises(RuntimeError, match="belongs to somebody else"):
            server.prepare()


@pytest.mark.parametrize("command", ["web", "worker", "scheduler", "status", "migrate"])
def test_a_missing_address_is_an_error_and_never_an_empty_database(command: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PATINA_HOME": str(tmp_path / "home"), "DATABASE_URL": "", "EMBEDDED_SERVICES": ""}
    told = subprocess.run(
        [sys.executable, "-m", "cli", command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 1
    assert told.stderr.startswith("DATABASE_URL is not set: PostgreSQL 15 or newer"), told.stderr
    assert "patina --embedded" in told.stderr
    assert not (tmp_path / "home").exists()
