"""Reading a record's invoices: over HTTP, and the cost of one read in the database."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from typing import NamedTuple

import psycopg

from bench import environment, load
from bench.figures import Figure, alternate, at_least, at_most
from store.db.database import conninfo

ROWS = 2_500_000
GOAL_EMPTY, GOAL_SQLMODEL, GOAL_LIVE = 0.45, 5.0, 100.0
LIVE_MS = 250.0
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
# The statement of the function invoices_by_key, after its setting of role and account.
SET_ACCOUNT = ("SELECT set_config('role', read_role(), true)", "SELECT set_config('patina.account', '1', true)")
READ = """
    EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
    SELECT r.created_at, r.invoice_id, r.type, r.status, r.number, r.issuer, r.issue_date, r.due_date, r.total,
           r.balance, r.currency, r.created_source, r.short_code, r.organisation_id, r.reference, r.paid_on,
           r.expected_payment_date, r.amount_paid, r.amount_credited, r.is_sent
    FROM account a JOIN record_invoice r ON r.account_id = a.id
    WHERE a.id = 1 AND r.record_type = 'person' AND r.record_id = %s
      AND (r.created_at, r.invoice_id) < ('infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff')
      AND is_shown(a, r.record_type, r.type, r.status)
    ORDER BY r.created_at DESC, r.invoice_id DESC LIMIT 6
"""


def build_requests(path: str, rows: int) -> Callable[[], bytes]:
    """An endless stream of reads, in a fixed pseudo-random order."""
    generator = random.Random(1)
    headers = {"authorization": f"Bearer {environment.KEY}"}
    paths = [path.format(generator.randrange(rows // (environment.ROWS_PER_RECORD * 2))) for _ in range(10_000)]
    requests = [load.build_request("GET", path, headers) for path in paths]
    return load.from_iterator(itertools.cycle(requests))


def measure_http(rounds: int) -> list[Figure]:
    """Reads over HTTP; the baselines are an empty endpoint, the SQLModel endpoint, and a call to the vendor."""
    reads = build_requests("/v1/people/{}/invoices?limit=5", ROWS)
    sqlmodel_reads = build_requests("/sqlmodel/v1/people/{}/invoices?limit=5", ROWS)
    empty_requests = build_requests("/empty", ROWS)
    with environment.populated_database():
        environment.fill_rows(ROWS)
        with environment.start_web() as url:
            for stream in (reads, sqlmodel_reads, empty_requests):
                assert load.run(url, stream, seconds=1).failed == 0
            rates, empty_rates = alternate(
                rounds, lambda: load.run(url, reads).rate, lambda: load.run(url, empty_requests).rate
            )
            more_rates, sqlmodel_rates = alternate(
                rounds, lambda: load.run(url, reads).rate, lambda: load.run(url, sqlmodel_reads).rate
            )
            half_loads = [load.run(url, reads, rate=rate / 2) for rate in rates]
            medians_ms = [load.run(url, reads, connections=1, seconds=1).at(0.5) for _ in range(rounds)]
    live_ratios = [LIVE_MS / milliseconds for milliseconds in medians_ms]
    return [
        at_least(
            "reads per second, 16 connections, 2.5 million rows",
            rates,
            empty_rates,
            GOAL_EMPTY,
            "an empty endpoint",
            miss_reason="half of a read is its rows: the database round trip and the response",
        ),
        at_most("p99 of a read at half that rate", (half_load.at(0.99) for half_load in half_loads), 10, "ms"),
        at_least("the same reads", more_rates, sqlmodel_rates, GOAL_SQLMODEL, "a plain SQLModel endpoint"),
        Figure(
            "p50 of a read, one at a time",
            tuple(live_ratios),
            "times lower",
            f"at least {GOAL_LIVE:g} times lower",
            sorted(live_ratios)[len(live_ratios) // 2] >= GOAL_LIVE,
            f"a live call to Xero ({LIVE_MS:g} ms)",
            details={"ours": f"{sorted(medians_ms)[len(medians_ms) // 2]:.2f} ms"},
        ),
    ]


def measure_cost(rounds: int, sizes: tuple[int, ...] = SIZES) -> list[Figure]:
    """Buffers and heap fetches of one read, while the table grows tenfold each time."""
    costs: list[ReadCost] = []
    with environment.populated_database():
        existing = 0
        for size in sizes:
            environment.fill_rows(size, existing=existing)
            existing = size
            costs.append(_explain(size, rounds))
    growth = [after.buffers - before.buffers for before, after in itertools.pairwise(costs)]
    details = {f"{size:,} rows": f"{cost.buffers} buffers" for size, cost in zip(sizes, costs, strict=True)}
    plan_nodes = ", ".join({cost.plan_node for cost in costs})
    return [
        at_most("buffers of a read", (cost.buffers for cost in costs), 8, "buffers", note=plan_nodes, **details),
        at_most("heap fetches of a read after vacuum", (cost.heap_fetches for cost in costs), 0, "fetches"),
        at_most("more buffers per tenfold rows", growth, 1, "buffers"),
    ]


class ReadCost(NamedTuple):
    """The maximum of buffers and heap fetches over some reads, and the plan's innermost node."""

    buffers: int
    heap_fetches: int
    plan_node: str


def _explain(size: int, rounds: int) -> ReadCost:
    generator, buffers, fetches, node = random.Random(2), 0, 0, ""
    with psycopg.connect(conninfo()) as connection:
        for statement in SET_ACCOUNT:
            connection.execute(statement)
        # The first read of a connection also loads the system catalogue.
        connection.execute(READ, (0,)).fetchone()
        for _ in range(rounds * 4):
            record = generator.randrange(size // (environment.ROWS_PER_RECORD * 2))
            row = connection.execute(READ, (record,)).fetchone()
            assert row is not None
            plans = row[0] if isinstance(row[0], list) else json.loads(row[0])
            scan = plans[0]["Plan"]
            buffers = max(buffers, scan["Shared Hit Blocks"] + scan["Shared Read Blocks"])
            while scan.get("Plans"):
                scan = scan["Plans"][0]
            node, fetches = scan["Node Type"], max(fetches, scan.get("Heap Fetches", -1))
    return ReadCost(buffers, fetches, node)
