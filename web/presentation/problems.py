"""Errors as `application/problem+json` (RFC 9457): what happened, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from runtime.validation_messages import describe_error
from store.db.database import INVALID_VALUE_ERRORS, POOL_FULL_ERRORS, UNAVAILABLE_ERRORS
from web.middleware import refusals
from web.middleware.refusals import RefusalReason
from web.state import web_state

log = structlog.get_logger()
BUSY_MESSAGE = "Patina is busy. Try again in 2 seconds."
BUSY_SECONDS = 2
# Slows down clients that repeat refused requests at once. Clients that wait between requests do not notice.
TARPIT_SECONDS = 2.0
UNSTORABLE_MESSAGE = "Something in this request can't be stored: a character or a number out of range."
FAILED_MESSAGE = "Something went wrong in Patina. Try again in a moment; the log has the details."
UNAVAILABLE_MESSAGE = "Patina is temporarily unavailable. Try again in a moment."
TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    413: "Content too large",
    422: "Invalid request",
    429: "Too many requests",
    500: "Something went wrong",
    502: "Bad gateway",
    503: "Unavailable",
}
NO_SUCH_RECORD_TYPE = "no such record type"
WRONG_SCOPE = "the API key has another scope"


class ProblemError(Exception):
    """An error response; `detail` is shown to the client or the person. `retry_after` in seconds.

    `reason` is for the log, if the status alone does not tell it. The response is delayed if `is_delayed`, and always
    for a 429.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        retry_after: int | None = None,
        reason: RefusalReason | None = None,
        is_delayed: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after
        self.reason = reason
        self.is_delayed = is_delayed or status == 429


class ProblemSchema(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


def problem_responses(**descriptions: str) -> dict[int | str, dict[str, Any]]:
    """The error responses of an endpoint for OpenAPI, by `_404="no such …"`; adds those that all endpoints have."""
    all_descriptions = {
        "_400": "a parameter is invalid",
        "_401": "no API key, or one that is unknown or revoked",
        "_429": "too many requests with this key or from this address, or too many concurrent requests of this account;"
        " see Retry-After",
        "_503": "Patina is busy, or the database is unavailable",
        **descriptions,
    }
    return {
        int(status[1:]): {
            "description": description,
            "content": {"application/problem+json": {"schema": ProblemSchema.model_json_schema()}},
        }
        for status, description in sorted(all_descriptions.items())
    }


def problem(status: int, detail: str, retry_after: int | None = None) -> Response:
    """A problem document."""
    body = {"type": "about:blank", "title": TITLES.get(status, "Error"), "status": status, "detail": detail}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return Response(orjson.dumps(body), status, headers, media_type="application/problem+json")


def describe_validation_errors(errors: Sequence[Any]) -> str:
    """The errors of a request's parameters, each with the parameter's name."""
    return "; ".join(f"{error['loc'][-1]}: {describe_error(error)}" for error in errors)


async def delay_refusal(request: Request) -> None:
    """Wait for a moment before a refusal is sent, which slows down clients that repeat refused requests at once."""
    await web_state(request).capacity.tarpit.delay(TARPIT_SECONDS)


def install(
    app: FastAPI,
    error_response: Callable[..., Response],
    invalid_parameters_response: Callable[[Request, Sequence[Any]], Response],
) -> None:
    """Register the exception handlers of `app`.

    `error_response(request, status, detail, retry_after=None)` makes the response for an error,
    `invalid_parameters_response` the one for parameters that do not validate.
    """

    async def handle_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        if error.reason is not None:
            refusals.set_reason(request.scope, error.reason)
        if error.is_delayed:
            await delay_refusal(request)
        return error_response(request, error.status, error.detail, error.retry_after)

    async def handle_invalid_parameters(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return invalid_parameters_response(request, error.errors())

    def handle_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return error_response(request, error.status_code, str(error.detail))

    async def handle_unavailable(request: Request, _: Exception) -> Response:
        return error_response(request, 503, UNAVAILABLE_MESSAGE)

    async def handle_pool_full(request: Request, _: Exception) -> Response:
        return error_response(request, 503, BUSY_MESSAGE, BUSY_SECONDS)

    async def handle_unstorable(request: Request, error: Exception) -> Response:
        route = getattr(request.scope.get("route"), "path", "")
        log.warning("input.unstorable", error=type(error).__name__, route=route)
        refusals.set_reason(request.scope, RefusalReason.INPUT)
        return error_response(request, 400, UNSTORABLE_MESSAGE)

    app.add_exception_handler(ProblemError, handle_problem)
    app.add_exception_handler(RequestValidationError, handle_invalid_parameters)
    app.add_exception_handler(HTTPException, handle_http_error)
    _add_handlers(app, UNAVAILABLE_ERRORS, handle_unavailable)
    _add_handlers(app, POOL_FULL_ERRORS, handle_pool_full)
    _add_handlers(app, INVALID_VALUE_ERRORS, handle_unstorable)


def _add_handlers(
    app: FastAPI, error_types: Iterable[type[Exception]], handler: Callable[[Request, Exception], Any]
) -> None:
    for error_type in error_types:
        app.add_exception_handler(error_type, handler)
