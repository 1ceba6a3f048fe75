"""Alembic's entry: migrates whatever database the settings name (the embedded one where none is named)."""

from sqlmodel import SQLModel

from alembic import context
from store import models
from store.database import engine

assert models.Account.__table__ is not None
LOCK = 0x7A71_0001


def run() -> None:
    """Run the migrations one process at a time: two that start at once must not race."""
    with engine().connect() as connection:
        context.configure(connection=connection, target_metadata=SQLModel.metadata, compare_server_default=True)
        with context.begin_transaction():
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            context.run_migrations()


run()
