"""Where a Redis is: a URL of one server, or of the Sentinels that know which server is the primary.

A URL of Sentinels names them all: `redis+sentinel://user:password@s1:26379,s2:26379/NAME/0`. NAME is what they call the
primary, the number its database. User and password are the server's; the Sentinels' own are in the query
(`sentinel_username`, `sentinel_password`). `rediss+sentinel` uses TLS for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from runtime.numbers import whole_number

URL_SCHEMES = ("redis", "rediss", "unix")
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
SENTINEL_PORT = 26379
SENTINEL_OPTIONS = {"sentinel_username", "sentinel_password"}


class RedisAddressError(ValueError):
    """A URL that is no address of a Redis. The message never contains the URL, because that has a password."""


@dataclass(frozen=True)
class SentinelAddress:
    """The Sentinels of a Redis, and what they call it."""

    hosts: tuple[tuple[str, int], ...]
    primary: str
    database: int
    username: str | None
    password: str | None
    sentinel_username: str | None
    sentinel_password: str | None
    uses_tls: bool


def is_sentinel(url: str) -> bool:
    """Whether a URL names Sentinels instead of a server."""
    return url.partition("://")[0] in SENTINEL_SCHEMES


def check(url: str) -> None:
    """Raise `RedisAddressError` if `url` is no address of a Redis."""
    if is_sentinel(url):
        parse_sentinel(url)
    elif urlsplit(url).scheme not in URL_SCHEMES:
        raise RedisAddressError("must start with redis://, rediss://, unix:// or redis+sentinel://")


def parse_sentinel(url: str) -> SentinelAddress:
    """Read a URL of Sentinels; raises `RedisAddressError` that says what is wrong."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    primary, _, database = parts.path.strip("/").partition("/")
    options = dict(parse_qsl(parts.query))
    if unknown := sorted(set(options) - SENTINEL_OPTIONS):
        raise RedisAddressError(f"{unknown[0]} is not an option of redis+sentinel://")
    if not primary:
        raise RedisAddressError(
            "must end with the name of the primary, such as redis+sentinel://s1:26379,s2:26379/patina"
        )
    number = whole_number(database or "0")
    if number is None:
        raise RedisAddressError("the number of the database after the primary's name is not a number")
    return SentinelAddress(
        tuple(_parse_host(host) for host in hosts.split(",")),
        unquote(primary),
        number,
        unquote(username) or None,
        unquote(password) or None,
        options.get("sentinel_username"),
        options.get("sentinel_password"),
        parts.scheme.startswith("rediss"),
    )


def _parse_host(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise RedisAddressError("each Sentinel must be host:port, and they are separated by commas") from None
    if not host:
        raise RedisAddressError("each Sentinel must be host:port, and they are separated by commas")
    return host, port or SENTINEL_PORT
