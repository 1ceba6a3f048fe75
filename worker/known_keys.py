"""Which Copper keys have worked here, and whose address they came with. Kept in Redis, as pseudonyms.

Whoever comes with such a key is no guesser, however many others guess from the same address. What is kept of an
account goes with it.
"""

from __future__ import annotations

import redis
import structlog

from runtime.numbers import whole_number
from runtime.settings import settings
from store.secrets import pseudonyms
from worker.broker import client, text_of

log = structlog.get_logger()
KNOWN_SECONDS = 90 * 86_400


def _names(kind: str, marks: tuple[str, ...]) -> list[str]:
    return [f"{settings().redis_namespace}:known:{kind}:{mark}" for mark in marks]


def _group(copper_account_id: int) -> str:
    """Where it is kept which names stand for an account, so that they go with it."""
    return f"{settings().redis_namespace}:known:account:{copper_account_id}"


def _key_names(key: str) -> list[str]:
    """The names under each of our keys, the newest first."""
    return _names("key", pseudonyms("copper-key", key))


def _email_names(email: str) -> list[str]:
    return _names("email", pseudonyms("email", email.strip().casefold()))


def remember(key: str, email: str, copper_account_id: int) -> None:
    """A key has worked, together with its owner's address. Lost where Redis is away, which costs a wait at most."""
    names = [_key_names(key)[0], _email_names(email)[0]]
    group = _group(copper_account_id)
    with client().pipeline() as changes:
        for name in names:
            changes.set(name, str(copper_account_id), ex=KNOWN_SECONDS)
        changes.sadd(group, *names)
        changes.expire(group, KNOWN_SECONDS)
        try:
            changes.execute()
        except redis.RedisError as error:
            log.info("key.not_remembered", error=type(error).__name__)


def account_of_key(key: str) -> int | None:
    """The Copper account that a key has opened here before; None where it has not."""
    return _account(_key_names(key))


def account_of_email(email: str) -> int | None:
    """The Copper account whose key has come with this address before; None where none has."""
    return _account(_email_names(email))


def forget_account(copper_account_id: int) -> None:
    """Forget every key and address of an account; raises `redis.RedisError` when Redis is away."""
    group = _group(copper_account_id)
    _forget([text_of(name) for name in client().smembers(group)], copper_account_id)
    client().delete(group)


def forget_email(email: str, copper_account_id: int) -> None:
    """Forget that an account's key has come with this address; raises `redis.RedisError` when Redis is away."""
    _forget(_email_names(email), copper_account_id)


def _forget(names: list[str], copper_account_id: int) -> None:
    """What has come with another account's key since is that account's, and stays."""
    for name in names:
        if text_of(client().get(name) or "") == str(copper_account_id):
            client().delete(name)


def _account(names: list[str]) -> int | None:
    try:
        found = client().mget(names)
    except redis.RedisError:
        return None
    known = next((value for value in found if value), None)
    return whole_number(text_of(known)) if known else None
