"""Regular expressions of stored email addresses, for PostgreSQL."""

from __future__ import annotations

# An address that the normalisation rules leave as it is; `store.mirror.addresses` looks for the others.
PLAIN_ADDRESS = r"^[a-z0-9.!#$%&''*+/=?^_{|}~-]+@[a-z0-9-]+([.][a-z0-9-]+)*$"
IS_IRREGULAR = f"as_typed IS NULL AND email !~ '{PLAIN_ADDRESS}'"
