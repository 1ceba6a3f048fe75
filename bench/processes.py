"""The gain of more processes of each kind on this machine."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import psutil

from bench import drain, environment, installation, load, reads
from bench.figures import Figure, at_least, ratio

ROWS = 100_000
WEB_PROCESSES = (1, 2, 4)
GOAL_TWO = 1.8
MIN_CORES = 4
# A quarter of what the part "drain" measures, as there are two series.
EVENTS = drain.EVENTS // 4
# With fewer cores than this, the load has one core instead of two, so that enough are left for what is measured.
CORES_FOR_PAIR = 6


@contextmanager
def _separate_load() -> Iterator[bool]:
    """Pin the load to cores of its own, and all that is started in the block, PostgreSQL and Redis to the others.

    Yields whether the machine has enough cores for that; otherwise all of them share the cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < MIN_CORES:
        yield False
        return
    load_cores = cores[-2 if len(cores) >= CORES_FOR_PAIR else -1 :]
    server_cores = cores[: -len(load_cores)]
    with ExitStack() as stack:
        for process_id in installation.server_ids().values():
            stack.enter_context(_pinned(process_id, server_cores))
        # What this process starts inherits its cores.
        os.sched_setaffinity(0, server_cores)
        stack.callback(os.sched_setaffinity, 0, cores)
        yield True


@contextmanager
def _pinned(process_id: int, cores: Collection[int]) -> Iterator[None]:
    """Pin a process and its child processes, those that it starts later included."""
    before = os.sched_getaffinity(process_id)
    _pin(process_id, cores)
    try:
        yield
    finally:
        _pin(process_id, before)


def _pin(process_id: int, cores: Collection[int]) -> None:
    parent = psutil.Process(process_id)
    for process in (parent, *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            for thread in process.threads():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(thread.id, cores)


def _measure_web(rounds: int) -> list[Figure]:
    """Reads by several web processes with as many connections each; the baseline is the first of them alone."""
    next_read = reads.build_requests(reads.PATH, ROWS)
    rates: dict[int, list[float]] = {count: [] for count in WEB_PROCESSES}
    with environment.populated_database(), ExitStack() as stack:
        environment.fill_rows(ROWS)
        cores = os.sched_getaffinity(0)
        is_separate = stack.enter_context(_separate_load())
        urls = [stack.enter_context(environment.start_web("cli", "web")) for _ in range(max(WEB_PROCESSES))]
        if is_separate:
            os.sched_setaffinity(0, cores - os.sched_getaffinity(0))
        for url in urls:
            load.run(url, next_read, seconds=1)
        for _ in range(rounds):
            for count in WEB_PROCESSES:
                connections = load.CONNECTIONS * count
                rates[count].append(load.run(urls[:count], next_read, connections=connections).rate)
    two = ("reads by two web processes", rates[2], rates[1])
    four = ratio("reads by four web processes", rates[4], rates[1], "one web process")
    if is_separate:
        note = "the load comes from other cores than those of the web processes and PostgreSQL"
        return [at_least(*two, GOAL_TWO, "one web process", note=note), replace(four, note=note)]
    note = f"no goal: the load, the web processes and PostgreSQL share {len(cores)} cores"
    return [replace(ratio(*two, "one web process"), note=note), replace(four, note=note)]


def measure(rounds: int) -> list[Figure]:
    """Web processes, then worker processes."""
    return [
        *_measure_web(rounds),
        ratio(
            f"{EVENTS:,} events drained by two worker processes",
            drain.rates(rounds, 2, EVENTS),
            drain.rates(rounds, 1, EVENTS),
            "one worker process",
        ),
    ]
