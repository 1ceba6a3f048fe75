"""Secrets at rest: sealed with MultiFernet before they reach a table, opened only where they are used."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from itsdangerous import BadSignature, Signer

from runtime.settings import SettingsError, settings


class SealBrokenError(Exception):
    """A stored secret cannot be opened with the keys in ENCRYPTION_KEYS: a key is missing from the list."""


def _keys() -> tuple[str, ...]:
    """The keys in force, newest first; raises `SettingsError` when there must be some and are none."""
    chosen = settings()
    keys = chosen.encryption_keys
    if not keys and (chosen.database_url or not chosen.embedded_services):
        raise SettingsError(
            "ENCRYPTION_KEYS is not set: Fernet keys for secrets at rest, newest first, separated by commas."
            " With a DATABASE_URL of your own, Patina makes no key for you."
        )
    return keys or (_local_key(),)


@lru_cache(maxsize=1)
def _fernet() -> MultiFernet:
    return MultiFernet([Fernet(key) for key in _keys()])


@lru_cache(maxsize=8)
def _signer(purpose: str) -> Signer:
    """Signs under the newest key, and knows what older ones have signed."""
    return Signer(list(reversed(_keys())), salt=f"patina.{purpose}", digest_method=hashlib.sha256)


def sign(purpose: str, value: str) -> str:
    """`value` with a signature that only this installation can make, for one purpose."""
    return _signer(purpose).sign(value).decode()


def signed(purpose: str, value: str) -> str | None:
    """What was signed for the purpose, or None when the signature is not ours."""
    try:
        return _signer(purpose).unsign(value).decode()
    except (BadSignature, UnicodeDecodeError):
        return None


def pseudonyms(purpose: str, value: str) -> tuple[str, ...]:
    """What stands for `value` where it must not be seen, in 32 hexadecimal digits: under each key, the newest first.

    The value cannot be guessed from it without a key of this installation. The older keys' are for finding what was
    written before a rotation.
    """
    return tuple(_pseudonym(key, purpose, value) for key in _keys())


def pseudonym(purpose: str, value: str) -> str:
    """The one of `pseudonyms` to write down."""
    return _pseudonym(_keys()[0], purpose, value)


def _pseudonym(key: str, purpose: str, value: str) -> str:
    words = f"patina.pseudonym.{purpose}|{value}".encode("utf-8", "surrogatepass")
    return hmac.digest(key.encode(), words, "sha256").hex()[:32]


def reseal(sealed: bytes) -> bytes:
    """The same secret under the newest key; raises `SealBrokenError` as `unseal` does."""
    try:
        return _fernet().rotate(bytes(sealed))
    except InvalidToken:
        raise SealBrokenError("a stored secret cannot be opened: add its key to ENCRYPTION_KEYS") from None


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


def seal_text(purpose: str, text: str) -> str:
    """`text` encrypted for one purpose, safe in a URL: what stands in histories and logs says nothing."""
    return _fernet().encrypt(f"{purpose}|{text}".encode()).decode()


def unseal_text(purpose: str, sealed: str, *, max_age: int) -> str | None:
    """What was sealed for the purpose; None when it was not by us, or more than `max_age` seconds ago."""
    try:
        found, _, text = _fernet().decrypt(sealed.encode(), ttl=max_age).decode().partition("|")
    except (InvalidToken, UnicodeEncodeError):
        return None
    return text if found == purpose else None


def digest(secret: str) -> bytes:
    """The SHA-256 under which a random secret is looked up; safe because the secrets have 256 bits."""
    return hashlib.sha256(secret.encode()).digest()


def fresh_token() -> str:
    """A new secret of 256 bits, safe in a URL."""
    return secrets.token_urlsafe(32)
