"""The supervisor of an embedded server: `python -m runtime.supervisor postgres HOME`.

There is one per server: it holds `supervisor.lock` while it lives, starts the server, restarts it when it dies, and
stops it once no process holds `users.lock`. Both are flock locks, which the kernel releases when a process is killed.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from runtime.servers import SERVERS, Server

START_SECONDS = 60
STOP_SECONDS = 30
UNUSED_SECONDS = 2
POLL_SECONDS = 0.3


def acquire_lock(path: Path, *, shared: bool, timeout: float) -> IO[bytes] | None:
    """The open file with a flock on it; None if it could not be acquired within `timeout` seconds."""
    handle = path.open("ab")
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(handle, operation | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() >= deadline:
                handle.close()
                return None
            # flock has no timeout of its own.
            time.sleep(0.02)


class Supervisor:
    """Runs one server for as long as a process uses it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.child: subprocess.Popen[bytes] | None = None
        self.is_stopping = False

    def log(self, message: str) -> None:
        """Write one line to the server's log."""
        with self.server.log.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} supervisor: {message}\n")

    def start(self) -> psutil.Process:
        """The running server: adopted from a previous supervisor if there is one, otherwise started."""
        self.server.ready_file.unlink(missing_ok=True)
        self.server.prepare()
        process = self.server.running_process()
        if process is not None and self.server.is_ready():
            self.log(f"adopted {self.server.name}, pid {process.pid}")
            self.server.post_start()
            self.server.ready_file.touch()
            return process
        if process is not None:
            _terminate(process)
        self.server.remove_stale_files()
        with self.server.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.server.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, **self.server.variables},
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.server.is_ready():
            if self.child.poll() is not None:
                raise RuntimeError(f"{self.server.name} exited with {self.child.returncode} while starting")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.server.name} did not answer within {START_SECONDS} s")
            # Neither server announces that it accepts connections, so it is polled.
            time.sleep(0.03)
        self.server.post_start()
        self.server.ready_file.touch()
        self.log(f"started {self.server.name}, pid {self.child.pid}")
        return psutil.Process(self.child.pid)

    def _is_alive(self, process: psutil.Process) -> bool:
        if self.child is not None and self.child.pid == process.pid:
            return self.child.poll() is None
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE

    def _lock_if_unused(self) -> IO[bytes] | None:
        """The exclusive users' lock if no process has used the server for `UNUSED_SECONDS`; otherwise None."""
        users = self.server.users_lock_file
        probe = acquire_lock(users, shared=False, timeout=0)
        if probe is None:
            return None
        probe.close()
        # Consecutive commands share a server: the next one has this long to start.
        time.sleep(UNUSED_SECONDS)
        return acquire_lock(users, shared=False, timeout=0)

    def run(self) -> None:
        """Run the server until it is unused or a stop is requested; raises `RuntimeError` if it does not start."""
        failures = 0
        while True:
            try:
                process = self.start()
                failures = 0
            except RuntimeError as error:
                failures += 1
                self.log(str(error))
                if failures >= 5:
                    raise
                # Back off after each failure, so a server that cannot start is not started in a tight loop.
                time.sleep(0.3 * failures)
                continue
            exclusive_lock = None
            try:
                while self._is_alive(process):
                    exclusive_lock = self._lock_if_unused()
                    if exclusive_lock is not None or self.is_stopping:
                        _terminate(process, self.server.stop_signal)
                        self.server.clean_up()
                        self.log(f"stopped {self.server.name}")
                        return
                    # Locks and an adopted process are no children of ours: they can only be polled.
                    time.sleep(POLL_SECONDS)
            except OSError:
                # Its directory was removed, so no process can reach the server any more.
                _terminate(process, self.server.stop_signal)
                with suppress(OSError):
                    self.server.clean_up()
                raise
            self.log(f"{self.server.name} died; restarting it")


def _terminate(process: psutil.Process, stop_signal: signal.Signals = signal.SIGINT) -> None:
    try:
        process.send_signal(stop_signal)
        process.wait(STOP_SECONDS)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(5)
    except psutil.NoSuchProcess:
        return


def main(name: str, home: str) -> int:
    """Supervise the server `name` in `home`; 0 when another supervisor runs or the last user has left."""
    server = SERVERS[name](Path(home))
    server.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    supervisor_lock = acquire_lock(server.supervisor_lock_file, shared=False, timeout=3)
    if supervisor_lock is None:
        return 0
    supervisor = Supervisor(server)

    def stop(*_: object) -> None:
        supervisor.is_stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        supervisor.run()
    except RuntimeError as error:
        server.failure_file.write_text(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
