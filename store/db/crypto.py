"""Secrets at rest: encrypted with MultiFernet before they reach a table, decrypted only where they are used."""

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

from runtime.process_values import once_per_process
from runtime.settings import SettingsError, settings


class DecryptionError(Exception):
    """A stored secret cannot be decrypted with the keys in ENCRYPTION_KEYS: a key is missing from the list."""


def _keys() -> tuple[str, ...]:
    """The encryption keys, newest first; raises `SettingsError` if keys are required but not set."""
    config = settings()
    keys = config.encryption_keys
    if not keys and (config.database_url or not config.embedded_services):
        raise SettingsError(
            "ENCRYPTION_KEYS is not set: Fernet keys for secrets at rest, newest first, separated by commas."
            " With a DATABASE_URL of your own, Patina makes no key for you."
        )
    return keys or (_local_key(),)


@once_per_process
def _fernet() -> MultiFernet:
    return MultiFernet([Fernet(key) for key in _keys()])


@lru_cache(maxsize=8)
def _signer(purpose: str) -> Signer:
    """Signs with the newest key and verifies with all of them."""
    return Signer(list(reversed(_keys())), salt=f"patina.{purpose}", digest_method=hashlib.sha256)


def sign(purpose: str, value: str) -> str:
    """`value` with a signature for one purpose, which only this installation can make."""
    return _signer(purpose).sign(value).decode()


def unsign(purpose: str, signed_value: str) -> str | None:
    """The value that was signed for the purpose, or None if the signature is not ours."""
    try:
        return _signer(purpose).unsign(signed_value).decode()
    except (BadSignature, UnicodeDecodeError):
        return None


def pseudonyms(purpose: str, value: str) -> tuple[str, ...]:
    """Pseudonyms of a value that must not be seen, 32 hexadecimal digits each: one for each key, newest first.

    The value cannot be guessed from a pseudonym without a key of this installation. Those of older keys find what
    was written before a key rotation.
    """
    return tuple(_pseudonym(key, purpose, value) for key in _keys())


def pseudonym(purpose: str, value: str) -> str:
    """The pseudonym to write: the one of the newest key."""
    return _pseudonym(_keys()[0], purpose, value)


def _pseudonym(key: str, purpose: str, value: str) -> str:
    message = f"patina.pseudonym.{purpose}|{value}".encode("utf-8", "surrogatepass")
    return hmac.digest(key.encode(), message, "sha256").hex()[:32]


def _local_key() -> str:
    """The key beside the embedded database, created on first use; two processes that start at once share it."""
    path = settings().patina_home / "encryption.key"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}")
    if not path.exists():
        temporary.touch(mode=0o600)
        temporary.write_bytes(Fernet.generate_key())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_text().strip()


def encrypt(values: dict[str, Any]) -> bytes:
    """`values` (JSON-able) encrypted with the newest key."""
    return _fernet().encrypt(json.dumps(values).encode())


def decrypt(encrypted: bytes) -> dict[str, Any]:
    """The values that were encrypted; raises `DecryptionError` if no configured key decrypts them."""
    try:
        values: dict[str, Any] = json.loads(_fernet().decrypt(bytes(encrypted)))
    except InvalidToken:
        raise DecryptionError("a stored secret cannot be decrypted: add its key to ENCRYPTION_KEYS") from None
    return values


def reencrypt(encrypted: bytes) -> bytes:
    """The same secret encrypted with the newest key; raises `DecryptionError` if no configured key decrypts it."""
    try:
        return _fernet().rotate(bytes(encrypted))
    except InvalidToken:
        raise DecryptionError("a stored secret cannot be decrypted: add its key to ENCRYPTION_KEYS") from None


def encrypt_text(purpose: str, text: str) -> str:
    """`text` encrypted for one purpose, safe in a URL, so that browser histories and logs do not reveal it."""
    return _fernet().encrypt(f"{purpose}|{text}".encode()).decode()


def decrypt_text(purpose: str, encrypted: str, *, max_age: int) -> str | None:
    """The text that was encrypted for the purpose; None if it was not by us, or more than `max_age` seconds ago."""
    try:
        text_purpose, _, text = _fernet().decrypt(encrypted.encode(), ttl=max_age).decode().partition("|")
    except (InvalidToken, UnicodeEncodeError):
        return None
    return text if text_purpose == purpose else None


def digest(secret: str) -> bytes:
    """The SHA-256 by which a random secret is looked up. That is safe because the secrets have 256 bits."""
    return hashlib.sha256(secret.encode()).digest()


def generate_token() -> str:
    """A new random secret of 256 bits, safe in a URL."""
    return secrets.token_urlsafe(32)
