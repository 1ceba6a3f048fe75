"""uvicorn's HTTP protocol with bounds on a request's head: the parser itself keeps whatever comes, for ever.

A head may have 64 KiB and a hundred lines, and ten seconds to come; a request that goes beyond is answered and the
connection closed. A complete head that came in one piece costs one addition a line more than without bounds.
"""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from runtime.settings import settings
from web import refusals
from web.client_address import UNKNOWN
from web.refusals import Reason
from webhooks.bodies import BODY_SECONDS

HEAD_LIMIT = 64 * 1024
HEADER_LINES = 100
HEAD_SECONDS = 10.0
# A body that the app waits for is ended by the app; this is for one that nobody reads.
REQUEST_SECONDS = HEAD_SECONDS + 2 * BODY_SECONDS
HEADERS = (
    b"content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\ncache-control: no-store\r\n"
    b"content-security-policy: default-src 'none'; frame-ancestors 'none'\r\nconnection: close\r\n"
)
TEXTS = {
    400: (Reason.INPUT, b"This is not a valid HTTP request.\n"),
    408: (Reason.SIZE, b"A request's head may take 10 seconds to come.\n"),
    431: (Reason.SIZE, b"A request's head may have 64 KiB and 100 lines.\n"),
    503: (Reason.BUSY, b"Patina is busy. Try again in a moment.\n"),
}


class HeadRefusedError(Exception):
    """Ends the parsing of a request whose head is refused."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    _timer: TimerHandle | None = None
    _in_message = False
    _in_head = True
    _has_ended = False
    _head_size = 0
    _refused_with = 400

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        self._has_ended = False
        super().data_received(data)
        if not self._in_message:
            return
        if self._in_head:
            # Of a piece in which another request ended, nobody knows how much belongs to this one.
            self._head_size += 0 if self._has_ended else len(data)
            if self._head_size > HEAD_LIMIT:
                self._refuse(431)
                return
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    @override
    def on_message_begin(self) -> None:
        self._in_message = self._in_head = True
        self._head_size = 0
        super().on_message_begin()

    @override
    def on_headers_complete(self) -> None:
        size = len(self.url)
        for name, value in self.headers:
            size += len(name) + len(value)
        if size > HEAD_LIMIT or len(self.headers) > HEADER_LINES:
            self._refused_with = 431
            raise HeadRefusedError
        if len(self.connections) > settings().web_connections:
            self._refused_with = 503
            raise HeadRefusedError
        self._in_head = False
        super().on_headers_complete()

    @override
    def on_message_complete(self) -> None:
        self._in_message = False
        self._in_head = self._has_ended = True
        self._stop_timer()
        super().on_message_complete()

    @override
    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused, or we did while it parsed."""
        self._refuse(self._refused_with)

    def _refuse(self, status: int) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        reason, text = TEXTS[status]
        client = self.client[0] if self.client else UNKNOWN
        refusals.SAMPLES.note(reason, client, route="head", status=status)
        retry = b"retry-after: 5\r\n" if status == 503 else b""
        length = b"content-length: " + str(len(text)).encode() + b"\r\n"
        self.transport.write(b"".join([STATUS_LINE[status], HEADERS, retry, length, b"\r\n", text]))
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        """The head has not come whole in time; or the head has, and a body goes on for ever."""
        self._timer = None
        if self.transport.is_closing():
            return
        if not self._in_message:
            self.transport.close()
        elif self._in_head:
            self._refuse(408)
        else:
            self._timer = self.loop.call_later(REQUEST_SECONDS - HEAD_SECONDS, self._body_is_late)

    def _body_is_late(self) -> None:
        self._timer = None
        if self._in_message and not self.transport.is_closing():
            self.transport.close()
