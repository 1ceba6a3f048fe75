"""The one owner of an embedded server: `python -m runtime.owner postgres HOME`.

It holds `owner.lock` as long as it lives, starts the server, starts it again when it dies, and stops
it once nobody holds `users.lock`. Locks are the kernel's (flock), so a kill leaves none behind.
"""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from runtime.servers import KINDS, Server

START_SECONDS = 60
STOP_SECONDS = 30
LONELY_SECONDS = 2
LOOK_SECONDS = 0.3


def lock(path: Path, *, shared: bool, seconds: float) -> IO[bytes] | None:
    """The open file with a flock on it, or None if others held it for all of `seconds`."""
    handle = path.open("ab")
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() >= deadline:
                handle.close()
                return None
            # flock has no time-out of its own.
            time.sleep(0.02)


class Owner:
    """Runs one server for as long as somebody uses it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.child: subprocess.Popen[bytes] | None = None
        self.stopping = False

    def say(self, text: str) -> None:
        """One line in the server's own log."""
        with self.server.log.open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} owner: {text}\n")

    def start(self) -> psutil.Process:
        """The running server: adopted when the last owner left one, started otherwise."""
        self.server.settled.unlink(missing_ok=True)
        self.server.prepare()
        found = self.server.running()
        if found is not None and self.server.ready():
            self.say(f"adopted {self.server.kind}, pid {found.pid}")
            self.server.settle()
            self.server.settled.touch()
            return found
        if found is not None:
            _end(found)
        self.server.remove_stale_files()
        with self.server.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.server.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.server.ready():
            if self.child.poll() is not None:
                raise RuntimeError(f"{self.server.kind} ended with {self.child.returncode} while starting")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.server.kind} did not answer within {START_SECONDS} s")
            # Neither server says when it takes connections: it is tried.
            time.sleep(0.03)
        self.server.settle()
        self.server.settled.touch()
        self.say(f"started {self.server.kind}, pid {self.child.pid}")
        return psutil.Process(self.child.pid)

    def _alive(self, process: psutil.Process) -> bool:
        if self.child is not None and self.child.pid == process.pid:
            return self.child.poll() is None
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE

    def _alone(self) -> IO[bytes] | None:
        """The users' lock, taken for good, once nobody has used the server for a moment."""
        users = self.server.home / "users.lock"
        taken = lock(users, shared=False, seconds=0)
        if taken is None:
            return None
        taken.close()
        # One command after another shares a server: the next one has this long to come.
        time.sleep(LONELY_SECONDS)
        return lock(users, shared=False, seconds=0)

    def run(self) -> None:
        """Serve until alone or told to stop; raise `RuntimeError` when the server will not start."""
        failures = 0
        while True:
            try:
                process = self.start()
                failures = 0
            except RuntimeError as error:
                failures += 1
                self.say(str(error))
                if failures >= 5:
                    raise
                # Longer after each failure, so that one that cannot start is not started in a loop.
                time.sleep(0.3 * failures)
                continue
            last_users = None
            try:
                while self._alive(process):
                    last_users = self._alone()
                    if last_users is not None or self.stopping:
                        _end(process, self.server.stop_signal)
                        self.server.clear()
                        self.say(f"stopped {self.server.kind}")
                        return
                    # Locks and an adopted process are no children: they can only be looked at.
                    time.sleep(LOOK_SECONDS)
            except OSError:
                # Its folder was removed: nobody can reach the server there any more.
                _end(process, self.server.stop_signal)
                with suppress(OSError):
                    self.server.clear()
                raise
            self.say(f"{self.server.kind} died; starting it again")


def _end(process: psutil.Process, how: signal.Signals = signal.SIGINT) -> None:
    try:
        process.send_signal(how)
        process.wait(STOP_SECONDS)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(5)
    except psutil.NoSuchProcess:
        return


def main(kind: str, home: str) -> int:
    """Own the server of `kind` in `home`; 0 when another owner is at work or the last user left."""
    server = KINDS[kind](Path(home))
    server.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = lock(server.home / "owner.lock", shared=False, seconds=3)
    if held is None:
        return 0
    owner = Owner(server)

    def stop(*_: object) -> None:
        owner.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        owner.run()
    except RuntimeError as error:
        (server.home / "failure").write_text(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
