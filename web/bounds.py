"""What no request may go beyond: a body of 1 MiB, ten seconds to send it, and some seconds to make a page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.numbers import whole_number
from runtime.settings import settings
from store.database import limited_statements
from web.problems import problem
from webhooks.bodies import BODY_LIMIT, BODY_SECONDS
from worker.vendor import INTERACTIVE_SECONDS

log = structlog.get_logger()
# Answered in their own time; their statements are limited all the same.
UNCUT = ("/export/", "/metrics", "/panel/records/", "/v1/")
# Receivers have connections with limits of their own.
UNLIMITED = "/webhooks/"
CALLING_VENDORS = ("/callback/", "/connect", "/settings", "/signin/")
# A form may have to change all rows of an organisation, and must not end half-way because that takes long.
FORM_STATEMENT_SECONDS = 60.0


class BeyondError(Exception):
    """A request went beyond its bounds; the status and the text tell its sender."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


def _too_large() -> BeyondError:
    return BeyondError(413, f"A body may have {BODY_LIMIT} bytes.")


class Bounded:
    """Ends requests that are too large or too slow, whatever they ask for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        until, size, whole, begun = asyncio.get_running_loop().time() + BODY_SECONDS, 0, False, False

        async def received() -> Message:
            nonlocal size, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise BeyondError(408, f"A body may take {BODY_SECONDS} s to come.") from None
            size += len(message.get("body", b""))
            if size > BODY_LIMIT:
                raise _too_large()
            whole = not message.get("more_body", False)
            return message

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            if _announced(scope) > BODY_LIMIT:
                raise _too_large()
            await self.app(scope, received, sent)
        except BeyondError as error:
            if not begun:
                to_vendor = scope["path"].startswith("/webhooks/")
                answer = Response(status_code=error.status) if to_vendor else problem(error.status, str(error))
                await answer(scope, receive, send)


def _announced(scope: Scope) -> int:
    """The length that the request's head claims; 0 where it claims none."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            size = whole_number(value.decode("latin-1"))
            return BODY_LIMIT + 1 if size is None else size
    return 0


class PageDeadline:
    """Limits the statements of every request, and ends a page that takes too long with a 503: something hangs.

    Its statements end by themselves before that; what hangs without ending is left behind in its thread. Files,
    answers that are held back on purpose, and forms, which must not be answered before they are done, are not cut.
    """

    def __init__(self, app: ASGIApp, late: Callable[[Request], Response]) -> None:
        self.app = app
        self.late = late

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"].startswith(UNLIMITED):
            await self.app(scope, receive, send)
            return
        is_read = scope["method"] in {"GET", "HEAD"}
        if not is_read or scope["path"].startswith(UNCUT):
            with limited_statements(settings().page_seconds if is_read else FORM_STATEMENT_SECONDS):
                await self.app(scope, receive, send)
            return
        await self._serve_within(2 * settings().page_seconds, scope, receive, send)

    async def _serve_within(self, seconds: float, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(CALLING_VENDORS):
            seconds += INTERACTIVE_SECONDS
        begun = late = False

        async def sent(message: Message) -> None:
            nonlocal begun
            if not late:
                begun = True
                await send(message)

        async def serve() -> None:
            await self.app(scope, receive, sent)

        with limited_statements(settings().page_seconds):
            serving = asyncio.create_task(serve())
        try:
            await asyncio.wait({serving}, timeout=seconds)
            if begun or serving.done():
                await serving
                return
        finally:
            serving.cancel()
        late = True
        serving.add_done_callback(_note_end)
        log.warning("page.late", seconds=seconds)
        await self.late(Request(scope, receive))(scope, receive, send)


def _note_end(serving: asyncio.Task[None]) -> None:
    """Whatever became of a page that nobody waits for any more, its error was looked at."""
    if not serving.cancelled() and (error := serving.exception()) is not None:
        log.info("page.late_error", error=type(error).__name__)
