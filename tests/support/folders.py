"""Folders for programs that run as another user."""

from __future__ import annotations

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
