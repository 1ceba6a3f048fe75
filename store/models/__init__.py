"""All tables. Importing this package defines every table in the metadata."""

from __future__ import annotations

from sqlmodel import SQLModel

from store.models import accounts, copper_fields, ingest, mirror, read_model, sync

METADATA = SQLModel.metadata

__all__ = ["METADATA", "accounts", "copper_fields", "ingest", "mirror", "read_model", "sync"]
