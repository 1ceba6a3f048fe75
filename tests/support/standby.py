"""A PostgreSQL of its own for a test, with a standby that follows it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from runtime.servers import APPLICATION_ROLE, DATABASE, SUPERUSER, Postgres
from tests.support.serving import wait_until


class Standby:
    """A primary and its standby; both run until they are stopped."""

    def __init__(self, primary: Postgres, standby: Postgres) -> None:
        self.primary, self.standby = primary, standby
        self.primary_process: subprocess.Popen[bytes] | None = None
        self.standby_process: subprocess.Popen[bytes] | None = None

    def address(self, server: Postgres) -> str:
        """The address of one of the servers for the application's role."""
        return f"host={server.socket_dir} user={APPLICATION_ROLE} dbname={DATABASE}"

    def execute(self, server: Postgres, statement: str) -> None:
        """Execute a statement as superuser."""
        address = f"host={server.socket_dir} user={SUPERUSER} dbname={DATABASE}"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(statement)

    def start_primary(self) -> None:
        """Start the primary, or start it again."""
        self.primary_process = _start(self.primary)

    def start_standby(self) -> None:
        """Start the standby, or start it again."""
        self.standby_process = _start(self.standby)

    def stop_primary(self) -> None:
        """Kill the primary."""
        _kill(self.primary, self.primary_process)

    def stop_standby(self) -> None:
        """Kill the standby."""
        _kill(self.standby, self.standby_process)

    def pause_replay(self) -> None:
        """Let the standby receive changes without showing them."""
        self.execute(self.standby, "SELECT pg_wal_replay_pause()")

    def resume_replay(self) -> None:
        """Let the standby show all changes."""
        self.execute(self.standby, "SELECT pg_wal_replay_resume()")


def _start(server: Postgres) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(server.command(), cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(server.is_ready, description="PostgreSQL")
    return process


def _kill(server: Postgres, process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    process.kill()
    process.wait(10)
    server.remove_stale_files()


@contextmanager
def primary_with_standby(folder: Path) -> Iterator[Standby]:
    """Start both; the application's database is empty."""
    pair = Standby(Postgres(folder / "primary" / "postgres"), Postgres(folder / "standby" / "postgres"))
    try:
        pair.primary.prepare()
        with (pair.primary.auth_dir / "pg_hba.conf").open("a") as rules:
            rules.write(f"local replication {SUPERUSER} trust\n")
        pair.start_primary()
        pair.primary.post_start()
        _copy(pair.primary, pair.standby)
        pair.start_standby()
        yield pair
    finally:
        pair.stop_standby()
        pair.stop_primary()
        for server in (pair.standby, pair.primary):
            server.clean_up()


def _copy(primary: Postgres, standby: Postgres) -> None:
    """Replace the data of the standby by a copy of the primary's, with the primary's address in its settings."""
    # One user owns both, so that the standby reaches the socket of the primary.
    standby.uid = primary.uid
    standby.prepare()
    shutil.rmtree(standby.data)
    command = [str(primary.bin / "pg_basebackup"), "-h", str(primary.socket_dir), "-U", SUPERUSER]
    command += ["-D", str(standby.data), "--write-recovery-conf", "--checkpoint=fast"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    for path in (standby.data, *standby.data.rglob("*")):
        os.chown(path, standby.uid, -1, follow_symlinks=False)
