"""Reading a record's invoices: over HTTP, and the cost of one read in the database."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from statistics import median
from typing import Any

import httpx

from bench import environment, load
from bench.figures import Figure, alternate, at_least, at_most
from bench.peers.peer import PeerUnavailableError
from bench.peers.postgraphile import server as postgraphile

ROWS = 2_500_000
PAGE_SIZE = 5
PATH = f"/v1/people/{{}}/invoices?limit={PAGE_SIZE}"
GOAL_EMPTY, GOAL_SQLMODEL, GOAL_POSTGRAPHILE, GOAL_LIVE = 0.5, 5.0, 3.0, 100.0
COMPARED_RECORDS = 50
LIVE_MS = 250.0


def _record_ids(rows: int) -> Iterator[int]:
    """People with invoices, in a fixed pseudo-random order, endlessly."""
    generator = random.Random(1)
    return itertools.cycle(generator.randrange(rows // (environment.ROWS_PER_RECORD * 2)) for _ in range(10_000))


def build_requests(path: str, rows: int) -> Callable[[], bytes]:
    """An endless stream of reads."""
    headers = {"authorization": f"Bearer {environment.KEY}"}
    return _prepared(lambda record_id: load.build_request("GET", path.format(record_id), headers), rows)


def _prepared(build_request: Callable[[int], bytes], rows: int) -> Callable[[], bytes]:
    """An endless stream of requests about records, which are built in advance."""
    requests = [build_request(record_id) for record_id in itertools.islice(_record_ids(rows), 10_000)]
    return load.from_iterator(itertools.cycle(requests))


def measure(rounds: int) -> list[Figure]:
    """Reads over HTTP; the baselines are an empty endpoint, other ways to serve them, and a call to the vendor."""
    reads = build_requests(PATH, ROWS)
    sqlmodel_reads = build_requests(f"/sqlmodel{PATH}", ROWS)
    empty_requests = build_requests("/empty", ROWS)
    with environment.populated_database():
        environment.fill_rows(ROWS)
        with environment.start_web() as url:
            for stream in (reads, sqlmodel_reads, empty_requests):
                load.run(url, stream, seconds=1)
            rates, empty_rates = alternate(
                rounds, lambda: load.run(url, reads).rate, lambda: load.run(url, empty_requests).rate
            )
            more_rates, sqlmodel_rates = alternate(
                rounds, lambda: load.run(url, reads).rate, lambda: load.run(url, sqlmodel_reads).rate
            )
            half_loads = [load.run(url, reads, rate=rate / 2) for rate in rates]
            medians_ms = [load.run(url, reads, connections=1, seconds=1).at(0.5) for _ in range(rounds)]
            peer_figures = _measure_postgraphile(rounds, url, reads, median(empty_rates))
    return [
        at_least(
            "reads per second, 16 connections, 2.5 million rows",
            rates,
            empty_rates,
            GOAL_EMPTY,
            "an empty endpoint of the same server",
            miss_reason="half of a read is its rows: the database round trip and the response",
        ),
        at_most(
            "p99 of a read at half that rate",
            (half_load.at(0.99) for half_load in half_loads),
            10,
            "ms",
            miss_reason="the load, the web process and PostgreSQL share the cores; a read waits while both are taken",
        ),
        *peer_figures,
        at_least(
            "reads per second, against the usual code",
            more_rates,
            sqlmodel_rates,
            GOAL_SQLMODEL,
            "a plain SQLModel endpoint",
        ),
        _compare_with_live_call(medians_ms),
    ]


def _measure_postgraphile(rounds: int, url: str, reads: Callable[[], bytes], empty_rate: float) -> list[Figure]:
    """The same reads by PostGraphile; [] with a printed line if it cannot be measured here.

    `empty_rate` is that of an empty endpoint of our server.
    """
    peer_reads = _prepared(lambda record_id: postgraphile.build_request(1, "person", record_id, PAGE_SIZE), ROWS)
    try:
        with postgraphile.run(1) as peer_url:
            _check_same_rows(url, peer_url)
            load.run(peer_url, peer_reads, seconds=2)
            rates, peer_rates = alternate(
                rounds, lambda: load.run(url, reads).rate, lambda: load.run(peer_url, peer_reads).rate
            )
    except PeerUnavailableError as error:
        print(f"  left out: PostGraphile: {error}", flush=True)
        return []
    name = "reads per second, against the same table and index"
    note = "through the same role and row-level security; PostGraphile looks up no API key"
    baseline = "PostGraphile 5 in production mode"
    share = GOAL_POSTGRAPHILE * median(peer_rates) / empty_rate
    reason = f"an empty response of our server alone takes {share:.0%} of the time that the goal leaves for a read"
    return [at_least(name, rates, peer_rates, GOAL_POSTGRAPHILE, baseline, note=note, miss_reason=reason)]


def _check_same_rows(url: str, peer_url: str) -> None:
    """Both servers return the same invoices of some people, in the same order."""
    with httpx.Client(headers={"authorization": f"Bearer {environment.KEY}"}, trust_env=False, timeout=30) as client:
        for record_id in itertools.islice(_record_ids(ROWS), COMPARED_RECORDS):
            invoices = client.get(f"{url}{PATH.format(record_id)}").raise_for_status().json()["invoices"]
            peer_invoices = postgraphile.read_invoices(peer_url, 1, "person", record_id, PAGE_SIZE)
            assert len(invoices) == PAGE_SIZE
            assert [_own_row(invoice) for invoice in invoices] == [_peer_row(invoice) for invoice in peer_invoices]


def _own_row(invoice: dict[str, Any]) -> tuple[object, ...]:
    names = ("id", "number", "type", "status", "issuer", "issue_date", "due_date", "currency", "created_at_source")
    amounts = (Decimal(invoice["total_due"]), Decimal(invoice["balance_due"]))
    return (*(invoice[name] for name in names), *amounts, datetime.fromisoformat(invoice["created_at"]))


def _peer_row(invoice: dict[str, Any]) -> tuple[object, ...]:
    names = ("invoiceId", "number", "type", "status", "issuer", "issueDate", "dueDate", "currency", "createdSource")
    amounts = (Decimal(invoice["total"]), Decimal(invoice["balance"]))
    return (*(invoice[name] for name in names), *amounts, datetime.fromisoformat(invoice["createdAt"]))


def _compare_with_live_call(medians_ms: list[float]) -> Figure:
    """How much sooner a read is answered than a call to the vendor."""
    ratios = [LIVE_MS / milliseconds for milliseconds in medians_ms]
    return Figure(
        "p50 of a read, one at a time",
        tuple(ratios),
        "times lower",
        f"at least {GOAL_LIVE:g} times lower",
        median(ratios) >= GOAL_LIVE,
        "a live call to Xero",
        details={"ours": f"{median(medians_ms):.2f} ms", "baseline": f"{LIVE_MS:g} ms"},
    )
