"""Reading a record's invoices: over HTTP, and what one read costs in the database."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable

import psycopg

from bench import load, stage
from bench.figures import Figure, at_least, at_most, ratios
from store.database import conninfo

ROWS = 2_500_000
GOAL_EMPTY, GOAL_PLAIN, GOAL_LIVE = 0.45, 5.0, 100.0
LIVE_MS = 250.0
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
# The statement that invoices_by_key runs, with the account bound as the function binds it.
BOUND = ("SELECT set_config('role', read_role(), true)", "SELECT set_config('patina.account', '1', true)")
READ = """
    EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
    SELECT r.created_at, r.invoice_id, r.type, r.status, r.number, r.issuer, r.issue_date, r.due_date, r.total,
           r.balance, r.currency, r.created_source, r.short_code, r.organisation_id
    FROM record_invoice r
    WHERE r.account_id = 1 AND r.record_type = 'person' AND r.record_id = %s
      AND (r.created_at, r.invoice_id) < ('infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff') AND r.type <> 'ACCPAY'
    ORDER BY r.created_at DESC, r.invoice_id DESC LIMIT 6
"""


def requests(path: str, rows: int) -> Callable[[], bytes]:
    """Endless reads of records, the same ones in the same order each time they are made."""
    dice = random.Random(1)
    headers = {"authorization": f"Bearer {stage.KEY}"}
    paths = [path.format(dice.randrange(rows // (stage.ROWS_A_RECORD * 2))) for _ in range(10_000)]
    made = [load.request("GET", one, headers) for one in paths]
    return load.each(itertools.cycle(made))


def http(rounds: int) -> list[Figure]:
    """Reads over HTTP against an empty endpoint, the plain endpoint, and a call to the vendor."""
    ours = requests("/v1/people/{}/invoices?limit=5", ROWS)
    plain = requests("/plain/v1/people/{}/invoices?limit=5", ROWS)
    empty = requests("/empty", ROWS)
    with stage.database():
        stage.fill_rows(ROWS)
        with stage.web() as url:
            for warm in (ours, plain, empty):
                assert load.run(url, warm, seconds=1).failed == 0
            mine, nothing = ratios(rounds, lambda: load.run(url, ours).rate, lambda: load.run(url, empty).rate)
            again, slow = ratios(rounds, lambda: load.run(url, ours).rate, lambda: load.run(url, plain).rate)
            half = [load.run(url, ours, rate=rate / 2) for rate in mine]
            alone = [load.run(url, ours, connections=1, seconds=1).at(0.5) for _ in range(rounds)]
    live = [LIVE_MS / one for one in alone]
    return [
        at_least(
            "reads a second, 16 connections, 2.5 million rows",
            mine,
            nothing,
            GOAL_EMPTY,
            "an empty endpoint",
            why="half of a read is its rows: the way to the database and back, and the answer",
        ),
        at_most("p99 of a read at half that rate", (one.at(0.99) for one in half), 10, "ms"),
        at_least("the same reads", again, slow, GOAL_PLAIN, "the plain SQLModel endpoint"),
        Figure(
            "p50 of a read, one at a time",
            tuple(live),
            "times lower",
            f"at least {GOAL_LIVE:g} times lower",
            sorted(live)[len(live) // 2] >= GOAL_LIVE,
            f"asking Xero live ({LIVE_MS:g} ms a call)",
            details={"ours": f"{sorted(alone)[len(alone) // 2]:.2f} ms"},
        ),
    ]


def cost(rounds: int, sizes: tuple[int, ...] = SIZES) -> list[Figure]:
    """Buffers and heap fetches of one read, as the table grows tenfold and tenfold again."""
    seen: list[tuple[int, int, str]] = []
    with stage.database():
        there = 0
        for size in sizes:
            stage.fill_rows(size, there=there)
            there = size
            seen.append(_explained(size, rounds))
    growth = [after[0] - before[0] for before, after in itertools.pairwise(seen)]
    told = {f"{size:,} rows": f"{one[0]} buffers" for size, one in zip(sizes, seen, strict=True)}
    node = {one[2] for one in seen}
    return [
        at_most("buffers of a read", (one[0] for one in seen), 8, "buffers", note=", ".join(node), **told),
        at_most("heap fetches of a read after vacuum", (one[1] for one in seen), 0, "fetches"),
        at_most("more buffers per tenfold", growth, 1, "buffers"),
    ]


def _explained(size: int, rounds: int) -> tuple[int, int, str]:
    """The most buffers and heap fetches of some reads, and how they were planned."""
    dice, buffers, fetches, node = random.Random(2), 0, 0, ""
    with psycopg.connect(conninfo()) as connection:
        for statement in BOUND:
            connection.execute(statement)
        # A connection's first read also looks up the catalogue, once for its life.
        connection.execute(READ, (0,)).fetchone()
        for _ in range(rounds * 4):
            record = dice.randrange(size // (stage.ROWS_A_RECORD * 2))
            row = connection.execute(READ, (record,)).fetchone()
            assert row is not None
            told = row[0] if isinstance(row[0], list) else json.loads(row[0])
            scan = told[0]["Plan"]
            buffers = max(buffers, scan["Shared Hit Blocks"] + scan["Shared Read Blocks"])
            while scan.get("Plans"):
                scan = scan["Plans"][0]
            node, fetches = scan["Node Type"], max(fetches, scan.get("Heap Fetches", -1))
    return buffers, fetches, node
