"""URLs of Redis and of the Sentinels that know where it is."""

from __future__ import annotations

import pytest

from runtime import redis_address
from runtime.redis_address import RedisAddressError, SentinelAddress


@pytest.mark.parametrize("url", ["redis://h:6379/0", "rediss://u:p@h/1", "unix:///run/redis.sock?db=0"])
def test_a_url_of_one_server_is_left_to_the_client(url: str) -> None:
    redis_address.check(url)
    assert not redis_address.is_sentinel(url)


def test_a_url_of_sentinels_names_them_all_and_the_primary() -> None:
    url = "redis+sentinel://s1:26379,s2:26380,[fd00::3]:26381/patina"
    redis_address.check(url)
    assert redis_address.is_sentinel(url)
    assert redis_address.parse_sentinel(url) == SentinelAddress(
        (("s1", 26379), ("s2", 26380), ("fd00::3", 26381)), "patina", 0, None, None, None, None, False
    )


def test_ports_credentials_database_and_tls_are_optional() -> None:
    url = "rediss+sentinel://app:p%40ss@s1,s2/patina/3?sentinel_username=watch&sentinel_password=s%20ecret"
    assert redis_address.parse_sentinel(url) == SentinelAddress(
        (("s1", 26379), ("s2", 26379)), "patina", 3, "app", "p@ss", "watch", "s ecret", True
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memcached://h", "must start with redis://"),
        ("h:6379", "must start with redis://"),
        ("redis+sentinel://s1:26379,s2:26379", "must end with the name of the primary"),
        ("redis+sentinel://s1:26379,s2:26379/", "must end with the name of the primary"),
        ("redis+sentinel://s1:secret@,s2/patina", "each Sentinel must be host:port"),
        ("redis+sentinel://:secret@s1:port/patina", "each Sentinel must be host:port"),
        ("redis+sentinel://:secret@s1/patina/one", "is not a number"),
        ("redis+sentinel://:secret@s1/patina/²", "is not a number"),
        ("redis+sentinel://:secret@s1/patina?timeout=1", "timeout is not an option"),
    ],
)
def test_a_url_that_is_wrong_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(RedisAddressError, match=message) as caught:
        redis_address.check(url)
    assert "secret" not in str(caught.value)
