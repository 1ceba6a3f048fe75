"""What no request may go beyond: text that can be kept, a body of 1 MiB in ten seconds, some seconds to make a page."""

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
from web import odd_input, refusals
from web.odd_input import FormText
from web.problems import problem
from web.refusals import Reason
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
    """A request went beyond its bounds; the status and the text tell its sender, the reason the log."""

    def __init__(self, status: int, said: str, reason: Reason = Reason.SIZE) -> None:
        super().__init__(said)
        self.status = status
        self.reason = reason


def _too_large() -> BeyondError:
    return BeyondError(413, f"A body may have {BODY_LIMIT} bytes.")


def _odd(said: str, reason: Reason = Reason.INPUT) -> BeyondError:
    return BeyondError(400, said, reason)


class Bounded:
    """Ends requests that are too large, too slow, or hold what nothing here can be, whatever they ask for.

    `answer` writes the error for whoever asked.
    """

    def __init__(self, app: ASGIApp, answer: Callable[[Request, int, str], Response]) -> None:
        self.app = app
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        head = _Head(scope)
        form: FormText | None = None
        until, size, whole, begun = asyncio.get_running_loop().time() + BODY_SECONDS, 0, False, False

        async def received() -> Message:
            nonlocal size, whole, form
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise BeyondError(408, f"A body may take {BODY_SECONDS} s to come.") from None
            piece = message.get("body", b"")
            size += len(piece)
            if size > BODY_LIMIT:
                raise _too_large()
            form = form or FormText(head.content_type)
            if form.has_nul(piece):
                raise _odd(odd_input.NUL_TEXT)
            whole = not message.get("more_body", False)
            return message

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            head.check(scope)
            await self.app(scope, received, sent)
        except BeyondError as error:
            refusals.mark(scope, error.reason)
            if not begun:
                await self._refuse(scope, error)(scope, receive, send)

    def _refuse(self, scope: Scope, error: BeyondError) -> Response:
        if scope["path"].startswith("/webhooks/"):
            return Response(status_code=error.status)
        if error.reason is Reason.SIZE:
            return problem(error.status, str(error))
        return self.answer(Request(scope), error.status, str(error))


class _Head:
    """What the headers say that bounds go by."""

    def __init__(self, scope: Scope) -> None:
        self.size, self.content_type, self.hosts = 0, b"", list[bytes]()
        for name, value in scope["headers"]:
            if name == b"host":
                self.hosts.append(value)
            elif name == b"content-type":
                self.content_type = value
            elif name == b"content-length":
                announced = whole_number(value.decode("latin-1"))
                self.size = BODY_LIMIT + 1 if announced is None else announced

    def check(self, scope: Scope) -> None:
        """Raise `BeyondError` for a head that says what no request may."""
        if not odd_input.is_known_host(scope, self.hosts):
            raise _odd(odd_input.host_text(), Reason.HOST)
        if odd_input.is_odd_address(scope):
            raise _odd(odd_input.NUL_TEXT)
        if self.size > BODY_LIMIT:
            raise _too_large()
        if self.content_type and FormText(self.content_type).has_odd_charset:
            raise _odd(odd_input.CHARSET_TEXT)


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
