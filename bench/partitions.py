"""The largest tables partitioned by account, beside the plain ones: is it worth it?

The copies are in a schema of their own, which the search path puts first, so that the same statements use either.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median

import psycopg
from psycopg import sql
from sqlalchemy import event, text
from sqlalchemy.pool import ConnectionPoolEntry

from bench import environment
from bench.figures import Figure
from bench.growth import READ
from store.db.database import conninfo, dispose_engine, engine, transaction
from store.read_model import projection
from tests.support import fleet
from tests.support.fleet import FleetSize

SCHEMA = "partitioned"
PARTITIONS = 16
ACCOUNTS, RECORDS = 2_000, 200
TABLES = ("record_invoice", "record_balance", "xero_invoice", "xero_contact_email", "copper_record_email", "inbox")
"""The read model, the mirror as far as one payment's projection reads it, and the inbox."""
READS, PROJECTIONS, REBUILDS = 400, 60, 5
CHANGE = text("""
    UPDATE xero_invoice SET balance = balance - 0.01
    WHERE account_id = :account AND organisation_id = :account AND invoice_id = :invoice
""")
MARK = text("""
    INSERT INTO projection_queue (account_id, entity_type, organisation_id, xero_id)
    VALUES (:account, 'invoice', :account, :invoice)
""")
INVOICE_ID = text("SELECT md5(:account || 'invoice' || 1)::uuid")
# A hundredth of the accounts have changed since the last vacuum.
CHANGE_SOME = "UPDATE record_invoice SET balance = balance - 1 WHERE account_id % 100 = 1"


@dataclass(frozen=True)
class TableCosts:
    """Milliseconds of a read, a projection, a rebuild and a vacuum, and the buffers of a read."""

    read_ms: float
    buffers: float
    projection_ms: float
    rebuild_ms: float
    vacuum_ms: float


def _create_copies() -> None:
    with psycopg.connect(conninfo(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
        for table in TABLES:
            names = {"schema": sql.Identifier(SCHEMA), "table": sql.Identifier(table)}
            connection.execute(
                sql.SQL(
                    "CREATE TABLE {schema}.{table} (LIKE public.{table} INCLUDING ALL EXCLUDING STORAGE)"
                    " PARTITION BY HASH (account_id)"
                ).format(**names)
            )
            for number in range(PARTITIONS):
                connection.execute(
                    sql.SQL(
                        "CREATE TABLE {schema}.{partition} PARTITION OF {schema}.{table}"
                        " FOR VALUES WITH (MODULUS {modulus}, REMAINDER {remainder})"
                    ).format(
                        **names,
                        partition=sql.Identifier(f"{table}_{number}"),
                        modulus=sql.Literal(PARTITIONS),
                        remainder=sql.Literal(number),
                    )
                )
            rows = connection.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s"
                " AND is_generated = 'NEVER' ORDER BY ordinal_position",
                (table,),
            )
            columns = sql.SQL(", ").join(sql.Identifier(row[0]) for row in rows.fetchall())
            connection.execute(
                sql.SQL("INSERT INTO {schema}.{table} ({columns}) SELECT {columns} FROM public.{table}").format(
                    **names, columns=columns
                )
            )
            connection.execute(sql.SQL("VACUUM (ANALYZE) {schema}.{table}").format(**names))


@contextmanager
def _search_path(path: str) -> Iterator[None]:
    """Let new connections of this process find tables there."""
    dispose_engine()

    def set_path(connection: psycopg.Connection, _: ConnectionPoolEntry) -> None:
        connection.execute(f"SET search_path = {path}")
        connection.commit()

    event.listen(engine(), "connect", set_path)
    try:
        yield
    finally:
        dispose_engine()


def _milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1_000 * (time.perf_counter() - started)


def _measure_reads(path: str, accounts: int) -> tuple[float, float]:
    """The median of a read's milliseconds and of its buffers, over random accounts."""
    generator, times, buffers = random.Random(5), [], []
    statement = READ.replace("a.id = 1", "a.id = %s")
    plain = statement.split(")", 1)[1]
    with psycopg.connect(conninfo()) as connection:
        connection.execute(f"SET search_path = {path}")
        for _ in range(READS):
            params = (generator.randrange(1, accounts + 1), 1)
            times.append(_milliseconds(partial(_read, connection, plain, params)))
            row = connection.execute(statement, params).fetchone()
            assert row is not None
            plan = row[0][0]["Plan"]
            buffers.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    return median(times), median(buffers)


def _read(connection: psycopg.Connection, statement: str, params: tuple[int, int]) -> None:
    connection.execute(statement, params).fetchall()


def _measure_projection(accounts: int) -> float:
    generator, times = random.Random(6), []
    for _ in range(PROJECTIONS):
        account_id = generator.randrange(1, accounts + 1)
        with transaction() as session:
            invoice_id = session.execute(INVOICE_ID, {"account": str(account_id)}).scalar_one()
            session.execute(CHANGE, {"account": account_id, "invoice": invoice_id})
            session.execute(MARK, {"account": account_id, "invoice": invoice_id})
        times.append(_milliseconds(partial(_project, account_id)))
    return median(times)


def _project(account_id: int) -> None:
    with transaction() as session:
        assert projection.project_batch(session, account_id).written


def _rebuild(account_id: int) -> None:
    with transaction() as session:
        projection.rebuild(session, account_id)


def _vacuum(path: str) -> float:
    with psycopg.connect(conninfo(), autocommit=True) as connection:
        connection.execute(f"SET search_path = {path}")
        connection.execute(CHANGE_SOME)
        return _milliseconds(lambda: connection.execute("VACUUM record_invoice"))


def _measure(path: str, accounts: int) -> TableCosts:
    read_ms, buffers = _measure_reads(path, accounts)
    with _search_path(path):
        projection_ms = _measure_projection(accounts)
        rebuild_ms = median(_milliseconds(partial(_rebuild, 1 + number * 7 % accounts)) for number in range(REBUILDS))
    return TableCosts(read_ms, buffers, projection_ms, rebuild_ms, _vacuum(path))


def measure(rounds: int) -> list[Figure]:
    """The partitioned copies relative to the plain tables."""
    plain, partitioned = [], []
    with environment.empty_database():
        fleet.load(FleetSize(ACCOUNTS, RECORDS, events=50, runs=10, days=27))
        _create_copies()
        for _ in range(rounds):
            plain.append(_measure("public", ACCOUNTS))
            partitioned.append(_measure(f"{SCHEMA}, public", ACCOUNTS))
    baseline = "the plain tables"
    figures = []
    for name, attribute, unit in (
        ("a read", "read_ms", "ms"),
        ("buffers of a read", "buffers", "buffers"),
        ("one payment's projection", "projection_ms", "ms"),
        ("a rebuild of one account", "rebuild_ms", "ms"),
        ("a vacuum of the read model after changes of 1% of the accounts", "vacuum_ms", "ms"),
    ):
        ours = [getattr(costs, attribute) for costs in partitioned]
        theirs = [getattr(costs, attribute) for costs in plain]
        details = {"partitioned": f"{median(ours):.3g} {unit}", "plain": f"{median(theirs):.3g} {unit}"}
        values = tuple(one / other for one, other in zip(ours, theirs, strict=True))
        title = f"{name}, tables hash-partitioned by account ({PARTITIONS} partitions)"
        figures.append(Figure(title, values, "times", baseline=baseline, details=details))
    return figures
