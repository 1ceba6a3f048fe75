"""Limits for every request: valid input, a body of at most 1 MiB within ten seconds, and a deadline for pages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.numbers import whole_number
from runtime.settings import settings
from store.db.database import statement_timeout
from web.middleware import input_validation, refusals
from web.middleware.input_validation import FormScanner
from web.middleware.refusals import RefusalReason
from web.presentation.problems import problem
from webhooks.request_limits import MAX_BODY_BYTES, MAX_BODY_SECONDS
from worker.vendors.http import INTERACTIVE_SECONDS

log = structlog.get_logger()
# These responses have no deadline; only their statements have a timeout.
WITHOUT_DEADLINE = ("/export/", "/metrics", "/panel/records/", "/v1/")
# Webhook endpoints have connections with timeouts of their own.
WITHOUT_TIMEOUT = "/webhooks/"
CALLING_VENDORS = ("/callback/", "/connect", "/settings", "/signin/")
# A form may change all rows of an organisation, which must not be aborted half-way.
FORM_STATEMENT_SECONDS = 60.0


class RequestLimitError(Exception):
    """A request exceeded a limit. Status and message are for the client, the reason for the log."""

    def __init__(self, status: int, message: str, reason: RefusalReason = RefusalReason.SIZE) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def _too_large() -> RequestLimitError:
    return RequestLimitError(413, f"The body may have at most {MAX_BODY_BYTES} bytes.")


def _invalid(message: str, reason: RefusalReason = RefusalReason.INPUT) -> RequestLimitError:
    return RequestLimitError(400, message, reason)


class RequestLimitMiddleware:
    """Refuses requests that are too large or too slow, or that contain invalid input, whatever their path is.

    `error_response` makes the response for an error.
    """

    def __init__(self, app: ASGIApp, error_response: Callable[[Request, int, str], Response]) -> None:
        self.app = app
        self.error_response = error_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        head = _Head(scope)
        scanner: FormScanner | None = None
        deadline = asyncio.get_running_loop().time() + MAX_BODY_SECONDS
        size, is_complete, has_started = 0, False, False

        async def receive_limited() -> Message:
            nonlocal size, is_complete, scanner
            if is_complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise RequestLimitError(408, f"The body must arrive within {MAX_BODY_SECONDS} seconds.") from None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise _too_large()
            scanner = scanner or FormScanner(head.content_type)
            if scanner.has_nul(chunk):
                raise _invalid(input_validation.NUL_MESSAGE)
            is_complete = not message.get("more_body", False)
            return message

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            head.check(scope)
            await self.app(scope, receive_limited, send_and_note)
        except RequestLimitError as error:
            refusals.set_reason(scope, error.reason)
            if not has_started:
                await self._refuse(scope, error)(scope, receive, send)

    def _refuse(self, scope: Scope, error: RequestLimitError) -> Response:
        if scope["path"].startswith("/webhooks/"):
            return Response(status_code=error.status)
        if error.reason is RefusalReason.SIZE:
            return problem(error.status, str(error))
        return self.error_response(Request(scope), error.status, str(error))


class _Head:
    """The headers that are checked."""

    def __init__(self, scope: Scope) -> None:
        self.size, self.content_type, self.hosts = 0, b"", list[bytes]()
        for name, value in scope["headers"]:
            if name == b"host":
                self.hosts.append(value)
            elif name == b"content-type":
                self.content_type = value
            elif name == b"content-length":
                content_length = whole_number(value.decode("latin-1"))
                self.size = MAX_BODY_BYTES + 1 if content_length is None else content_length

    def check(self, scope: Scope) -> None:
        """Raise `RequestLimitError` for an unknown host, invalid input, or a body that is too large."""
        if not input_validation.is_allowed_host(scope, self.hosts):
            raise _invalid(input_validation.unknown_host_message(), RefusalReason.HOST)
        if input_validation.has_nul_in_url(scope):
            raise _invalid(input_validation.NUL_MESSAGE)
        if self.size > MAX_BODY_BYTES:
            raise _too_large()
        if self.content_type and FormScanner(self.content_type).has_unsupported_charset:
            raise _invalid(input_validation.CHARSET_MESSAGE)


class PageDeadlineMiddleware:
    """Sets the statement timeout of every request, and answers 503 for a page that takes too long.

    The statements of a page time out first, so beyond the deadline something else hangs; it is abandoned in its thread.
    Exports, held panel requests and forms have no deadline: a form must not be answered before it is done.
    """

    def __init__(self, app: ASGIApp, timeout_response: Callable[[Request], Response]) -> None:
        self.app = app
        self.timeout_response = timeout_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"].startswith(WITHOUT_TIMEOUT):
            await self.app(scope, receive, send)
            return
        is_read = scope["method"] in {"GET", "HEAD"}
        if not is_read or scope["path"].startswith(WITHOUT_DEADLINE):
            with statement_timeout(settings().page_statement_timeout_seconds if is_read else FORM_STATEMENT_SECONDS):
                await self.app(scope, receive, send)
            return
        await self._serve_with_deadline(2 * settings().page_statement_timeout_seconds, scope, receive, send)

    async def _serve_with_deadline(self, seconds: float, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(CALLING_VENDORS):
            seconds += INTERACTIVE_SECONDS
        has_started = is_late = False

        async def send_unless_late(message: Message) -> None:
            nonlocal has_started
            if not is_late:
                has_started = True
                await send(message)

        async def serve() -> None:
            await self.app(scope, receive, send_unless_late)

        with statement_timeout(settings().page_statement_timeout_seconds):
            task = asyncio.create_task(serve())
        try:
            await asyncio.wait({task}, timeout=seconds)
            if has_started or task.done():
                await task
                return
        finally:
            task.cancel()
        is_late = True
        task.add_done_callback(_log_late_error)
        log.warning("page.late", seconds=seconds)
        await self.timeout_response(Request(scope, receive))(scope, receive, send)


def _log_late_error(task: asyncio.Task[None]) -> None:
    """Retrieve and log the error of an abandoned page."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.info("page.late_error", error=type(error).__name__)
