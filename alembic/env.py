"""Alembic's entry point: migrates the database of the settings, or the embedded one if they name none."""

from typing import Any

from alembic import context
from runtime import embedded
from runtime.service_urls import start_missing_servers_with
from store.db import roles
from store.db.database import engine
from store.models import METADATA

MIGRATION_LOCK_KEY = 0x7A71_0001


def is_migration() -> bool:
    """Whether a revision was requested: Alembic also runs this file to compare and to list."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


def run() -> None:
    """Run the migrations, one process at a time, and then set the roles' privileges."""
    is_downgrade = False

    def record_direction(step: Any, **_: Any) -> None:
        nonlocal is_downgrade
        is_downgrade = is_downgrade or not step.is_upgrade

    with engine().connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=METADATA,
            compare_server_default=True,
            on_version_apply=record_direction,
        )
        with context.begin_transaction():
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK_KEY})")
            context.run_migrations()
            if is_migration() and not is_downgrade:
                roles.apply(connection)


start_missing_servers_with(embedded.use)
run()
