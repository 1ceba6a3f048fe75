"""The schema's migrations. Alembic is imported here only, because it takes long to import, and much memory."""

from __future__ import annotations

from alembic.config import Config

from alembic import command
from store.db.schema_version import MIGRATIONS


def migrate(revision: str = "head") -> None:
    """Migrate the schema to `revision` (in Alembic's terms: `head`, `base`, `-1`, an id)."""
    config = alembic_config()
    if revision == "base" or revision.startswith("-"):
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)


def alembic_config() -> Config:
    """Alembic's configuration for this project, independent of the working directory."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config
