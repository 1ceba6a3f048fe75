"""The process's connection to Redis, its Lua scripts, and what the server reports about itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import redis
from redis import asyncio as redis_async
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.commands.core import Script
from redis.sentinel import Sentinel

from runtime import redis_address
from runtime.process_values import once_per_process
from runtime.redis_address import SentinelAddress
from runtime.service_urls import redis_url

SOCKET_TIMEOUT_SECONDS = 10
CONNECTION_OPTIONS: dict[str, Any] = {"socket_connect_timeout": 1, "health_check_interval": 30}
# A Sentinel that is away must not keep the others from being asked.
SENTINEL_TIMEOUTS = {"socket_connect_timeout": 1, "socket_timeout": 1}
# Valkey reports its own version; its first release was 7.2.
MIN_REDIS = (7, 2)


@once_per_process
def shared_client() -> redis.Redis:
    """The process's Redis client. Every wait has a timeout."""
    url = redis_url()
    if not redis_address.is_sentinel(url):
        return redis.Redis.from_url(url, socket_timeout=SOCKET_TIMEOUT_SECONDS, **CONNECTION_OPTIONS)
    address = redis_address.parse_sentinel(url)
    sentinel = Sentinel(
        address.hosts,
        sentinel_kwargs={**SENTINEL_TIMEOUTS, **_sentinel_options(address)},
        socket_timeout=SOCKET_TIMEOUT_SECONDS,
        **CONNECTION_OPTIONS,
        **_server_options(address),
    )
    client: redis.Redis = sentinel.master_for(address.primary)
    return client


def create_async_client() -> redis_async.Redis:
    """A client for subscriptions, which wait for messages without a timeout of the socket; the caller closes it."""
    url = redis_url()
    if not redis_address.is_sentinel(url):
        return redis_async.Redis.from_url(url, **CONNECTION_OPTIONS)
    address = redis_address.parse_sentinel(url)
    sentinel = AsyncSentinel(
        address.hosts,
        sentinel_kwargs={**SENTINEL_TIMEOUTS, **_sentinel_options(address)},
        **CONNECTION_OPTIONS,
        **_server_options(address),
    )
    client: redis_async.Redis = sentinel.master_for(address.primary)
    return client


def _sentinel_options(address: SentinelAddress) -> dict[str, Any]:
    options: dict[str, Any] = {"ssl": True} if address.uses_tls else {}
    if address.sentinel_password:
        options |= {"username": address.sentinel_username, "password": address.sentinel_password}
    return options


def _server_options(address: SentinelAddress) -> dict[str, Any]:
    options: dict[str, Any] = {"db": address.database, "username": address.username, "password": address.password}
    return {**options, "ssl": True} if address.uses_tls else options


@lru_cache
def lua_script(package: str, name: str) -> Script:
    """The script `{name}.lua` of a package, read and registered once; call it with `client=` the client to use."""
    source = resources.files(package).joinpath(f"{name}.lua").read_text("utf-8")
    return shared_client().register_script(source)


def as_text(value: bytes | str) -> str:
    """A Redis reply as text: redis-py's types allow bytes and text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def is_available() -> bool:
    """Whether Redis answers a PING."""
    try:
        return bool(shared_client().ping())
    except redis.RedisError:
        return False


@dataclass(frozen=True)
class RedisServerInfo:
    """The server behind REDIS_URL: Redis or Valkey. `evicts` is True if it drops keys when its memory is full."""

    name: str
    version: str
    evicts: bool

    @property
    def is_maintained(self) -> bool:
        """Whether this version is new enough to still get fixes from its maintainers."""
        return tuple(int(part) for part in self.version.split(".")[:2]) >= MIN_REDIS


def server_info() -> RedisServerInfo:
    """Name, version and eviction of the Redis server; raises `redis.RedisError` if it does not answer."""
    info = shared_client().info("server") | shared_client().info("memory")
    name = "valkey" if "valkey_version" in info else "redis"
    policy = str(info.get("maxmemory_policy", "noeviction"))
    return RedisServerInfo(name.capitalize(), str(info[f"{name}_version"]), policy != "noeviction")
