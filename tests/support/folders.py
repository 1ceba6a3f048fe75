"""Folders for programs that run as another user, and those that a command empties before it starts."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_for_all_users() -> Iterator[Path]:
    """A temporary folder that every user may enter, removed at the end.

    Not in pytest's own: whenever a test run starts, it takes all rights for others from that.
    """
    folder = Path(tempfile.mkdtemp(prefix="patina-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def emptied_for_one_run(folder: Path) -> Iterator[None]:
    """Empty a command's folder, which no other run may use until the block ends; else end with exit code 1."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"{folder.name}: another run uses this folder; wait until it has ended") from None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield
