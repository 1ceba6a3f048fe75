"""What no request may go beyond: a body of 1 MiB, and ten seconds to send it."""

from __future__ import annotations

import asyncio

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.problems import problem
from webhooks.bodies import BODY_LIMIT, BODY_SECONDS


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
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0
