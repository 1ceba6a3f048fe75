"""What every long-running process checks before it starts."""

from __future__ import annotations

from runtime.settings import SettingsError, settings
from store.db.database import dispose_engine
from store.db.schema_version import is_at_head


def check_readiness(*required_settings: str) -> None:
    """Raise `SettingsError` if a setting is missing or the database lacks migrations."""
    settings().require(*required_settings)
    if not is_at_head():
        raise SettingsError("The database is not at the latest migration: run `patina migrate` first.")
    dispose_engine()
