"""Whether the database has all migrations, asked without Alembic: every process asks it, and Alembic takes memory."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

from sqlalchemy import text

from store.db.database import engine

MIGRATIONS = Path(__file__).resolve().parents[2] / "alembic"
# How a migration names itself and those that it follows: None, one, or several of them.
IDENTIFIER = re.compile(r"^(revision|down_revision)\b[^=\n]*=\s*(.+)$", re.MULTILINE)
HAS_VERSION = text("SELECT to_regclass('alembic_version') IS NOT NULL")
VERSION = text("SELECT version_num FROM alembic_version")


def is_at_head() -> bool:
    """Whether the database has every migration that this code knows, which a newer schema has too."""
    with engine().connect() as connection:
        has_version = connection.execute(HAS_VERSION).scalar_one()
        current = frozenset(connection.execute(VERSION).scalars()) if has_version else frozenset()
    known, heads = revisions()
    return current == heads or bool(current - known)


@lru_cache(maxsize=1)
def revisions() -> tuple[frozenset[str], frozenset[str]]:
    """All revisions of this code, and its heads. Cached, because the files do not change while the process runs."""
    known: set[str] = set()
    followed: set[str] = set()
    for path in (MIGRATIONS / "versions").glob("*.py"):
        values = {name: ast.literal_eval(value) for name, value in IDENTIFIER.findall(path.read_text("utf-8"))}
        known.add(values["revision"])
        previous = values["down_revision"] or ()
        followed.update((previous,) if isinstance(previous, str) else previous)
    return frozenset(known), frozenset(known - followed)
