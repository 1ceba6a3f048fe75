"""Delayed refusals: they end one after the other, and all at once when the process stops."""

from __future__ import annotations

import asyncio
import time

import pytest

from web.middleware import concurrency
from web.middleware.concurrency import Tarpit


async def ends_of(tarpit: Tarpit, count: int, seconds: float) -> list[float]:
    """When each of `count` concurrent delays ends."""

    async def end() -> float:
        await tarpit.delay(seconds)
        return time.monotonic()

    return sorted(await asyncio.gather(*(end() for _ in range(count))))


def test_delays_that_begin_together_end_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "MAX_RELEASES_PER_SECOND", 50)

    async def run() -> list[float]:
        return await ends_of(Tarpit(), 16, 0.0)

    ends = asyncio.run(run())
    assert ends[-1] - ends[0] > 15 / 50 * 0.9


def test_a_delay_lasts_for_half_of_its_time_at_least() -> None:
    async def run() -> float:
        started_at = time.monotonic()
        return (await ends_of(Tarpit(), 1, 0.2))[0] - started_at

    assert asyncio.run(run()) > 0.09


def test_delays_end_at_once_when_the_process_stops() -> None:
    async def run() -> list[float]:
        tarpit = Tarpit()
        asyncio.get_running_loop().call_later(0.01, tarpit.close)
        started_at = time.monotonic()
        return [end - started_at for end in await ends_of(tarpit, 50, 3_600.0)]

    assert max(asyncio.run(run())) < 1_800


def test_beyond_a_number_of_delays_refusals_are_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "MAX_DELAYED", 3)

    async def run() -> int:
        tarpit = Tarpit()
        delayed = [asyncio.create_task(tarpit.delay(3_600.0)) for _ in range(3)]
        await asyncio.sleep(0)
        await tarpit.delay(3_600.0)
        still_waiting = sum(not task.done() for task in delayed)
        tarpit.close()
        await asyncio.gather(*delayed)
        return still_waiting

    assert asyncio.run(run()) == 3
