"""Secrets at rest: sealed with MultiFernet before they reach a table, opened only where they are used."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from runtime.settings import SettingsError, settings


class SealBrokenError(Exception):
    """A stored secret cannot be opened with the keys in ENCRYPTION_KEYS: a key is missing from the list."""


@lru_cache(maxsize=1)
def _fernet() -> MultiFernet:
    chosen = settings()
    keys = chosen.encryption_keys
    if not keys and chosen.database_url:
        raise SettingsError(
            "ENCRYPTION_KEYS is not set: Fernet keys for secrets at rest, newest first, separated by commas."
            " With a DATABASE_URL of your own, Patina makes no key for you."
        )
    return MultiFernet([Fernet(key) for key in keys or (_local_key(),)])


def _local_key() -> str:
    """The key beside the embedded database, made on first use; two processes that start at once share it."""
    path = settings().patina_home / "encryption.key"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}")
    if not path.exists():
        fresh.touch(mode=0o600)
        fresh.write_bytes(Fernet.generate_key())
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text().strip()


def seal(values: dict[str, Any]) -> bytes:
    """`values` (JSON-able) encrypted under the newest key."""
    return _fernet().encrypt(json.dumps(values).encode())


def unseal(sealed: bytes) -> dict[str, Any]:
    """What was sealed; raises `SealBrokenError` when no configured key opens it."""
    try:
        opened: dict[str, Any] = json.loads(_fernet().decrypt(bytes(sealed)))
    except InvalidToken:
        raise SealBrokenError("a stored secret cannot be opened: add its key to ENCRYPTION_KEYS") from None
    return opened


def digest(secret: str) -> bytes:
    """The SHA-256 under which a random secret is looked up; safe because the secrets have 256 bits."""
    return hashlib.sha256(secret.encode()).digest()


def fresh_token() -> str:
    """A new secret of 256 bits, safe in a URL."""
    return secrets.token_urlsafe(32)
