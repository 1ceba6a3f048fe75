"""The database of a test process, whose rows are replaced before each test.

Creating and dropping a database for each test takes longer than most tests. A test that changes the schema leaves a
mark, and the next test gets a new database.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from store.db import database
from tests.support import databases

# Marks every change of the schema; TRUNCATE and what is rolled back leave no mark.
MARK_SCHEMA_CHANGES = """
    CREATE SCHEMA tests;
    CREATE TABLE tests.schema_change (tag text);
    CREATE FUNCTION tests.mark() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN INSERT INTO tests.schema_change VALUES (tg_tag); END $$;
    CREATE EVENT TRIGGER mark_changes ON ddl_command_end EXECUTE FUNCTION tests.mark();
    CREATE EVENT TRIGGER mark_drops ON sql_drop EXECUTE FUNCTION tests.mark();
    TRUNCATE tests.schema_change;
"""
DISCONNECT_OTHERS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
LIST_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
LIST_LARGE_TABLES = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND pg_table_size(oid) > %s
"""
LIST_SEQUENCES = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public'"

MAX_DELETED_BYTES = 256 * 1024
DISCONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Rows:
    """What a database contains: the rows of each table that has any, as `COPY` writes them, and the sequences."""

    tables: dict[str, bytes]
    sequences: dict[str, int | None]


@dataclass
class ReusedDatabase:
    """The database of this process, created when it is first used."""

    name: str = ""
    _tables: list[str] = field(default_factory=list)
    _initial: Rows | None = None

    def use(self, rows: Rows | None = None) -> str:
        """Use the database in this process, with these rows, by default those of a new one; returns its name."""
        database.dispose_engine()
        if not self.name or not self._replace_rows(rows):
            self.drop()
            self._create()
            if rows is not None:
                self._replace_rows(rows)
        databases.use(self.name)
        return self.name

    def rows(self) -> Rows:
        """What the database contains now."""
        with databases.connect_as_superuser(self.name) as connection:
            contents = {table: b"".join(_copy_out(connection, table)) for table in self._tables}
            filled = {table: content for table, content in contents.items() if content}
            return Rows(filled, dict(connection.execute(LIST_SEQUENCES).fetchall()))

    def drop(self) -> None:
        """Drop the database."""
        if self.name:
            databases.drop(self.name)
            self.name = ""

    def _create(self) -> None:
        self.name = databases.create()
        with databases.connect_as_superuser(self.name) as connection:
            connection.execute(MARK_SCHEMA_CHANGES)
            self._tables = [table for (table,) in connection.execute(LIST_TABLES)]
        self._initial = self.rows()

    def _replace_rows(self, rows: Rows | None) -> bool:
        """Replace all rows and values of sequences; returns False if a test has changed the schema."""
        rows = rows or self._initial
        assert rows is not None
        with databases.connect_as_superuser(self.name) as connection:
            if connection.execute("SELECT 1 FROM tests.schema_change LIMIT 1").fetchone():
                return False
            _disconnect_others(connection)
            # The rows are consistent, so no trigger has to check them or to react to them.
            connection.execute("SET session_replication_role = replica")
            _empty(connection, self._tables)
            for table, content in rows.tables.items():
                with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))) as copy:
                    copy.write(content)
            for sequence, value in connection.execute(LIST_SEQUENCES).fetchall():
                wanted = rows.sequences.get(sequence)
                if value != wanted:
                    connection.execute(
                        "SELECT setval(quote_ident(%s)::regclass, %s, %s)", (sequence, wanted or 1, wanted is not None)
                    )
        return True


def _disconnect_others(connection: psycopg.Connection) -> None:
    """End all other connections: nothing that an earlier test left running may write into this one's database."""
    deadline = time.monotonic() + DISCONNECT_SECONDS
    while connection.execute(DISCONNECT_OTHERS).fetchone() != (0,):
        if time.monotonic() > deadline:
            raise TimeoutError("a connection to the database of the tests does not end")
        time.sleep(0.003)


def _empty(connection: psycopg.Connection, tables: Sequence[str]) -> None:
    """Delete all rows. While tables are small, that is quicker than TRUNCATE, which creates files."""
    for (table,) in connection.execute(LIST_LARGE_TABLES, (MAX_DELETED_BYTES,)).fetchall():
        connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.Identifier(table)))
    statements = (sql.SQL("DELETE FROM {}").format(sql.Identifier(table)) for table in tables)
    cursor = connection.execute(sql.SQL("; ").join(statements))
    filled = []
    for table in tables:
        if cursor.rowcount:
            filled.append(sql.Identifier(table))
        cursor.nextset()
    if filled:
        # Otherwise the deleted rows would count in plans and in the number of buffers that a statement reads.
        vacuum = sql.SQL("VACUUM (INDEX_CLEANUP on, PROCESS_TOAST off) {}")
        connection.execute(vacuum.format(sql.SQL(", ").join(filled)))


def _copy_out(connection: psycopg.Connection, table: str) -> Iterator[bytes]:
    with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as copy:
        yield from map(bytes, copy)
