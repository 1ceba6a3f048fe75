"""Secrets: encrypted or hashed in the database, and not logged."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text

from runtime.logs import scrub
from runtime.settings import SettingsError, settings
from store.db import crypto, database
from tests.support.world import World


def test_secrets_are_encrypted_and_keys_can_be_rotated(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()

    def keys(value: str) -> None:
        monkeypatch.setenv("ENCRYPTION_KEYS", value)
        settings.clear()
        crypto._fernet.clear()

    keys(old)
    sealed = crypto.encrypt({"word": "open sesame"})
    assert b"sesame" not in sealed
    keys(f"{new},{old}")
    assert crypto.decrypt(sealed) == {"word": "open sesame"}
    keys(new)
    with pytest.raises(crypto.DecryptionError, match="ENCRYPTION_KEYS"):
        crypto.decrypt(sealed)
    monkeypatch.undo()
    settings.clear()
    crypto._fernet.clear()


def test_with_an_external_database_no_encryption_key_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCRYPTION_KEYS", "")
    monkeypatch.setenv("DATABASE_URL", "postgresql://example.test/patina")
    settings.clear()
    crypto._fernet.clear()
    with pytest.raises(SettingsError, match="ENCRYPTION_KEYS"):
        crypto.encrypt({})
    monkeypatch.undo()
    settings.clear()
    crypto._fernet.clear()


def test_no_secret_is_stored_in_plain_text(world: World) -> None:
    world.settle()
    state = world.sandbox.state()["accounts"][0]
    with database.engine().connect() as connection:
        tables = connection.execute(
            text("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
        ).scalars()
        dump = "\n".join(
            str(row) for table in tables for row in connection.execute(text(f'SELECT t::text FROM "{table}" t'))
        )
    for planted in (state["api_key"], state["email"], world.key, "refresh_token", "access_token"):
        assert planted not in dump


def test_an_api_key_is_stored_as_a_hash(world: World) -> None:
    with database.transaction() as session:
        row = session.execute(text("SELECT prefix, key_hash FROM api_key")).one()
    assert world.key.startswith(row.prefix)
    assert bytes(row.key_hash) == crypto.digest(world.key)


def test_addresses_and_tokens_are_scrubbed_from_log_text() -> None:
    scrubbed = scrub("for ann@acme.test: Bearer abcdefghijkl, refresh_token=0123456789abc")
    assert "ann@" not in scrubbed
    assert "abcdefghijkl" not in scrubbed
    assert "0123456789abc" not in scrubbed
