"""The client's IP address behind trusted proxies."""

from __future__ import annotations

import pytest

from cli.checks import CheckResult, check_client_addresses
from runtime.redis_client import shared_client
from runtime.settings import SettingsError, override_settings, settings
from services import proxy_watch
from tests.support.world import World
from web.middleware import client_address
from web.middleware.client_address import forwarded_client, network_of

PROXIES = "10.0.0.0/8,2001:db8:1::/48"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.9, 10.0.0.7", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 10.0.0.8, 10.0.0.7", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", "[2001:db8:2::9]:4711", "2001:db8:2::9"),
        ("10.0.0.1", "fe80::1%eth0", "fe80::1"),
        ("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "6.6.6.6, nonsense", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, nonsense, 10.0.0.7", "10.0.0.7"),
        ("10.0.0.1", ",,,", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3", "10.0.0.3"),
        ("2001:db8:1::5", "2001:db8:7::1", "2001:db8:7::1"),
        ("203.0.113.1", "6.6.6.6", "203.0.113.1"),
        ("unknown", "6.6.6.6", "unknown"),
    ],
)
def test_only_trusted_proxies_name_the_client_which_is_the_last_untrusted_address(
    peer: str, forwarded: str, client: str
) -> None:
    override_settings({"TRUSTED_PROXIES": PROXIES})
    assert forwarded_client(peer, forwarded, settings().trusted_proxy_networks) == client


@pytest.mark.parametrize("wrong", ["nonsense", "10.0.0.1/40", "0.0.0.0/0", "::/0", "10.0.0.1,proxy.internal"])
def test_an_invalid_trusted_proxy_is_reported_at_start_up(wrong: str) -> None:
    override_settings({"TRUSTED_PROXIES": wrong})
    with pytest.raises(SettingsError, match="TRUSTED_PROXIES"):
        settings()


def test_addresses_of_one_ipv6_subscriber_count_as_one() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2:3:4") == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("no address") == client_address.UNKNOWN


def test_the_doctor_detects_an_unconfigured_proxy(world: World) -> None:
    def check(**environment: str) -> CheckResult:
        for name in shared_client().scan_iter("*:clients:*"):
            shared_client().delete(name)
        override_settings({"PUBLIC_URL": "https://patina.example", **environment})
        watch = client_address.ProxyWatch()
        monkey = client_address.WATCH
        client_address.WATCH = watch
        try:
            for number in range(60):
                headers = {"x-forwarded-for": f"93.184.216.{number}"} if "HEADER" in environment else {}
                world.web.get("/connect", headers={"host": "patina.example", **headers})
        finally:
            client_address.WATCH = monkey
        watch.flush()
        return check_client_addresses()

    assert "one private address" in check().detail
    unrelated = check(HEADER="yes")
    assert (unrelated.ok, unrelated.detail.split(" had")[0]) == (False, "60 of 60 requests")
    assert "TRUSTED_PROXIES" in unrelated.hint
    assert check(HEADER="yes", TRUSTED_PROXIES="127.0.0.1").ok
    assert proxy_watch.read_today().origins == {proxy_watch.INTERNET}
