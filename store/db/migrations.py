"""The schema's migrations. Alembic is imported here only, because it takes long to import."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from alembic import command
from store.db.database import engine


def migrate(revision: str = "head") -> None:
    """Migrate the schema to `revision` (in Alembic's terms: `head`, `base`, `-1`, an id)."""
    config = alembic_config()
    if revision == "base" or revision.startswith("-"):
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)


def is_at_head() -> bool:
    """Whether the database has every migration that this code knows, which a newer schema has too."""
    with engine().connect() as connection:
        current = set(MigrationContext.configure(connection).get_current_heads())
    known, heads = _revisions()
    return current == heads or bool(current - known)


@lru_cache(maxsize=1)
def _revisions() -> tuple[frozenset[str], frozenset[str]]:
    """All revisions of this code, and its heads. Cached, because the files do not change while the process runs."""
    scripts = ScriptDirectory.from_config(alembic_config())
    return frozenset(script.revision for script in scripts.walk_revisions()), frozenset(scripts.get_heads())


def alembic_config() -> Config:
    """Alembic's configuration for this project, independent of the working directory."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).resolve().parents[2] / "alembic"))
    config.set_main_option("path_separator", "os")
    return config
