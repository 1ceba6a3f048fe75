"""The rate limits of the API: by address for unknown keys, by key for valid ones."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from runtime.settings import override_settings
from tests.support.world import World
from web.auth import rate_limits
from web.auth.fixed_windows import FixedWindowCounter
from web.middleware.concurrency import Tarpit
from web.presentation import problems


def in_one_minute(send: Callable[[], list[int]]) -> list[int]:
    """What `send` returns, sent again if a minute, and with it all counts, ended in between."""
    while True:
        minute = time.monotonic() // 60
        statuses = send()
        if time.monotonic() // 60 == minute:
            return statuses
        for counts in (rate_limits._key_counts, rate_limits._address_counts):
            counts.clear()


def test_an_unknown_key_leaves_no_counter_behind(
    world: World, no_counts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "TARPIT_SECONDS", 0.0)
    override_settings({"API_REQUESTS_PER_MINUTE": "20"})

    def send() -> list[int]:
        keys = [f"Bearer pat_{number}" for number in range(30)]
        return [world.web.get("/v1/people/1/invoices", headers={"Authorization": key}).status_code for key in keys]

    statuses = in_one_minute(send)
    assert statuses.count(401) <= 20
    assert statuses.count(429) >= 10
    assert len(rate_limits._key_counts()) == 0
    assert len(rate_limits._address_counts()) == 1


def test_a_valid_key_is_counted_by_key_and_not_by_address(world: World, no_counts: None) -> None:
    override_settings({"API_REQUESTS_PER_MINUTE": "3", "TRUSTED_PROXIES": "127.0.0.1"})
    headers = {"Authorization": f"Bearer {world.key}"}

    def send() -> list[int]:
        return [
            world.web.get(
                "/v1/people/1/invoices", headers={**headers, "x-forwarded-for": f"203.0.113.{number}"}
            ).status_code
            for number in range(5)
        ]

    assert in_one_minute(send) == [200, 200, 200, 429, 429]


def test_too_many_requests_are_answered_429_after_a_delay(world: World, no_counts: None) -> None:
    override_settings({"API_REQUESTS_PER_MINUTE": "1"})
    headers = {"Authorization": f"Bearer {world.key}"}
    took: list[float] = []
    while not took:
        started = time.monotonic()
        if world.web.get("/v1/people/1/invoices", headers=headers).status_code == 429:
            took.append(time.monotonic() - started)
    assert took[0] >= problems.TARPIT_SECONDS / 2


@pytest.mark.parametrize("path", ["/v1/people/1/invoices", "/v1/unmatched.csv", "/panel/records/person/1"])
def test_an_address_that_tries_many_keys_is_answered_after_a_delay(
    world: World, no_counts: None, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    delayed: list[float] = []

    async def delay(_: Tarpit, seconds: float) -> None:
        delayed.append(seconds)

    monkeypatch.setattr(Tarpit, "delay", delay)
    monkeypatch.setattr(rate_limits, "FREE_UNKNOWN_KEYS", 3)
    for number in range(4):
        assert not delayed
        assert world.web.get(path, headers={"Authorization": f"Bearer pat_{number}"}).status_code == 401
    assert delayed == [problems.TARPIT_SECONDS]


def test_a_window_keeps_a_bounded_number_of_names() -> None:
    windows = FixedWindowCounter(60, max_keys=3)
    for name in ("a", "b", "c", "d"):
        windows.hit(name)
    assert len(windows) == 3
    assert windows.count("a") == 0
    assert windows.hit("d") == 2
    assert 1 <= windows.seconds_left() <= 60
