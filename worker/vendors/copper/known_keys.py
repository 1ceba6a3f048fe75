"""The Copper keys that have worked here, and their owners' e-mail addresses. Kept in Redis as pseudonyms.

A client with such a key is not a guesser, however many others guess from the same address. The entries of an account
are deleted with it.
"""

from __future__ import annotations

import redis
import structlog

from runtime.numbers import whole_number
from runtime.redis_client import as_text, shared_client
from runtime.settings import settings
from store.db.crypto import pseudonyms

log = structlog.get_logger()
RETENTION_SECONDS = 90 * 86_400


def _entry_names(category: str, digests: tuple[str, ...]) -> list[str]:
    return [f"{settings().redis_namespace}:known:{category}:{digest}" for digest in digests]


def _account_set(copper_account_id: int) -> str:
    """The set of the names of an account's entries, by which they are deleted."""
    return f"{settings().redis_namespace}:known:account:{copper_account_id}"


def _key_entries(api_key: str) -> list[str]:
    """The names of a key's entry under each of our encryption keys, the newest first."""
    return _entry_names("key", pseudonyms("copper-key", api_key))


def _email_entries(email: str) -> list[str]:
    return _entry_names("email", pseudonyms("email", email.strip().casefold()))


def record(api_key: str, email: str, copper_account_id: int) -> None:
    """Record that a key has worked with its owner's address. If Redis is down, the owner may have to wait later."""
    names = [_key_entries(api_key)[0], _email_entries(email)[0]]
    account_set = _account_set(copper_account_id)
    with shared_client().pipeline() as pipeline:
        for name in names:
            pipeline.set(name, str(copper_account_id), ex=RETENTION_SECONDS)
        pipeline.sadd(account_set, *names)
        pipeline.expire(account_set, RETENTION_SECONDS)
        try:
            pipeline.execute()
        except redis.RedisError as error:
            log.info("known_key.record_failed", error=type(error).__name__)


def find_account_by_key(api_key: str) -> int | None:
    """The Copper account that a key has worked for here; None if it has not."""
    return _find_account(_key_entries(api_key))


def find_account_by_email(email: str) -> int | None:
    """The Copper account whose key has worked with this address; None if there is none."""
    return _find_account(_email_entries(email))


def delete_account(copper_account_id: int) -> None:
    """Delete all keys and addresses of an account; raises `redis.RedisError` if Redis is unavailable."""
    account_set = _account_set(copper_account_id)
    _delete([as_text(name) for name in shared_client().smembers(account_set)], copper_account_id)
    shared_client().delete(account_set)


def delete_email(email: str, copper_account_id: int) -> None:
    """Delete an address that an account's key has worked with; raises `redis.RedisError` if Redis is unavailable."""
    _delete(_email_entries(email), copper_account_id)


def _delete(names: list[str], copper_account_id: int) -> None:
    """Delete the entries that are still this account's: another account's key may have replaced them."""
    for name in names:
        if as_text(shared_client().get(name) or "") == str(copper_account_id):
            shared_client().delete(name)


def _find_account(names: list[str]) -> int | None:
    try:
        values = shared_client().mget(names)
    except redis.RedisError:
        return None
    account = next((value for value in values if value), None)
    return whole_number(as_text(account)) if account else None
