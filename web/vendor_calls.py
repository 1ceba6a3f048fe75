"""Requests that call a vendor: in threads of their own, for as long as a person waits, and never many at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from web.concurrency import NOBODY, BusyError
from worker import vendor
from worker.broker import turn

Endpoint = Callable[..., Response]
AsyncEndpoint = Callable[..., Coroutine[Any, Any, Response]]
# Of all web processes together: whoever tries keys while a vendor is slow holds these, and nothing else.
MAX_SIGN_INS = 8


def calls_vendor(endpoint: Endpoint, when: Callable[[dict[str, Any]], bool] = lambda _: True) -> AsyncEndpoint:
    """Run an endpoint that calls a vendor where it holds up no other page; it is refused as busy without a place.

    `when` says of its arguments whether it does; otherwise it runs like any other page.
    """

    @functools.wraps(endpoint)
    async def run(request: Request, **arguments: Any) -> Response:
        if not when(arguments):
            return await run_in_threadpool(endpoint, request, **arguments)
        vendors = request.app.state.capacity.vendors
        answer: Response = await vendors.run(_account(request), _interactive, endpoint, request, arguments)
        return answer

    return run


def may_call_vendor(endpoint: Endpoint) -> AsyncEndpoint:
    """The same for one that has something to show without the vendor, too: without a place its calls fail at once."""
    patient = calls_vendor(endpoint)

    @functools.wraps(endpoint)
    async def run(request: Request, **arguments: Any) -> Response:
        try:
            return await patient(request, **arguments)
        except BusyError:
            return await run_in_threadpool(_without_calls, endpoint, request, arguments)

    return run


def _interactive(endpoint: Endpoint, request: Request, arguments: dict[str, Any]) -> Response:
    with vendor.interactive():
        return endpoint(request, **arguments)


def _without_calls(endpoint: Endpoint, request: Request, arguments: dict[str, Any]) -> Response:
    with vendor.no_calls():
        return endpoint(request, **arguments)


def _account(request: Request) -> int:
    """Whose share of the threads a request takes: its session's account, or the one of all who have no session."""
    session = request.state.browser.session
    return session.account_id if session is not None else NOBODY


@contextmanager
def sign_in_place() -> Iterator[None]:
    """One of the sign-ins that all web processes together check at a time; raises `BusyError` when there is none."""
    with turn("sign-in", MAX_SIGN_INS) as is_free:
        if not is_free:
            raise BusyError(own_share=False, retry_after=5)
        yield
