"""The gain of a second process of each kind on this machine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from bench import drain, environment, load, reads
from bench.figures import Figure, ratio

ROWS = 100_000


def _measure_web(rounds: int) -> Figure:
    """Reads by two web processes with half of the connections each; the baseline is one with all of them."""
    single_rates, double_rates = [], []
    streams = [reads.build_requests("/v1/people/{}/invoices?limit=5", ROWS) for _ in range(2)]
    with environment.populated_database(), ExitStack() as open_processes:
        environment.fill_rows(ROWS)
        urls = [open_processes.enter_context(environment.start_web("cli", "web")) for _ in range(2)]

        def rate(url: str, next_request: Callable[[], bytes], connections: int) -> float:
            return load.run(url, next_request, connections=connections).rate

        with ThreadPoolExecutor(2) as threads:
            for _ in range(rounds):
                single_rates.append(rate(urls[0], streams[0], load.CONNECTIONS))
                double_rates.append(sum(threads.map(rate, urls, streams, [load.CONNECTIONS // 2] * 2)))
    return ratio("reads by two web processes", double_rates, single_rates, "one web process")


def measure(rounds: int) -> list[Figure]:
    """Web processes, then worker processes."""
    return [
        _measure_web(rounds),
        ratio(
            "events drained by two worker processes",
            drain.rates(rounds, 2),
            drain.rates(rounds, 1),
            "one worker process",
        ),
    ]
