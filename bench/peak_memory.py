"""The peak memory of the largest of a process and its children."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

INTERVAL_SECONDS = 0.1


def _high_water_mark(process_id: int) -> float:
    """The kernel's own peak of a process's resident memory in MiB; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def largest_peak(process_id: int) -> float:
    """The peak memory in MiB of the largest of a process and all its children; 0 if it has ended."""
    try:
        process = psutil.Process(process_id)
        process_ids = [process.pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return 0.0
    return max(_high_water_mark(process_id) for process_id in process_ids)


class PeakMemory:
    """Watches a process and its children, also those that end meanwhile; `mebibytes` is the peak of the largest."""

    def __init__(self, process_id: int) -> None:
        self.mebibytes = 0.0
        self._process_id = process_id
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        is_stopped = False
        while not is_stopped:
            self.mebibytes = max(self.mebibytes, largest_peak(self._process_id))
            is_stopped = self._stopping.wait(INTERVAL_SECONDS)
        self.mebibytes = max(self.mebibytes, largest_peak(self._process_id))
