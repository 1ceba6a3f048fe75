"""Pages that call a vendor have threads of their own."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from anyio.to_thread import current_default_thread_limiter
from fastapi import Request
from fastapi.responses import Response

from web.admin.vendor_calls import calls_vendor
from web.middleware.concurrency import BusyError, Capacity

SLOTS_PER_ACCOUNT = 4


def request_of(account_id: int) -> Request:
    """A request of a signed-in admin, as far as `calls_vendor` reads it."""
    browser = SimpleNamespace(session=SimpleNamespace(account_id=account_id))
    app = SimpleNamespace(state=SimpleNamespace(web=SimpleNamespace(capacity=Capacity())))
    return cast(Request, SimpleNamespace(app=app, state=SimpleNamespace(browser=browser)))


def test_requests_that_wait_for_a_vendor_leave_the_threads_of_pages_free() -> None:
    asyncio.run(check_threads())


async def check_threads() -> None:
    started, may_end = threading.Semaphore(0), threading.Event()

    def page(_: Request, **__: Any) -> Response:
        started.release()
        assert may_end.wait(20)
        return Response("done")

    endpoint, request = calls_vendor(page), request_of(1)
    waiting = [asyncio.create_task(endpoint(request)) for _ in range(SLOTS_PER_ACCOUNT)]
    for _ in range(SLOTS_PER_ACCOUNT):
        while not started.acquire(blocking=False):
            await asyncio.sleep(0.01)
    assert current_default_thread_limiter().borrowed_tokens == 0
    with pytest.raises(BusyError):
        await endpoint(request)
    may_end.set()
    assert {response.body for response in await asyncio.gather(*waiting)} == {b"done"}
