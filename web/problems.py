"""Errors as `application/problem+json` (RFC 9457): what happened, where, and what to do."""

from __future__ import annotations

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from store.database import UNAVAILABLE

TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    404: "Not found",
    405: "Method not allowed",
    413: "Content too large",
    503: "Unavailable",
}


class ProblemError(Exception):
    """An answer that is an error; `detail` is written for whoever reads it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def problem(status: int, detail: str) -> Response:
    """A problem document."""
    body = {"type": "about:blank", "title": TITLES.get(status, "Error"), "status": status, "detail": detail}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return Response(orjson.dumps(body), status, headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Have every error of `app` answered as a problem document."""

    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return problem(error.status, error.detail)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        said = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
        return problem(400, said)

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, str(error.detail))

    async def away(_: Request, __: Exception) -> Response:
        return problem(503, "The database does not answer; try again in a moment.")

    app.add_exception_handler(ProblemError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, away)
