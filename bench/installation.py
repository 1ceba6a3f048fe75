"""A whole installation of Patina, with the usual processes, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import text

from bench import environment
from runtime.redis_client import shared_client
from runtime.settings import settings
from store.db.database import transaction
from store.sync import heartbeats
from tests.chaos import free_port
from tests.support.serving import wait_until
from worker.jobs import heartbeat

START_SECONDS = 90
POSTGRES = "PostgreSQL"


@dataclass(frozen=True)
class Memory:
    """Memory in MiB, where what several processes share is divided between them (PSS).

    `shared` is the part of it that is shared memory, such as PostgreSQL's buffer cache.
    """

    total: float = 0.0
    shared: float = 0.0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.total + other.total, self.shared + other.shared)


@dataclass(frozen=True)
class Installation:
    """The processes of an installation by their names, each with its child processes."""

    url: str
    process_ids: Mapping[str, int]

    def read_memory(self) -> dict[str, Memory]:
        """The memory of each part of the installation."""
        return {name: sum(map(_read_memory, _tree(pid)), Memory()) for name, pid in self.process_ids.items()}


def total_mib(parts: Mapping[str, Memory]) -> float:
    """The memory of all parts in MiB."""
    return sum(memory.total for memory in parts.values())


def describe(parts: Mapping[str, Memory]) -> dict[str, str]:
    """The memory of each part as text."""
    return {name: f"{memory.total:.0f} MiB" for name, memory in parts.items()}


def _read_memory(process: psutil.Process) -> Memory:
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return Memory()
    mib = {name: int(value.split()[0]) / 1024 for name, _, value in (line.partition(":") for line in lines[1:])}
    return Memory(mib["Pss"], mib["Pss_Shmem"])


def _tree(process_id: int) -> list[psutil.Process]:
    process = psutil.Process(process_id)
    return [process, *process.children(recursive=True)]


def server_ids() -> dict[str, int]:
    """The process ids of the two servers in use."""
    with transaction() as session:
        backend = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
    return {POSTGRES: psutil.Process(backend).ppid(), "Redis": int(shared_client().info("server")["process_id"])}


@contextmanager
def run(*, scheduler_variables: Mapping[str, str] | None = None) -> Iterator[Installation]:
    """Run a web process at PORT, a worker and a scheduler until the block ends; yields once all of them are up."""
    environment.execute("DELETE FROM heartbeat")
    url = f"http://127.0.0.1:{settings().port}"
    with ExitStack() as stack:
        web = stack.enter_context(environment.start_process("cli", "web", ready_url=f"{url}/healthz"))
        worker = stack.enter_context(environment.start_process("cli", "worker"))
        scheduler = stack.enter_context(
            environment.start_process("cli", "scheduler", variables=dict(scheduler_variables or {}))
        )
        wait_until(_is_started, seconds=START_SECONDS, description="the start of all processes")
        process_ids = {"web": web.pid, "worker": worker.pid, "scheduler": scheduler.pid}
        yield Installation(url, {**process_ids, **server_ids()})


def address() -> dict[str, str]:
    """Settings that let the web process listen on a free port."""
    port = free_port()
    return {"PORT": str(port), "PUBLIC_URL": f"http://127.0.0.1:{port}"}


def _is_started() -> bool:
    with transaction() as session:
        return set(heartbeats.heartbeat_ages(session)) >= set(heartbeat.PROCESSES)
