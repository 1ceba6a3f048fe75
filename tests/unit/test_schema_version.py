"""What processes know of the schema without importing Alembic and the models equals what those say."""

from __future__ import annotations

from alembic.script import ScriptDirectory

from store.accounts import deprovisioning
from store.db import schema_version
from store.db.migrations import alembic_config
from store.models import METADATA


def test_the_known_revisions_and_heads_are_alembics() -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    known = {script.revision for script in scripts.walk_revisions()}
    assert schema_version.revisions() == (frozenset(known), frozenset(scripts.get_heads()))


def test_a_closed_account_loses_its_data_in_every_table_that_has_some() -> None:
    tables = {name for name, table in METADATA.tables.items() if "account_id" in table.columns}
    assert {*deprovisioning.DATA_TABLES, deprovisioning.CLEANUP_TABLE} == tables
