"""Requests that call a vendor: they run in separate threads, with short timeouts and limited concurrency."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from web.middleware.concurrency import NO_ACCOUNT, BusyError
from web.state import web_state
from worker.jobs.locks import concurrency_slot
from worker.vendors import http

Endpoint = Callable[..., Response]
AsyncEndpoint = Callable[..., Coroutine[Any, Any, Response]]
# For all web processes together. While a vendor is slow, sign-in attempts occupy these slots and nothing else.
MAX_SIGN_INS = 8


def calls_vendor(endpoint: Endpoint, when: Callable[[dict[str, Any]], bool] = lambda _: True) -> AsyncEndpoint:
    """Run an endpoint that calls a vendor in threads of its own; it is refused as busy if there is no free slot.

    `when` decides by the arguments whether it calls the vendor; otherwise it runs like any other page.
    """

    @functools.wraps(endpoint)
    async def run(request: Request, **arguments: Any) -> Response:
        if not when(arguments):
            return await run_in_threadpool(endpoint, request, **arguments)
        vendors = web_state(request).capacity.vendors
        response: Response = await vendors.run(_account(request), _interactive, endpoint, request, arguments)
        return response

    return run


def may_call_vendor(endpoint: Endpoint) -> AsyncEndpoint:
    """As `calls_vendor`, for an endpoint that also works without the vendor: without a slot its calls fail at once."""
    queued = calls_vendor(endpoint)

    @functools.wraps(endpoint)
    async def run(request: Request, **arguments: Any) -> Response:
        try:
            return await queued(request, **arguments)
        except BusyError:
            return await run_in_threadpool(_without_calls, endpoint, request, arguments)

    return run


def _interactive(endpoint: Endpoint, request: Request, arguments: dict[str, Any]) -> Response:
    with http.interactive():
        return endpoint(request, **arguments)


def _without_calls(endpoint: Endpoint, request: Request, arguments: dict[str, Any]) -> Response:
    with http.no_calls():
        return endpoint(request, **arguments)


def _account(request: Request) -> int:
    """The account whose share of the threads a request uses; `NO_ACCOUNT` for all requests without a session."""
    browser_session = request.state.browser.session
    return browser_session.account_id if browser_session is not None else NO_ACCOUNT


@contextmanager
def sign_in_slot() -> Iterator[None]:
    """One of the concurrent sign-ins of all web processes together; raises `BusyError` if none is free."""
    with concurrency_slot("sign-in", MAX_SIGN_INS) as is_free:
        if not is_free:
            raise BusyError(own_share=False, retry_after=5)
        yield
