"""The limits of the API: by address first, by key once it is known, at a flat price."""

from __future__ import annotations

import time

import pytest

from runtime.settings import override
from tests.world import World
from web import problems, throttle
from web.windows import Windows


def test_a_key_that_does_not_exist_leaves_nothing_behind(
    world: World, no_counts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "PAUSE_SECONDS", 0.0)
    override({"API_MINUTE_LIMIT": "20"})
    answers = [
        world.web.get("/v1/people/1/invoices", headers={"Authorization": f"Bearer pat_{number}"}).status_code
        for number in range(30)
    ]
    assert answers.count(401) <= 20
    assert answers.count(429) >= 10
    assert len(throttle._keys()) == 0
    assert len(throttle._addresses()) == 1


def test_a_key_that_exists_is_counted_from_whatever_address_it_comes(world: World, no_counts: None) -> None:
    override({"API_MINUTE_LIMIT": "3", "TRUSTED_PROXIES": "127.0.0.1"})
    headers = {"Authorization": f"Bearer {world.key}"}
    answers = [
        world.web.get("/v1/people/1/invoices", headers={**headers, "x-forwarded-for": f"203.0.113.{number}"})
        for number in range(5)
    ]
    statuses = [answer.status_code for answer in answers]
    assert statuses[:3] == [200, 200, 200] or statuses[-1] == 200, "unless a minute ended in between"
    assert 429 in statuses


def test_who_asks_too_often_is_told_so_after_a_pause(world: World, no_counts: None) -> None:
    override({"API_MINUTE_LIMIT": "1"})
    headers = {"Authorization": f"Bearer {world.key}"}
    took: list[float] = []
    while not took:
        began = time.monotonic()
        if world.web.get("/v1/people/1/invoices", headers=headers).status_code == 429:
            took.append(time.monotonic() - began)
    assert took[0] >= problems.PAUSE_SECONDS / 2


def test_windows_keep_no_more_names_than_they_may() -> None:
    windows = Windows(60, most=3)
    for name in ("a", "b", "c", "d"):
        windows.hit(name)
    assert len(windows) == 3
    assert windows.count("a") == 0
    assert windows.hit("d") == 2
    assert 1 <= windows.ends_in() <= 60
