"""Alembic's entry: migrates whatever database the settings name (the embedded one where none is named)."""

from typing import Any

from sqlmodel import SQLModel

from alembic import context
from store import models, roles
from store.database import engine

assert models.Account.__table__ is not None
LOCK = 0x7A71_0001


def is_migration() -> bool:
    """Whether Alembic was asked for a revision: it runs this file to compare and to list, too."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


def run() -> None:
    """Run the migrations one process at a time (two that start at once must not race), then set the roles' rights."""
    is_downgrade = False

    def note(step: Any, **_: Any) -> None:
        nonlocal is_downgrade
        is_downgrade = is_downgrade or not step.is_upgrade

    with engine().connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=SQLModel.metadata,
            compare_server_default=True,
            on_version_apply=note,
        )
        with context.begin_transaction():
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            context.run_migrations()
            if is_migration() and not is_downgrade:
                roles.secure(connection)


run()
