"""The process's connection to Redis, its Lua scripts, and what the server reports about itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import redis
from redis.commands.core import Script

from runtime.service_urls import redis_url

# Valkey reports its own version; its first release was 7.2.
MIN_REDIS = (7, 2)


@lru_cache(maxsize=1)
def shared_client() -> redis.Redis:
    """The process's Redis client. Every wait has a timeout."""
    return redis.Redis.from_url(
        redis_url(),
        socket_connect_timeout=1,
        socket_timeout=10,
        health_check_interval=30,
    )


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
