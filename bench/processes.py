"""What a second process of each kind gives on this machine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from bench import drain, load, reads, stage
from bench.figures import Figure, shown

ROWS = 100_000


def _web(rounds: int) -> Figure:
    """Reads by two web processes, each with half of the connections, against one with all of them."""
    one, two = [], []
    made = [reads.requests("/v1/people/{}/invoices?limit=5", ROWS) for _ in range(2)]
    with stage.database(), ExitStack() as open_processes:
        stage.fill_rows(ROWS)
        urls = [open_processes.enter_context(stage.web("cli", "web")) for _ in range(2)]

        def rate(url: str, requests: Callable[[], bytes], connections: int) -> float:
            return load.run(url, requests, connections=connections).rate

        with ThreadPoolExecutor(2) as threads:
            for _ in range(rounds):
                one.append(rate(urls[0], made[0], load.CONNECTIONS))
                two.append(sum(threads.map(rate, urls, made, [load.CONNECTIONS // 2] * 2)))
    return shown("reads by two web processes", two, one, "one web process")


def measure(rounds: int) -> list[Figure]:
    """Web, then worker."""
    return [
        _web(rounds),
        shown(
            "events drained by two worker processes",
            drain.rates(rounds, 2),
            drain.rates(rounds, 1),
            "one worker process",
        ),
    ]
