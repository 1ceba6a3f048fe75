"""Errors as `application/problem+json` (RFC 9457): what happened, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from store.database import POOL_FULL, UNAVAILABLE, UNSTORABLE
from web import refusals
from web.refusals import Reason

log = structlog.get_logger()
BUSY_TEXT = "Patina is busy. Try again in 2 seconds."
BUSY_SECONDS = 2
# Whoever repeats at once what was refused is slowed down by it; a browser or a client that waits does not notice.
PAUSE_SECONDS = 2.0
UNSTORABLE_TEXT = "Something in this request can't be stored: a character or a number out of range."
FAILED_TEXT = "Something went wrong in Patina. Try again in a moment; the log says what it was."
UNAVAILABLE_TEXT = "Patina is temporarily unavailable. Try again in a moment."
TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    413: "Content too large",
    422: "Invalid request",
    429: "Too many requests",
    500: "Something went wrong",
    502: "Bad gateway",
    503: "Unavailable",
}


class ProblemError(Exception):
    """An answer that is an error; `detail` is written for whoever reads it. `retry_after` in seconds.

    `reason` is for the log, where the status alone does not say it. A 429 is answered after a pause, and so is whatever
    `is_paused`.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        retry_after: int | None = None,
        reason: Reason | None = None,
        is_paused: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after
        self.reason = reason
        self.is_paused = is_paused or status == 429


def problem(status: int, detail: str, retry_after: int | None = None) -> Response:
    """A problem document."""
    body = {"type": "about:blank", "title": TITLES.get(status, "Error"), "status": status, "detail": detail}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return Response(orjson.dumps(body), status, headers, media_type="application/problem+json")


def plain(_: Request, status: int, detail: str, retry_after: int | None = None) -> Response:
    """A problem document, whoever asks."""
    return problem(status, detail, retry_after)


def in_api_words(errors: Sequence[Any]) -> str:
    """What is wrong with a request's parameters, each by its name."""
    return "; ".join(f"{error['loc'][-1]}: {error['msg']}" for error in errors)


def plain_malformed(_: Request, errors: Sequence[Any]) -> Response:
    """A problem document about parameters, whoever asks."""
    return problem(400, in_api_words(errors))


def install(
    app: FastAPI,
    answer: Callable[..., Response] = plain,
    malformed: Callable[[Request, Sequence[Any]], Response] = plain_malformed,
) -> None:
    """Have every error of `app` answered as `answer` writes it: a problem document if nothing else is said.

    `malformed` answers parameters that make no sense.
    """

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        if error.reason is not None:
            refusals.mark(request.scope, error.reason)
        if error.is_paused:
            await request.app.state.capacity.pauses.take(PAUSE_SECONDS)
        return answer(request, error.status, error.detail, error.retry_after)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return malformed(request, error.errors())

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return answer(request, error.status_code, str(error.detail))

    async def away(request: Request, _: Exception) -> Response:
        return answer(request, 503, UNAVAILABLE_TEXT)

    async def full(request: Request, _: Exception) -> Response:
        return answer(request, 503, BUSY_TEXT, BUSY_SECONDS)

    async def unstorable(request: Request, error: Exception) -> Response:
        route = getattr(request.scope.get("route"), "path", "")
        log.warning("input.unstorable", error=type(error).__name__, route=route)
        refusals.mark(request.scope, Reason.INPUT)
        return answer(request, 400, UNSTORABLE_TEXT)

    app.add_exception_handler(ProblemError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    _handle(app, UNAVAILABLE, away)
    _handle(app, POOL_FULL, full)
    _handle(app, UNSTORABLE, unstorable)


def _handle(app: FastAPI, kinds: Iterable[type[Exception]], handler: Callable[[Request, Exception], Any]) -> None:
    for kind in kinds:
        app.add_exception_handler(kind, handler)
