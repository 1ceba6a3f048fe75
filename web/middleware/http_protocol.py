"""uvicorn's HTTP protocol with limits for the head of a request, because the parser itself has none.

A head may have 64 KiB and 100 header lines, and must arrive within ten seconds. Beyond a limit the client gets an error
response, and the connection is closed. A head that arrives in one piece costs one more addition per header line.
"""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from runtime.settings import settings
from web.middleware import refusals
from web.middleware.client_address import UNKNOWN
from web.middleware.refusals import RefusalReason
from webhooks.request_limits import MAX_BODY_SECONDS

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADER_LINES = 100
MAX_HEAD_SECONDS = 10.0
# The app limits the bodies that it reads. This limit is for bodies that nobody reads.
MAX_REQUEST_SECONDS = MAX_HEAD_SECONDS + 2 * MAX_BODY_SECONDS
HEADERS = (
    b"content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\ncache-control: no-store\r\n"
    b"content-security-policy: default-src 'none'; frame-ancestors 'none'\r\nconnection: close\r\n"
)
ERRORS = {
    400: (RefusalReason.INPUT, b"This is not a valid HTTP request.\n"),
    408: (RefusalReason.SIZE, b"The head of a request must arrive within 10 seconds.\n"),
    431: (RefusalReason.SIZE, b"The head of a request may have at most 64 KiB and 100 header lines.\n"),
    503: (RefusalReason.BUSY, b"Patina is busy. Try again in a moment.\n"),
}


class HeadRefusedError(Exception):
    """Aborts the parsing of a request whose head is refused."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection with limits for request heads."""

    _timer: TimerHandle | None = None
    _in_message = False
    _in_head = True
    _message_ended = False
    _head_size = 0
    _refusal_status = 400

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(MAX_HEAD_SECONDS, self._on_head_timeout)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        self._message_ended = False
        super().data_received(data)
        if not self._in_message:
            return
        if self._in_head:
            # If another request ended in this piece, it is unknown how much of it belongs to this one.
            self._head_size += 0 if self._message_ended else len(data)
            if self._head_size > MAX_HEAD_BYTES:
                self._refuse(431)
                return
        if self._timer is None:
            self._timer = self.loop.call_later(MAX_HEAD_SECONDS, self._on_head_timeout)

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
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADER_LINES:
            self._refusal_status = 431
            raise HeadRefusedError
        if len(self.connections) > settings().web_max_connections:
            self._refusal_status = 503
            raise HeadRefusedError
        self._in_head = False
        super().on_headers_complete()

    @override
    def on_message_complete(self) -> None:
        self._in_message = False
        self._in_head = self._message_ended = True
        self._stop_timer()
        super().on_message_complete()

    @override
    def send_400_response(self, msg: str) -> None:
        """Respond to a request that the parser refused, or that was refused during parsing."""
        self._refuse(self._refusal_status)

    def _refuse(self, status: int) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        reason, message = ERRORS[status]
        client = self.client[0] if self.client else UNKNOWN
        refusals.SAMPLES.record(reason, client, route="head", status=status)
        retry = b"retry-after: 5\r\n" if status == 503 else b""
        length = b"content-length: " + str(len(message)).encode() + b"\r\n"
        self.transport.write(b"".join([STATUS_LINE[status], HEADERS, retry, length, b"\r\n", message]))
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_head_timeout(self) -> None:
        """Refuse an incomplete head; give a body more time."""
        self._timer = None
        if self.transport.is_closing():
            return
        if not self._in_message:
            self.transport.close()
        elif self._in_head:
            self._refuse(408)
        else:
            self._timer = self.loop.call_later(MAX_REQUEST_SECONDS - MAX_HEAD_SECONDS, self._on_body_timeout)

    def _on_body_timeout(self) -> None:
        self._timer = None
        if self._in_message and not self.transport.is_closing():
            self.transport.close()
