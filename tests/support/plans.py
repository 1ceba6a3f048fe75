"""The plans of the statements that the product executes, measured by PostgreSQL while they run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import TupleRow
from sqlalchemy import Connection, event
from typing_extensions import override

from store.db.database import engine

EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
EXPLAINED = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True)
class Plan:
    """A statement's plan: its text, the buffers it read and wrote, and the tables that it read completely."""

    statement: str
    buffers: int
    scanned_tables: frozenset[str]

    @property
    def title(self) -> str:
        """The statement on one line, shortened."""
        return " ".join(self.statement.split())[:160]


def _is_explained(statement: str) -> bool:
    return statement.strip().startswith(EXPLAINED)


def _to_plan(statement: str, row: Any) -> Plan:
    (plan,) = row[0]
    root = plan["Plan"]
    buffers = sum(root[f"Shared {kind} Blocks"] for kind in ("Hit", "Read"))
    return Plan(statement, buffers, frozenset(_scanned(root)))


def _scanned(node: dict[str, Any]) -> Iterator[str]:
    if node["Node Type"] == "Seq Scan":
        yield node["Relation Name"]
    for child in node.get("Plans", ()):
        yield from _scanned(child)


@contextmanager
def explained() -> Iterator[list[Plan]]:
    """The plans of the statements that this process's engine executes until the block ends, in their order.

    Each statement is executed twice: to explain it, which is rolled back, and then as the product does.
    """
    plans: list[Plan] = []

    def explain(connection: Connection, _: Any, statement: str, params: Any, __: Any, is_many: bool) -> None:
        if is_many or not _is_explained(statement):
            return
        cursor = connection.connection.cursor()
        cursor.execute("SAVEPOINT explained")
        cursor.execute(EXPLAIN + statement, params)
        plans.append(_to_plan(statement, cursor.fetchone()))
        cursor.execute("ROLLBACK TO SAVEPOINT explained")
        cursor.close()

    event.listen(engine(), "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(engine(), "before_cursor_execute", explain)


class ExplainingConnection(psycopg.AsyncConnection[TupleRow]):
    """A connection that notes each statement's plan in `plans` before it executes it, in one transaction."""

    plans: list[Plan]

    @override
    async def execute(self, query: Any, params: Any = None, **options: Any) -> psycopg.AsyncCursor[TupleRow]:
        if isinstance(query, str) and _is_explained(query):
            await super().execute("SAVEPOINT explained")
            cursor = await super().execute(EXPLAIN + query, params)
            self.plans.append(_to_plan(query, await cursor.fetchone()))
            await super().execute("ROLLBACK TO SAVEPOINT explained")
        return await super().execute(query, params, **options)
