"""Errors as `application/problem+json` (RFC 9457): what happened, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from store.database import UNAVAILABLE

TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    413: "Content too large",
    429: "Too many requests",
    502: "Bad gateway",
    503: "Unavailable",
}


class ProblemError(Exception):
    """An answer that is an error; `detail` is written for whoever reads it. `retry_after` in seconds."""

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


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


def install(app: FastAPI, answer: Callable[..., Response] = plain) -> None:
    """Have every error of `app` answered as `answer` writes it: a problem document if nothing else is said."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return answer(request, error.status, error.detail, error.retry_after)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        said = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
        return answer(request, 400, said)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return answer(request, error.status_code, str(error.detail))

    async def away(request: Request, _: Exception) -> Response:
        return answer(request, 503, "The database does not answer; try again in a moment.")

    app.add_exception_handler(ProblemError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, away)
